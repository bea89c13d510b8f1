"""Fits to data at the edge, for every kind that can be fitted: few rows, duplicates, a collapsed dimension, any scale.

Fitted as a user would, by `zprime.fit` with the kind's defaults (networks with fewer and shorter steps).
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oracles import grid
from tasks import task
from zoo import context, posteriors, sharded
from zprime import latent
from zprime.arrays import gaussian_log_prob
from zprime.distribution import LatentDistribution
from zprime.fitting import fit
from zprime.latent import (
    Active,
    AggregatedSettings,
    BarycentreSettings,
    ConditionalSettings,
    Defensive,
    ExemplarsSettings,
    GaussianSettings,
    LogPoolSettings,
    MixtureSettings,
    Prior,
    PriorSettings,
    ProductOfExpertsSettings,
    gradient,
)
from zprime.latent.kind import Fit, Settings
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.rng import stream

KINDS = [k for k in latent.SETTINGS if k != "shared-nuts"]
"""All that have a density."""
GRID, AREA = grid(9.0, 81)
COARSE, CELL = grid(9.0, 41)
WITHIN = {"exact": 0.02, "estimate": 0.05, "bound": 0.3}
"""What quadrature on a coarse grid leaves of a network's kinks; a bound with few draws is below the density."""

CLOSED: dict[str, Settings] = {
    "prior": PriorSettings(0.7),
    "gaussian": GaussianSettings(),
    "gaussian-diagonal": GaussianSettings("diagonal"),
    "gaussian-low-rank": GaussianSettings("low-rank", rank=1),
    "log-pool": LogPoolSettings(),
    "barycentre": BarycentreSettings(),
    "product-of-experts": ProductOfExpertsSettings(),
    "aggregated": AggregatedSettings(),
    "exemplars": ExemplarsSettings(bandwidth=0.4),
    "exemplars-full": ExemplarsSettings(bandwidth=0.4, covariance="full"),
    "mixture merged": MixtureSettings(components=2, method="merge", polish=0),
}
"""Kinds whose fit is in closed form, or merges pair by pair: no random choice in it."""


SMALL = {"epochs": 2, "width": 32, "draws": 16}


def settings_of(kind: str) -> Settings:
    """The defaults; smaller and shorter for networks."""
    found = latent.settings_for(kind)
    if isinstance(found, ConditionalSettings):
        return dataclasses.replace(found, least_rows=0.0)  # a label of one row, by wish
    if not isinstance(found, gradient.Schedule):
        return found
    return dataclasses.replace(found, **{k: v for k, v in SMALL.items() if hasattr(found, k)})


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    monkeypatch.setattr(gradient, "STEPS", 15)
    for name, value in {
        "resampled.NORMALISER": 1 << 15,
        "resampled.SCORE_NORMALISER": 1 << 13,
        "flow_matching.SCORE_POINTS": 300,
        "two_stage.SCORE_POINTS": 600,
    }.items():
        monkeypatch.setattr(f"zprime.latent.{name}", value)


def made(kind: str, p: MemoryPosteriors, train: Posteriors | None = None) -> Fit[LatentDistribution]:
    return fit(settings_of(kind), train or p, selection=p, context=context(p), keep_duplicates=True, seed=0)


def bare(r: LatentDistribution) -> LatentDistribution:
    """Without the share of the prior, and without the split into active and collapsed dimensions."""
    return bare(r.base) if isinstance(r, Defensive) else r


def one() -> MemoryPosteriors:
    return MemoryPosteriors(
        torch.tensor([[0.6, -0.4]]).double(), torch.tensor([[0.5, 0.8]]).double(), labels=torch.zeros(1).long()
    )


def two() -> MemoryPosteriors:
    p = posteriors(2, n=2, seed=1)
    return MemoryPosteriors(p.mean, p.scale, labels=torch.tensor([0, 1]))


def duplicates(times: int = 3) -> MemoryPosteriors:
    p = posteriors(2, n=8)
    assert p.labels is not None
    return MemoryPosteriors(p.mean.repeat(times, 1), p.scale.repeat(times, 1), labels=p.labels.repeat(times))


def collapsed() -> MemoryPosteriors:
    """The second posterior is the prior for every row."""
    p = posteriors(2, n=40)
    keep = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return MemoryPosteriors(p.mean * keep, torch.where(keep > 0, p.scale, 1.0), labels=p.labels)


UNIT = torch.tensor([1e-4, 1e2], dtype=torch.float64)


def far_apart() -> MemoryPosteriors:
    """One dimension in ten-thousandths, the other in hundreds."""
    p = posteriors(2)
    return MemoryPosteriors(p.mean * UNIT, p.scale * UNIT, labels=p.labels)


def mixed() -> MemoryPosteriors:
    """Scales from 1e-4 to 1e2 in one and the same dimension."""
    p = posteriors(2)
    scale = torch.logspace(-4, 2, p.n, dtype=torch.float64)
    return MemoryPosteriors(p.mean, torch.stack([scale, scale.flip(0)], 1), labels=p.labels)


EDGES: dict[str, tuple[Callable[[], MemoryPosteriors], Tensor]] = {
    "one": (one, torch.ones(2)),
    "two": (two, torch.ones(2)),
    "duplicates": (duplicates, torch.ones(2)),
    "collapsed": (collapsed, torch.ones(2)),
    "far apart": (far_apart, UNIT),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def usable(r: LatentDistribution, p: MemoryPosteriors) -> Tensor:
    """Finite draws of the right shape, of finite density, as codes have; gives the draws."""
    drawn = r.sample(300, rng=stream(0, "drawn"))
    assert drawn.shape == (300, 2)
    for z in (drawn, p.mean, p.draw(rng=stream(0, "codes"))):
        assert torch.isfinite(z).all()
        assert torch.isfinite(r.log_prob(z)).all()
    assert r.sample(0, rng=stream(0)).shape == (0, 2)
    return drawn.double()


@pytest.mark.parametrize("edge", EDGES)
@every_kind
def test_a_fit_to_data_at_the_edge_is_a_density_that_can_be_drawn_from(kind: str, edge: str, tmp_path) -> None:
    data, unit = EDGES[edge]
    p = data()
    found = made(kind, p)
    r = found.distribution
    usable(r, p)
    assert found.outcome.message
    inside = bare(r)
    drawn = inside.sample(300, rng=stream(0, "own")).double()
    if isinstance(inside, Prior):  # on a scale of its own
        if kind == "product-of-experts":  # posteriors wider than the prior have no product, and the outcome says so
            assert "the product of 24 posteriors is no density" in found.outcome.message
        return
    if edge == "far apart" or kind == "product-of-experts":
        r = inside  # the prior's share lies on a scale of its own
    centre, unit = (drawn.mean(0), drawn.std(0)) if kind == "product-of-experts" else (0.0, unit)
    total = float(r.log_prob(COARSE * unit.double() + centre).exp().sum()) * CELL * float(unit.double().prod())
    assert total == pytest.approx(1, abs=WITHIN[inside.density])
    r.save(tmp_path / "r")
    back = latent.load(tmp_path / "r")
    assert torch.equal(back.log_prob(p.mean), r.log_prob(p.mean))


@every_kind
def test_scales_of_six_orders_in_one_dimension_are_usable(kind: str) -> None:
    p = mixed()
    usable(made(kind, p).distribution, p)


@pytest.mark.parametrize(
    "kind", ["gaussian", "log-pool", "barycentre", "product-of-experts", "aggregated", "exemplars"]
)
def test_of_one_posterior_the_best_fit_is_that_posterior(kind: str) -> None:
    p = one()
    expected = gaussian_log_prob(GRID, p.mean, p.scale)
    torch.testing.assert_close(bare(made(kind, p).distribution).log_prob(GRID), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mixture", "conditional", "flow", "flow-matching", "two-stage", "resampled", "vamp"])
def test_of_one_posterior_a_learned_fit_stays_close_to_it(kind: str) -> None:
    p = one()
    log_q = gaussian_log_prob(GRID, p.mean, p.scale)
    gap = log_q - bare(made(kind, p).distribution).log_prob(GRID)
    assert -1e-3 < float((log_q.exp() * gap).sum()) * AREA < (0.001 if kind == "mixture" else 0.1)


@pytest.mark.parametrize("name", ["gaussian", "aggregated", "exemplars-full", "mixture merged"])
def test_of_two_posteriors_mean_and_covariance_are_kept(name: str) -> None:
    p = two()
    r = plain(CLOSED[name], p)
    mass = r.log_prob(GRID).exp() * AREA
    mean = p.mean.mean(0)
    covariance = torch.diag(p.scale.square().mean(0)) + (p.mean - mean).T @ (p.mean - mean) / 2
    torch.testing.assert_close(mass @ GRID, mean, rtol=0, atol=1e-5)
    torch.testing.assert_close((mass[:, None] * (GRID - mean)).T @ (GRID - mean), covariance, rtol=0, atol=1e-4)


def plain(settings: Settings, p: Posteriors) -> LatentDistribution:
    return settings.fit(task(p, selection=p, rng=stream(0, "plain"))).distribution


@pytest.mark.parametrize("name", [n for n in CLOSED if n != "product-of-experts"])
def test_every_row_three_times_over_changes_nothing(name: str) -> None:
    once, thrice = (plain(CLOSED[name], duplicates(k)).log_prob(GRID) for k in (1, 3))
    torch.testing.assert_close(thrice, once, rtol=1e-9, atol=1e-9)


def test_every_row_three_times_over_is_three_times_the_evidence_for_a_shared_latent() -> None:
    """The one kind whose rows are evidence for one thing: precisions less the prior's grow with their number."""
    p = duplicates(1)
    once, thrice = (plain(CLOSED["product-of-experts"], duplicates(k)) for k in (1, 3))
    z = 0.1 * GRID
    prior = -0.5 * z.square().sum(1)
    gap = (thrice.log_prob(z) - prior) - 3 * (once.log_prob(z) - prior)
    assert float(gap.std()) < 1e-9
    assert p.n == 8


@pytest.mark.parametrize("name", [n for n in CLOSED if n != "prior"])
def test_a_collapsed_dimension_keeps_the_prior_in_closed_form(name: str) -> None:
    r = plain(CLOSED[name], collapsed())
    flat = GRID * torch.tensor([1.0, 0.0])
    gap = r.log_prob(GRID) - r.log_prob(flat)
    torch.testing.assert_close(gap, -0.5 * GRID[:, 1].square(), rtol=1e-6, atol=1e-6)


@every_kind
def test_a_collapsed_dimension_is_drawn_as_the_prior_draws_it(kind: str) -> None:
    r = bare(made(kind, collapsed()).distribution)
    z = r.sample(4000, rng=stream(0, "collapsed"))[:, 1].double()
    slack = 0.0 if kind not in ("two-stage", "flow-matching", "vamp") else 0.1
    assert abs(float(z.mean())) < 4.5 / math.sqrt(4000) + slack
    assert abs(float(z.std()) - 1) < 4.5 / math.sqrt(8000) + slack


def test_where_a_dimension_is_collapsed_a_kind_may_leave_it_out() -> None:
    assert isinstance(bare(made("mixture", collapsed()).distribution), Active)


UNITLESS = [n for n in CLOSED if n not in ("prior", "product-of-experts")]
"""Kinds that do not look at the prior's unit."""


@pytest.mark.parametrize("name", UNITLESS)
def test_a_fit_does_not_depend_on_the_units_of_the_latents(name: str) -> None:
    """r of the stretched posteriors is the stretched r, to eight digits over six orders of scale."""
    narrow = plain(CLOSED[name], posteriors(2)).log_prob(GRID)
    wide = plain(CLOSED[name], far_apart()).log_prob(GRID * UNIT) + float(UNIT.log().sum())
    torch.testing.assert_close(wide, narrow, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CLOSED)
def test_a_fit_in_closed_form_does_not_depend_on_the_order_of_rows(name: str) -> None:
    p = posteriors(2)
    order = torch.randperm(p.n, generator=stream(0, "order"))
    turned = plain(CLOSED[name], p.take(order)).log_prob(GRID)
    torch.testing.assert_close(turned, plain(CLOSED[name], p).log_prob(GRID), rtol=1e-10, atol=1e-10)


@every_kind
def test_a_fit_does_not_depend_on_the_size_of_shards(kind: str, tmp_path) -> None:
    p = posteriors(2)
    whole, pieces = (made(kind, p, t).distribution for t in (p, sharded(p, tmp_path / "p", 7)))
    assert pieces.label == whole.label
    points = GRID[::40]
    torch.testing.assert_close(pieces.log_prob(points), whole.log_prob(points), rtol=1e-9, atol=1e-9)
