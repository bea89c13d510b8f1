"""A latent distribution under torch's contract, and as a prior in Pyro."""

import pyro
import pytest
import torch
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal, biject_to, kl_divergence

from zprime.latent import Gaussian, Mixture
from zprime.rng import stream


def mixture() -> Mixture:
    rng = stream(0, "as torch")
    tril = torch.tril(0.3 * torch.randn(3, 2, 2, generator=rng).double(), -1) + 0.5 * torch.eye(2).double()
    return Mixture(torch.full((3,), 1 / 3).double().log(), torch.randn(3, 2, generator=rng).double(), tril)


def test_density_is_that_of_torch_s_own_mixture() -> None:
    r = mixture()
    peer = MixtureSameFamily(
        torch.distributions.Categorical(logits=r.components.log_weight),
        MultivariateNormal(r.components.mean, scale_tril=r.components.scale_tril),
    )
    z = torch.randn(4, 5, 2, generator=stream(0, "z")).double()
    torch.testing.assert_close(r.as_torch().log_prob(z), peer.log_prob(z))


def test_shapes_are_those_of_a_multivariate_normal() -> None:
    ours = mixture().as_torch()
    peer = MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert isinstance(ours, Distribution)
    for shape in ((), (3,), (4, 3)):
        a, b = ours.expand(shape), peer.expand(shape)
        assert (a.batch_shape, a.event_shape) == (b.batch_shape, b.event_shape)
        for draws in ((), (5,), (2, 5), (0,)):
            assert a.sample(draws).shape == b.sample(draws).shape
        z = torch.randn(5, *shape, 2)
        assert a.log_prob(z).shape == b.log_prob(z).shape
        assert a.log_prob(z[0, ..., :]).shape == b.log_prob(z[0, ..., :]).shape
    assert ours.expand((3,)).log_prob(torch.zeros(2)).shape == (3,)
    with pytest.raises(ValueError, match="does not broadcast"):
        ours.expand((3,)).expand((2,))


def test_draws_come_from_torch_s_own_generator() -> None:
    r = mixture().as_torch()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        a, b = r.sample((100,)), r.sample((100,))
        torch.manual_seed(1)
        assert torch.equal(r.sample((100,)), a)
    assert not torch.equal(a, b)
    many = r.sample((20_000,))
    torch.testing.assert_close(many.mean(0), mixture().components.mean.mean(0), atol=0.05, rtol=0)


def test_support_and_validation() -> None:
    r = mixture().as_torch(validate_args=True)
    assert biject_to(r.support)(torch.zeros(2)).shape == (2,)
    with pytest.raises(ValueError, match="support"):
        r.log_prob(torch.full((2,), torch.nan))
    with pytest.raises(ValueError, match=r"size|shape"):
        r.log_prob(torch.zeros(3))
    assert not r.has_rsample
    with pytest.raises(NotImplementedError):
        kl_divergence(r, r)


def test_log_prob_has_a_gradient() -> None:
    r = Gaussian(torch.ones(2).double(), 0.5 * torch.ones(2).double()).as_torch()
    z = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    r.log_prob(z).backward()
    torch.testing.assert_close(z.grad, torch.full((2,), 4.0).double())


def test_pyro_takes_it_as_a_prior_and_finds_the_exact_posterior() -> None:
    """z ~ N(1, 0.25 I), x|z ~ N(z, 0.25 I), x = 0: the posterior is N(1/2, 1/8 I)."""
    r = Gaussian(torch.ones(2).double(), 0.5 * torch.ones(2).double()).as_torch()

    def model() -> None:
        z = pyro.sample("z", r)
        pyro.sample("x", pyro.distributions.Normal(z, 0.5).to_event(1), obs=torch.zeros(2).double())

    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        kernel = pyro.infer.NUTS(model, jit_compile=False)
        mcmc = pyro.infer.MCMC(kernel, num_samples=400, warmup_steps=100, disable_progbar=True)
        mcmc.run()
    z = mcmc.get_samples()["z"]
    torch.testing.assert_close(z.mean(0), torch.full((2,), 0.5).double(), atol=0.08, rtol=0)
    torch.testing.assert_close(z.std(0), torch.full((2,), 0.125**0.5).double(), atol=0.06, rtol=0)
