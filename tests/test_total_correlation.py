"""Total correlation and the holes of single dimensions, against quadrature."""

import math

import pytest
import torch

from oracles import grid
from zoo import posteriors, weighted
from zprime.measure.latents import total_correlation as module
from zprime.measure.latents.total_correlation import total_correlation
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


@pytest.mark.parametrize("p", [posteriors(2), weighted(2, torch.float64)], ids=["equal", "weighted"])
def test_every_term_by_quadrature(p: MemoryPosteriors) -> None:
    z, area = grid(9.0, 241)
    density = p.log_prob(z).exp().reshape(241, 241)
    step = math.sqrt(area)
    marginals = [density.sum(1) * step, density.sum(0) * step]
    axis = torch.linspace(-9, 9, 241).double()
    prior = torch.exp(-0.5 * axis.square()) / math.sqrt(2 * math.pi)
    both = marginals[0][:, None] * marginals[1]
    total = float((density * (density / both).clamp(min=1e-300).log()).sum() * area)
    single = [float((q * (q / prior).clamp(min=1e-300).log()).sum() * step) for q in marginals]
    assert total > 0.3  # the clumps lie on the diagonal
    found = total_correlation(Split("train", p), seed=0, points=20_000)
    pairs = [(found.total, total), (found.dimensions, sum(single)), *zip(found.dimension, single, strict=True)]
    for e, truth in pairs:
        assert e.stderr is not None
        assert e.stderr < 0.02
        assert e.value == pytest.approx(truth, abs=4 * e.stderr)
    hole = float((density * (density / (prior[:, None] * prior)).clamp(min=1e-300).log()).sum() * area)
    assert total + sum(single) == pytest.approx(hole, abs=1e-6)


def test_independent_dimensions_have_none() -> None:
    p = MemoryPosteriors(torch.zeros(5, 3).double(), torch.tensor([0.5, 1.0, 2.0]).double().expand(5, 3).clone())
    found = total_correlation(Split("train", p), seed=0, points=400)
    assert found.total.value == pytest.approx(0, abs=1e-9)
    for e, s in zip(found.dimension, (0.5, 1.0, 2.0), strict=True):
        truth = 0.5 * (s * s - 1) - math.log(s)  # KL(N(0, s^2) || N(0, 1))
        assert e.value == pytest.approx(truth, abs=4 * (e.stderr or 0) + 1e-9)


@pytest.mark.parametrize(("even", "width"), [(True, 0.3), (False, 0.2)])
def test_marginals_by_some_components_are_right_in_the_mean_and_know_their_error(
    even: bool, width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of all components at the same points."""
    rng, n = stream(0, "many"), 4_000
    mean = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    weights = None if even else (1 + torch.arange(n) % 3).double()
    p = MemoryPosteriors(
        mean, torch.full((n, 2), width).double(), weights=None if weights is None else weights / weights.sum()
    )
    exact = [total_correlation(Split("train", p), seed=s, points=200) for s in range(40)]
    monkeypatch.setattr(module, "MARGINAL", 600)
    some = [total_correlation(Split("train", p), seed=s, points=200) for s in range(40)]
    off, errors = [], []
    for a, b in zip(some, exact, strict=True):
        assert a is not None
        assert b is not None
        assert a.total.value - b.total.value == pytest.approx(b.dimensions.value - a.dimensions.value)
        assert "600 posteriors at random" in a.dimensions.because
        off.append(a.dimensions.value - b.dimensions.value)
        errors.append(math.sqrt((a.dimensions.stderr or 0) ** 2 - (b.dimensions.stderr or 0) ** 2))
    spread, error = float(torch.tensor(off).std()), float(torch.tensor(errors).square().mean().sqrt())
    assert abs(sum(off) / 40) < 3 * spread / math.sqrt(40)
    assert 0.75 < error / spread < 1.5


def test_where_few_components_count_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a point of a component that was not drawn has next to no density."""
    mean = torch.randn(500, 2, generator=stream(0, "narrow"), dtype=torch.float64)
    split = Split("train", MemoryPosteriors(mean, torch.full((500, 2), 1e-4).double()))
    exact = total_correlation(split, seed=0)
    monkeypatch.setattr(module, "MARGINAL", 100)
    some = total_correlation(split, seed=0)
    assert some is not None
    assert exact is not None
    assert some.dimensions.value == pytest.approx(exact.dimensions.value, abs=1e-9)
    assert some.dimensions.stderr == pytest.approx(exact.dimensions.stderr)
