"""ELBO surgery against closed forms and quadrature."""

import math

import pytest
import torch

from oracles import grid, hermite, linear_gaussian, maximum_likelihood
from zprime.errors import NumericalError
from zprime.measure.latents import surgery as cut
from zprime.measure.latents.surgery import scored, surgery
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import Surgery
from zprime.rng import stream


def run(mean: torch.Tensor, scale: torch.Tensor) -> Surgery:
    return surgery(Split("train", MemoryPosteriors(mean, scale)), rng=stream(0, "surgery"))


def test_identical_posteriors_share_no_information() -> None:
    s = run(torch.full((50, 3), 0.4).double(), torch.full((50, 3), 0.7).double())
    assert s.information.value == pytest.approx(0, abs=1e-9)
    assert s.told_apart.value == pytest.approx(1)
    assert s.hole.value == pytest.approx(s.mean_kl.value) == pytest.approx(s.gaussian_part.value)


def test_disjoint_posteriors_have_log_n() -> None:
    s = run(100.0 * torch.arange(20)[:, None].expand(20, 2).double(), torch.full((20, 2), 0.1).double())
    assert s.information.value == pytest.approx(math.log(20), abs=1e-8)
    assert s.information.value <= s.log_n + 1e-12
    assert s.told_apart.value == pytest.approx(20)


def test_information_and_hole_by_quadrature() -> None:
    rng = stream(0, "posteriors")
    mean = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    scale = 0.3 + 0.5 * torch.rand(12, 2, generator=rng, dtype=torch.float64)
    p = MemoryPosteriors(mean, scale)
    nodes, weights = hermite(mean, scale)
    own = (
        -0.5 * ((nodes - mean[:, None]) / scale[:, None]).square().sum(-1)
        - scale.log().sum(1)[:, None]
        - math.log(2 * math.pi)
    )
    together = p.log_prob(nodes.reshape(-1, 2)).reshape(12, -1)
    information = float(((own - together) @ weights).mean())
    z, area = grid()
    density = p.log_prob(z)
    prior = -0.5 * z.square().sum(1) - math.log(2 * math.pi)
    hole = float((density.exp() * (density - prior)).sum() * area)
    s = run(mean.repeat(200, 1), scale.repeat(200, 1))  # the same mixture, many more draws
    assert s.information.stderr is not None
    assert s.information.stderr < 0.01  # 19,200 draws
    assert s.information.value == pytest.approx(information, abs=4 * s.information.stderr)
    assert s.hole.value == pytest.approx(hole, abs=4 * s.information.stderr)
    assert (s.hole.low, s.hole.high) == pytest.approx(
        (s.mean_kl.value - s.information.high, s.mean_kl.value - s.information.low)
    )
    told, i = s.told_apart, s.information  # exp(I), by the delta method
    assert told.stderr == pytest.approx(math.exp(i.value) * i.stderr)
    assert (told.low, told.high) == pytest.approx((math.exp(i.low), math.exp(i.high)))
    # the identity holds between the exact values too
    assert s.mean_kl.value == pytest.approx(information + hole, abs=1e-5)


def test_linear_model_at_maximum_likelihood() -> None:
    x, _ = linear_gaussian(D=7, d=3).sample(400)
    skewed = x.exp() / x.exp().std(0)  # any data will do
    model, values = maximum_likelihood(skewed, 3)
    s = run(*model.posterior(skewed))
    assert s.gaussian_part.value == pytest.approx(0, abs=1e-9)  # the moment match is exactly N(0, I)
    assert s.mean_kl.value == pytest.approx(0.5 * float((values[:3] / model.var).log().sum()), rel=1e-9)


def test_active_units_and_dimension_kl() -> None:
    mean = torch.randn(500, 3, generator=stream(0, "m"), dtype=torch.float64) * torch.tensor([1.0, 0.2, 0.001])
    scale = torch.tensor([0.1, 0.9, 1.0]).double().expand(500, 3).clone()
    s = run(mean, scale)
    assert s.active == 2
    assert sum(s.dimension_kl) == pytest.approx(s.mean_kl.value)
    assert s.dimension_kl[2] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("shift", "sentence"), [(-50.0, "exceeds -log w_i"), (50.0, "is below 0 by more than 6")])
def test_a_broken_density_is_caught(monkeypatch: pytest.MonkeyPatch, shift: float, sentence: str) -> None:
    whole = MemoryPosteriors.log_prob
    monkeypatch.setattr(MemoryPosteriors, "log_prob", lambda self, z: whole(self, z) + shift)
    rng = stream(0, "posteriors")
    with pytest.raises(NumericalError, match=sentence):
        run(torch.randn(30, 2, generator=rng).double(), torch.full((30, 2), 0.4).double())


def test_variances_of_the_means_and_within_add_up_to_that_of_the_aggregated_posterior() -> None:
    model = linear_gaussian()
    x, _ = model.sample(500)
    mean, scale = model.posterior(x)
    s = run(mean, scale)
    draws = MemoryPosteriors(mean, scale).sample(400_000, rng=stream(0, "draws"))
    together = torch.tensor(s.mean_variance) + torch.tensor(s.posterior_variance)
    torch.testing.assert_close(together.double(), draws.var(0), rtol=0.02, atol=0)


def weighted() -> tuple[MemoryPosteriors, MemoryPosteriors]:
    """Posteriors whose weights are as 1 to 2 to 9 by thirds; the same as rows that stand once, twice, nine times."""
    rng = stream(0, "weighted")
    mean = torch.randn(30, 2, generator=rng, dtype=torch.float64)
    scale = 0.2 + 0.6 * torch.rand(30, 2, generator=rng, dtype=torch.float64)
    mean[20:] += 2.0
    times = torch.tensor([1, 2, 9]).repeat_interleave(10)
    p = MemoryPosteriors(mean, scale, weights=(times / times.sum()).double())
    return p, MemoryPosteriors(mean.repeat_interleave(times, 0), scale.repeat_interleave(times, 0))


def test_weights_stand_for_rows_that_occur_more_than_once() -> None:
    a, b = (surgery(Split("train", p), rng=stream(0, "w")) for p in weighted())
    assert a.mean_kl.value == pytest.approx(b.mean_kl.value)
    assert a.gaussian_part.value == pytest.approx(b.gaussian_part.value)
    for name in ("dimension_kl", "mean_variance", "posterior_variance"):
        assert getattr(a, name) == pytest.approx(getattr(b, name)), name
    assert a.active == b.active
    several = [
        [surgery(Split("train", p), rng=stream(s, "w")).information.value for s in range(80)] for p in weighted()
    ]
    mean, other = (torch.tensor(v) for v in several)
    error = math.sqrt(float(mean.var() + other.var()) / 80)
    assert float(mean.mean() - other.mean()) == pytest.approx(0, abs=4 * error)
    assert error < 0.02


@pytest.mark.parametrize("which", [0, 1])
def test_the_error_of_the_information_is_what_seeds_vary_by(which: int) -> None:
    p = weighted()[which]
    found = [surgery(Split("train", p), rng=stream(s, "spread")).information for s in range(500)]
    spread = float(torch.tensor([e.value for e in found]).std())
    errors = torch.tensor([e.stderr or 0.0 for e in found])
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)
    assert all((e.high - e.low) / 2 > 1.9 * (e.stderr or 0.0) for e in found)


def test_a_hole_smaller_than_its_gaussian_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One posterior for all rows is a Gaussian: the hole is its Gaussian part, and 0.1 nats less cannot be."""
    mean, scale = torch.full((50, 2), 1.5).double(), torch.full((50, 2), 0.5).double()
    whole = MemoryPosteriors.log_prob
    monkeypatch.setattr(MemoryPosteriors, "log_prob", lambda self, z: whole(self, z) - 0.1)
    with pytest.raises(NumericalError, match="is below its Gaussian part"):
        run(mean, scale)


@pytest.mark.parametrize(("variance", "active"), [(0.009, 0), (0.011, 1)])
def test_a_unit_is_active_from_a_variance_of_its_mean_of_a_hundredth(variance: float, active: int) -> None:
    mean = torch.tensor([-1.0, 1.0]).double().repeat(20)[:, None] * math.sqrt(variance)
    assert run(mean, torch.full((40, 1), 0.9).double()).active == active


def test_more_rows_than_sixty_thousand_are_a_sample() -> None:
    """As many as make as many pairs, and 1,000 at least."""
    assert scored(60_000, 16) == 60_000
    assert scored(60_001, 16) == 59_999
    assert scored(1_000_000, 16) == 3_600
    assert scored(10_000_000, 16) == 1_000
    assert scored(60_000, 2_048) == 30_000


@pytest.mark.parametrize("even", [True, False])
def test_a_sample_of_rows_is_right_in_the_mean_and_knows_its_error(even: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean KL and the Gaussian part stay those of all rows; I and the hole vary by seed as their errors say."""
    rng, n, some = stream(0, "many"), 600, 60
    mean = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    scale = 0.2 + 0.6 * torch.rand(n, 2, generator=rng, dtype=torch.float64)
    weights = None if even else (1 + torch.arange(n) % 3).double() / 1200
    p = MemoryPosteriors(mean, scale, weights=weights)
    whole = surgery(Split("train", p), rng=stream(0, "all"))
    monkeypatch.setattr(cut, "LEAST", some)
    monkeypatch.setattr(cut, "PAIRS", some * n)
    monkeypatch.setattr(cut, "POINTS", 1)
    several = [surgery(Split("train", p), rng=stream(s, "some")) for s in range(300)]
    found = torch.tensor([s.information.value for s in several]).double()
    for s in several:
        assert s.mean_kl.value == whole.mean_kl.value
        assert s.mean_kl.n == whole.mean_kl.n
        assert s.gaussian_part.value == whole.gaussian_part.value
        assert s.hole.value == pytest.approx(s.mean_kl.value - s.information.value)
        assert s.hole.n == s.information.n <= some
    spread, errors = float(found.std()), torch.tensor([s.information.stderr or 0.0 for s in several])
    assert float(found.mean()) == pytest.approx(whole.information.value, abs=4 * spread / math.sqrt(300) + 0.01)
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)
