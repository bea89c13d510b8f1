"""Objectives of a training: each against closed forms, direct sums and finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from oracles import linear_gaussian
from zprime import objectives
from zprime.errors import UsageError
from zprime.latent import Mixture
from zprime.likelihoods import Gaussian
from zprime.objectives import IWAE, RAE, Elbo, FreeBits, WithMMD, mmd
from zprime.rng import stream
from zprime.train_settings import TrainSettings
from zprime.vae import VAE, VAESettings

SMALL = VAESettings(latents=3, hidden=(8,))


def rows(n: int = 12, width: int = 4) -> Tensor:
    return torch.randn(n, width, generator=stream(0, "rows"), dtype=torch.float64)


def built(settings: VAESettings = SMALL, **more) -> VAE:
    return VAE.build((4,), settings, seed=1, **more).double()


def mixture() -> Mixture:
    mean = torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, 0.3]])
    return Mixture(torch.tensor([0.3, 0.7]).log(), mean, torch.full((2, 3), 0.8))


class Known(nn.Module):
    """An encoder that answers a linear function of the row, and fixed standard deviations."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight), nn.Parameter(scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x @ self.weight.T
        return mean, self.scale.expand_as(mean)


def test_iwae_of_one_draw_is_the_elbo_of_that_draw() -> None:
    """Under a mixture the KL is by the same draw in both."""
    vae, x = built(prior=mixture()), rows()
    iwae, elbo = IWAE(1), Elbo()
    noise = iwae.noise(vae, x, stream(3))
    for beta in (1.0, 0.5):
        a, b = (o.rows(vae, x, noise, beta=beta) for o in (iwae, elbo))
        torch.testing.assert_close(a, b)
        grads = [torch.autograd.grad(t.mean(), list(vae.parameters())) for t in (a, b)]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_iwae_of_one_draw_has_the_elbo_as_its_mean(posterior: str) -> None:
    """Under N(0, I) the KL of the ELBO is a closed form."""
    vae, x = built(replace(SMALL, posterior=posterior)), rows(2).repeat_interleave(20_000, 0)
    with torch.no_grad():
        for p in vae.encoder.parameters():
            p.mul_(3)
        found = IWAE(1).drawn(vae, x, stream(0), beta=1.0)
        exact = Elbo().drawn(vae, x, stream(1), beta=1.0)
    gap = (found - exact).reshape(2, -1)
    assert (gap.mean(1).abs() < 5 * gap.std(1) / 20_000**0.5).all()


def test_iwae_falls_with_draws_towards_the_evidence() -> None:
    """On a linear model log p(x) is known; q is wrong by its scale."""
    truth = linear_gaussian(4, 2)
    x, _ = truth.sample(40)
    vae = truth.vae(widen=1.6)
    evidence = float(truth.log_evidence(x).mean())
    with torch.no_grad():
        found = [
            -float(IWAE(k).drawn(vae, x.repeat_interleave(400, 0), stream(k), beta=1.0).mean()) for k in (1, 4, 16, 128)
        ]
    assert found == sorted(found)
    assert found[0] < evidence - 0.1
    assert found[-1] == pytest.approx(evidence, abs=0.02)


def test_free_bits_are_the_largest_of_lambda_and_each_dimensions_mean_kl() -> None:
    x = rows(50, 3)
    encoder = Known(
        torch.diag(torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)), torch.tensor([1.0, 0.9, 0.2]).double()
    )
    vae = VAE(encoder, nn.Linear(3, 3).double(), Gaussian().double(), latents=3)
    mean, scale = vae.encode(x)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(0.0, 1.0)
    ).mean(0)
    least = 0.3
    assert [bool(k < least) for k in kl] == [True, True, False]
    noise = torch.zeros(50, 1, 3, dtype=torch.float64)
    found = FreeBits(least).rows(vae, x, noise, beta=2.0)
    expected = 2 * (2 * least + kl[2]) - vae.decode(mean).log_prob(x)
    torch.testing.assert_close(found, expected)
    still = FreeBits(least).rows(vae, x, noise, beta=1.0).mean() + vae.decode(vae.encode(x)[0]).log_prob(x).mean()
    grads = torch.autograd.grad(still, [encoder.weight, encoder.scale])
    assert grads[0][:2].abs().max() < 1e-12  # of dimensions below lambda there is none
    assert grads[1][:2].abs().max() < 1e-12
    assert grads[0][2, 2].abs() > 0.1
    assert grads[1][2].abs() > 0.1


def test_no_free_bits_are_the_elbo() -> None:
    vae, x = built(), rows()
    noise = Elbo().noise(vae, x, stream(2))
    a, b = (o.rows(vae, x, noise, beta=0.7).mean() for o in (FreeBits(0.0), Elbo()))
    torch.testing.assert_close(a, b)


def test_free_bits_under_a_prior_without_a_kl_of_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"free_bits: expected a prior that is one Gaussian of independent dimensions"):
        FreeBits(0.1).check(built(prior=mixture()))
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.ones(3), 2 * torch.ones(3)), 1)
    vae, x = built(prior=prior), rows()
    FreeBits(0.1).check(vae)
    noise = Elbo().noise(vae, x, stream(2))
    a, b = (o.rows(vae, x, noise, beta=1.0).mean() for o in (FreeBits(0.0), Elbo()))
    torch.testing.assert_close(a, b)


def test_mmd_is_the_direct_double_sum() -> None:
    a, b = rows(6, 2), 1 + rows(12, 2)[6:]

    def k(x: Tensor, y: Tensor) -> float:
        return sum(2 * 2 * s / (2 * 2 * s + float((x - y).square().sum())) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    own = sum(k(t[i], t[j]) for t in (a, b) for i in range(6) for j in range(6) if i != j) / 30
    cross = sum(k(x, y) for x in a for y in b) / 36
    assert float(mmd(a, b)) == pytest.approx(own - 2 * cross)
    assert float(mmd(a[:1], b[:1])) == 0


def test_mmd_of_equal_distributions_is_about_0_and_of_others_is_not() -> None:
    rng = stream(0)
    draws = [torch.randn(2, 200, 3, generator=rng) for _ in range(60)]
    same = torch.stack([mmd(a, b) for a, b in draws])
    assert abs(float(same.mean())) < 4 * float(same.std()) / 60**0.5
    assert float(mmd(draws[0][0], 1 + draws[0][1])) > 20 * float(same.std())


def test_wae_has_no_kl_and_infovae_has_it() -> None:
    vae, x = built(), rows()
    wae, info = WithMMD(10.0, kl=False), WithMMD(10.0, kl=True)
    noise = wae.noise(vae, x, stream(0))
    mean, scale = vae.encode(x)
    z = mean + scale * noise[:, 0]
    expected = 10 * mmd(z, noise[:, 1]) - vae.decode(z).log_prob(x)
    torch.testing.assert_close(wae.rows(vae, x, noise, beta=1.0), expected)
    torch.testing.assert_close(info.rows(vae, x, noise, beta=0.5), expected + 0.5 * vae.kl(mean, scale, z))


@pytest.mark.parametrize("own", [True, False], ids=["ours", "torch's"])
def test_the_distance_is_to_draws_of_the_prior(own: bool) -> None:
    far = torch.distributions.Independent(torch.distributions.Normal(torch.full((3,), 9.0), torch.ones(3)), 1)
    mean = torch.full((1, 3), 9.0)
    prior = Mixture(torch.zeros(1), mean, torch.ones(1, 3)) if own else far
    wae, vae = WithMMD(1.0, kl=False), built(prior=prior)
    rng = stream(0)
    one, two = (wae.noise(vae, torch.zeros(400, 4), rng) for _ in range(2))
    assert not torch.equal(one[:, 1], two[:, 1])
    assert abs(float(one[:, 1].mean()) - 9) < 0.2
    assert abs(float(one[:, 0].mean())) < 0.2


@pytest.mark.parametrize("regulariser", ["l2", "spectral", "gradient"])
def test_rae_is_reconstruction_code_and_one_thing_on_the_decoder(regulariser: str) -> None:
    vae, x = built(replace(SMALL, posterior="points")), rows()
    z, scale = vae.encode(x)
    assert not scale.any()
    plain = 0.5 * 0.7 * z.square().sum(1) - vae.decode(z).log_prob(x)
    n = 4000 if regulariser == "gradient" else 1
    many = x.repeat_interleave(n, 0)
    with torch.no_grad():
        found = RAE(regulariser, 0.3).drawn(vae, many, stream(0), beta=0.7).reshape(-1, n)
    layers = [m.weight for m in vae.decoder.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 2
    if regulariser == "l2":
        expected = sum(w.square().sum() for w in layers).expand(len(x))
    elif regulariser == "spectral":
        expected = sum(torch.linalg.matrix_norm(w, 2).square() for w in layers).expand(len(x))
    else:
        jacobians = [torch.autograd.functional.jacobian(lambda t: vae.decoder(t[None])[0], row.detach()) for row in z]
        expected = torch.stack([j.square().sum() for j in jacobians])
    error = 5 * found.std(1) / n**0.5 if n > 1 else torch.full((len(x),), 1e-9)
    assert ((found.mean(1) - plain - 0.3 * expected).abs() <= error).all()


OBJECTIVES = {
    "elbo": Elbo(),
    "free bits": FreeBits(0.05),
    "iwae": IWAE(3),
    "wae-mmd": WithMMD(5.0, kl=False),
    "infovae": WithMMD(5.0, kl=True),
    **{f"rae {name}": RAE(name, 0.1) for name in ("l2", "spectral", "gradient")},
}


@pytest.mark.parametrize(("name", "posterior"), [(name, form) for name, o in OBJECTIVES.items() for form in o.forms])
def test_gradients_are_those_of_finite_differences(name: str, posterior: str) -> None:
    objective = OBJECTIVES[name]
    vae, x = built(replace(SMALL, posterior=posterior)), rows()
    noise = objective.noise(vae, x, stream(4))
    loss = objective.rows(vae, x, noise, beta=0.8).mean()
    rng = stream(5)
    for p, grad in zip(vae.parameters(), torch.autograd.grad(loss, list(vae.parameters())), strict=True):
        step = torch.randn(p.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            values = []
            for sign in (1, -2, 1):
                p.add_(sign * 1e-5 * step)
                values.append(float(objective.rows(vae, x, noise, beta=0.8).mean()))
        assert float((grad * step).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("network", ["conv", "residual"])
def test_the_gradient_penalty_of_decoders_of_images_and_its_gradient(network: str) -> None:
    settings = VAESettings(latents=2, network=network, width=2, posterior="points")
    vae = VAE.build((1, 8, 8), settings, seed=1).double()
    x = torch.randn(3, 1, 8, 8, generator=stream(0, "images"), dtype=torch.float64)
    objective = RAE("gradient", 0.3)
    noise = objective.noise(vae, x, stream(4))
    loss = objective.rows(vae, x, noise, beta=0.8)
    with torch.no_grad():
        z, _ = vae.encode(x)
        slope = (vae.decoder(z + 1e-5 * noise[:, 0]) - vae.decoder(z - 1e-5 * noise[:, 0])) / 2e-5
        penalty = 0.3 * slope.square().flatten(1).sum(1)
        plain = 0.4 * z.square().sum(1) - vae.decode(z).log_prob(x)
    torch.testing.assert_close(loss.detach(), plain + penalty, rtol=1e-6, atol=0)
    weight = vae.decoder.get_parameter("dense.0.weight")
    (found,) = torch.autograd.grad(loss.sum(), weight)
    with torch.no_grad():
        values = []
        for by in (1e-5, -2e-5):
            weight[0, 0] += by
            values.append(float(objective.rows(vae, x, noise, beta=0.8).sum()))
    assert float(found[0, 0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_objective_is_chosen_by_name() -> None:
    found = {
        name: objectives.build(TrainSettings(objective=name)) for name in ("elbo", "iwae", "wae-mmd", "infovae", "rae")
    }
    assert [type(o) for o in found.values()] == [Elbo, IWAE, WithMMD, WithMMD, RAE]
    assert [found[n].kl for n in ("wae-mmd", "infovae")] == [False, True]
    assert found["iwae"].vectors == 5
    assert isinstance(objectives.build(TrainSettings(free_bits=0.1)), FreeBits)


@pytest.mark.parametrize(
    ("settings", "form", "text"),
    [
        (
            {"objective": "rae"},
            "diagonal",
            "posterior: objective rae takes points, got diagonal; give --posterior points",
        ),
        ({"objective": "elbo"}, "points", "posterior: objective elbo takes diagonal, full or flow, got points"),
        ({"free_bits": 0.1}, "full", "posterior: free_bits takes diagonal, got full; give --posterior diagonal"),
    ],
)
def test_an_objective_of_another_form_of_posterior_is_refused(settings: dict, form: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        objectives.check_form(TrainSettings(**settings), form)


def test_a_full_posterior_has_the_kl_of_torch() -> None:
    vae, x = built(replace(SMALL, posterior="full")), rows()
    mean, factor = vae.encode(x)
    with torch.no_grad():
        factor = factor + torch.randn(12, 3, 3, generator=stream(2), dtype=torch.float64).tril(-1)
    q = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
    eye = torch.eye(3, dtype=torch.float64)
    for loc, width in (
        (torch.zeros(3), torch.ones(3)),
        (torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 0.5, 1.0])),
    ):
        prior = torch.distributions.Independent(torch.distributions.Normal(loc, width), 1)
        vae.prior = prior
        p = torch.distributions.MultivariateNormal(loc.double(), scale_tril=eye * width.double())
        expected = torch.distributions.kl_divergence(q, p)
        torch.testing.assert_close(vae.kl(mean, factor, mean), expected)
    assert math.isfinite(float(expected.mean().detach()))
