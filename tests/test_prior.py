"""What measures ask of the prior: N(0, I) in closed form, and another one by its own density and draws."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from zprime.latent import Gaussian, Prior
from zprime.measure.prior import prior_kl, prior_log_prob, prior_sample, prior_width, tilt
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

MEAN, SCALE = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 2.0, 1.0]).double()
OTHER = Gaussian(MEAN, SCALE)
Z = torch.randn(4, 5, 3, generator=stream(0, "z"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("prior", "truth"),
    [
        (None, Normal(torch.zeros(3).double(), 1.0)),
        (Prior(3), Normal(torch.zeros(3).double(), 1.0)),
        (OTHER, Normal(MEAN, SCALE)),
    ],
)
def test_density_of_any_prior_at_codes_of_any_shape(prior: Gaussian | None, truth: Normal) -> None:
    torch.testing.assert_close(prior_log_prob(prior, Z), Independent(truth, 1).log_prob(Z))
    torch.testing.assert_close(prior_log_prob(prior, Z[0, 0]), Independent(truth, 1).log_prob(Z[0, 0]))


def test_draws_are_of_the_prior_that_was_given() -> None:
    x = prior_sample(OTHER, (20_000, 3), dtype=torch.float32, rng=stream(0, "draws"))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double().mean(0), MEAN, rtol=0, atol=0.06)
    torch.testing.assert_close(x.double().std(0), SCALE, rtol=0.03, atol=0)
    standard = [prior_sample(p, (5, 3), dtype=torch.float32, rng=stream(0, "draws")) for p in (None, Prior(3))]
    assert torch.equal(*standard)


def test_the_kl_from_any_prior() -> None:
    """In closed form for N(0, I), by draws for another one."""
    p = MemoryPosteriors(Z[0], torch.rand(5, 3, generator=stream(0, "scale"), dtype=torch.float64))
    for prior, loc, scale in ((None, 0 * MEAN, 0 * SCALE + 1), (OTHER, MEAN, SCALE)):
        truth = kl_divergence(Normal(p.mean, p.scale), Normal(loc, scale)).sum(1)
        found = torch.stack([prior_kl(prior, p, rng=stream(i, "kl")) for i in range(400 if prior else 1)])
        torch.testing.assert_close(found.mean(0), truth, rtol=0, atol=0.05 if prior else 1e-12)


def test_the_width_of_any_prior() -> None:
    assert torch.equal(prior_width(None, 3), torch.ones(3).double())
    assert torch.equal(prior_width(Prior(3), 3), torch.ones(3).double())
    torch.testing.assert_close(prior_width(OTHER, 3), SCALE, rtol=0.03, atol=0)


def test_only_the_prior_itself_has_a_tilt_by_a_prior_that_is_not_n_0_i() -> None:
    mean, scale, rng = Z[0], 0.5 + 0 * Z[0], stream(0, "tilt")
    ours = tilt(None, OTHER, mean, scale, draws=3, rng=stream(0, "tilt"))
    assert ours is not None
    assert torch.equal(ours.log_ratio, OTHER.tilt(mean, scale, draws=3, rng=rng).log_ratio)
    assert tilt(OTHER, Prior(3), mean, scale, draws=3, rng=rng) is None
    itself = tilt(OTHER, OTHER, mean, scale, draws=4000, rng=rng)
    assert itself is not None
    assert torch.equal(itself.log_ratio, torch.zeros(5).double())
    torch.testing.assert_close(itself.draws.mean(1), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(itself.draws.std(1), scale, rtol=0.06, atol=0)
