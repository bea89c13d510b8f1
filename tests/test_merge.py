"""Greedy merging against a loop that anyone can read; minibatches, polish and what throwing variances away costs."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from tasks import task
from zprime.arrays import standard_log_prob
from zprime.errors import UsageError
from zprime.latent import Mixture, MixtureSettings
from zprime.latent import merge as module
from zprime.latent.merge import Gaussians, merge
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

BOTH = pytest.mark.parametrize("diagonal", [False, True])


def gaussians(n: int, d: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = stream(seed, "gaussians", n, d)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    var = 0.05 + 0.2 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    weight = torch.rand(n, generator=rng, dtype=torch.float64)
    return mean, var, weight / weight.sum()


def by_hand(mean: Tensor, var: Tensor, weight: Tensor, k: int, *, diagonal: bool) -> list[list[int]]:
    """Which rows end up together, all pairs looked at in every step."""
    groups = [[i] for i in range(len(mean))]

    def moments(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        w = weight[rows] / weight[rows].sum()
        m = w @ mean[rows]
        c = sum(w[j] * (torch.diag(var[i]) + torch.outer(mean[i] - m, mean[i] - m)) for j, i in enumerate(rows))
        assert isinstance(c, Tensor)
        return weight[rows].sum(), m, torch.diag(c.diagonal()) if diagonal else c

    while len(groups) > k:
        costs = {}
        for a in range(len(groups)):
            for b in range(a + 1, len(groups)):
                (wa, _, ca), (wb, _, cb), (wab, _, cab) = map(moments, (groups[a], groups[b], groups[a] + groups[b]))
                costs[a, b] = float(wab * torch.logdet(cab) - wa * torch.logdet(ca) - wb * torch.logdet(cb))
        a, b = min(costs, key=lambda p: costs[p])
        groups[a] += groups.pop(b)
    return groups


@BOTH
@pytest.mark.parametrize("k", [1, 3, 7])
def test_merging_is_the_loop_over_all_pairs(k: int, diagonal: bool) -> None:
    mean, var, weight = gaussians(9)
    found = merge(Gaussians(weight, mean, var), k, diagonal=diagonal, rng=stream(0, "m"))
    groups = by_hand(mean, var, weight, k, diagonal=diagonal)
    expected = sorted(float(weight[g].sum()) for g in groups)
    torch.testing.assert_close(found.weight.sort().values, torch.tensor(expected, dtype=torch.float64))
    bound = 0.0
    for g in groups:
        w = weight[g] / weight[g].sum()
        m = w @ mean[g]
        c = torch.einsum("i,ijk->jk", w, torch.diag_embed(var[g]) + (mean[g] - m)[:, :, None] * (mean[g] - m)[:, None])
        r = MultivariateNormal(m, torch.diag(c.diagonal()) if diagonal else c)
        bound += sum(float(weight[i] * kl_divergence(MultivariateNormal(mean[i], torch.diag(var[i])), r)) for i in g)
    assert found.bound == pytest.approx(bound)  # the costs of all merges telescope to this


@BOTH
def test_the_bound_is_one(diagonal: bool) -> None:
    mean, var, weight = gaussians(40)
    p = MemoryPosteriors(mean, var.sqrt(), weights=weight)
    z = p.sample(40_000, rng=stream(0, "z"))
    for k in (40, 20, 5, 1):
        m = merge(Gaussians(weight, mean, var), k, diagonal=diagonal, rng=stream(0, "m"))
        tril = m.covariance.sqrt() if diagonal else torch.linalg.cholesky(m.covariance)
        gap = p.log_prob(z) - Mixture(m.weight.log(), m.mean, tril).log_prob(z)
        assert float(gap.mean()) <= m.bound + 4 * float(gap.std()) / math.sqrt(len(gap))
        if k == 40:
            assert m.bound == pytest.approx(0, abs=1e-9)


def test_many_rows_go_through_cells_first(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, var, weight = gaussians(300)
    whole = merge(Gaussians(weight, mean, var), 5, diagonal=False, rng=stream(0, "m"))
    monkeypatch.setattr(module, "DIRECT", 60)
    cells = merge(Gaussians(weight, mean, var), 5, diagonal=False, rng=stream(0, "m"))
    assert float(cells.weight.sum()) == pytest.approx(1)
    assert whole.bound <= cells.bound < 1.4 * whole.bound  # a little is lost, and the bound says so


def clumps(n: int, seed: int, scale: float = 0.3) -> MemoryPosteriors:
    rng = stream(seed, "clumps")
    mean = 1.4 * (torch.randint(3, (n, 1), generator=rng) - 1.0) + 0.2 * torch.randn(n, 2, generator=rng)
    return MemoryPosteriors(mean.double(), torch.full((n, 2), scale).double())


def gain(heldout: MemoryPosteriors, **changes: object) -> float:
    settings = MixtureSettings(components=3, **changes)  # type: ignore[arg-type]
    found = settings.fit(task(clumps(1500, 0), selection=clumps(500, 1), rng=stream(0, "fit")))
    z = heldout.draw(rng=stream(0, "z"), draws=4)
    return float((found.distribution.log_prob(z) - standard_log_prob(z)).mean())


def test_every_way_to_three_clumps_gets_there_and_the_means_alone_do_not() -> None:
    heldout = clumps(500, 2)
    whole = gain(heldout, polish=0)
    assert gain(heldout, batch=200, epochs=20, polish=0) == pytest.approx(whole, abs=0.01)
    assert gain(heldout, start="merge", polish=0) == pytest.approx(whole, abs=0.01)
    assert gain(heldout, method="merge", polish=0) == pytest.approx(whole, abs=0.05)
    assert gain(heldout, codes="means") < whole - 0.5


def test_polish_climbs_where_the_bound_is_loose_and_is_kept_only_if_it_helps() -> None:
    """Components that overlap within a posterior: EM on the posteriors stops short (docs/theory.md, section 6)."""

    def even(seed: int) -> MemoryPosteriors:
        mean = 6 * torch.rand(2000, 1, generator=stream(seed, "even"), dtype=torch.float64) - 3
        return MemoryPosteriors(mean, torch.full((2000, 1), 0.5).double())

    found = {}
    for polish in (0, 10):
        settings = MixtureSettings(components=3, polish=polish, tolerance=1e-6)
        found[polish] = settings.fit(task(even(0), selection=even(1), rng=stream(0, "fit")))
    heldout = even(2)
    z = heldout.draw(rng=stream(0, "z"), draws=8)
    best = even(0).log_prob(z).mean()
    rough, smooth = (float(best - found[p].distribution.log_prob(z).mean()) for p in (0, 10))
    assert found[10].chosen.settings["polished"]
    assert smooth < 0.5 * rough  # what is missing to the aggregated posterior itself


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "magic"}, "method: expected em or merge, got 'magic'"),
        ({"start": "magic"}, "start: expected kmeans or merge, got 'magic'"),
        ({"codes": "magic"}, "codes: expected posteriors, means or draws, got 'magic'"),
        ({"batch": -1}, "batch: expected at least 0, got -1"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"polish": -1}, "polish: expected at least 0, got -1"),
    ],
)
def test_refusals(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        gain(clumps(5, 0), **changes)
