"""Merging of Gaussians with full covariances, and of several components a datum."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from tasks import task
from test_full_averages import as_full, diagonal, posteriors, turned
from zprime.arrays import covariances
from zprime.errors import UsageError
from zprime.latent.merge import Gaussians, Merged, merge
from zprime.latent.mixture import MixtureSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

BOTH = pytest.mark.parametrize("diagonal_target", [False, True])


def merged(p: MemoryPosteriors, k: int, *, diagonal: bool = False, least: float = 0.0) -> Merged:
    var = covariances(p.mean, p.scale) if p.form == "full" else p.variance
    gaussians = Gaussians(p.log_weights.exp(), p.mean, var, p.datum)
    return merge(gaussians, k, diagonal=diagonal, rng=stream(0, "m"), least=least)


def by_hand(p: MemoryPosteriors, k: int, *, diagonal: bool) -> tuple[list[list[int]], float]:
    """Which rows end up together, all pairs looked at in every step; and `sum w KL(q || r)` of these clusters."""
    weight, inner = p.log_weights.exp(), covariances(p.mean, p.scale)
    groups = [[i] for i in range(p.n)]

    def moments(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        w = weight[rows] / weight[rows].sum()
        m = w @ p.mean[rows]
        gap = p.mean[rows] - m
        c = torch.einsum("n,nij->ij", w, inner[rows] + gap[:, :, None] * gap[:, None])
        return weight[rows].sum(), m, torch.diag(c.diagonal()) if diagonal else c

    def cost(a: list[int], b: list[int]) -> float:
        (wa, _, ca), (wb, _, cb), (wab, _, cab) = map(moments, (a, b, a + b))
        return float(wab * torch.logdet(cab) - wa * torch.logdet(ca) - wb * torch.logdet(cb))

    while len(groups) > k:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
        a, b = min(pairs, key=lambda pair: cost(groups[pair[0]], groups[pair[1]]))
        groups[a] += groups.pop(b)
    bound = 0.0
    for g in groups:
        _, m, c = moments(g)
        each = MultivariateNormal(p.mean[g], inner[g])
        bound += float(weight[g] @ kl_divergence(each, MultivariateNormal(m, c).expand((len(g),))))
    return groups, bound


@BOTH
@pytest.mark.parametrize("k", [1, 3, 9])
def test_merging_full_covariances_is_the_loop_over_all_pairs(k: int, diagonal_target: bool) -> None:  # noqa: FBT001
    p = posteriors(9)
    found = merged(p, k, diagonal=diagonal_target)
    groups, bound = by_hand(p, k, diagonal=diagonal_target)
    expected = torch.stack([p.log_weights.exp()[g].sum() for g in groups])
    torch.testing.assert_close(found.weight.sort().values, expected.sort().values)
    assert found.bound == pytest.approx(bound, abs=1e-12)


@BOTH
def test_diagonal_gaussians_written_as_full_ones_are_merged_alike(diagonal_target: bool) -> None:  # noqa: FBT001
    p = diagonal(30)
    one, other = (merged(q, 4, diagonal=diagonal_target) for q in (p, as_full(p)))
    torch.testing.assert_close(other.mean, one.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.covariance, one.covariance, rtol=1e-12, atol=1e-12)
    assert other.bound == pytest.approx(one.bound, abs=1e-12)


def test_an_orthogonal_map_takes_merged_components_along() -> None:
    p = posteriors(20)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=stream(1, "turn"), dtype=torch.float64))[0]
    one, other = merged(p, 4), merged(turned(p, turn), 4)
    torch.testing.assert_close(other.mean, one.mean @ turn.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.covariance, turn @ one.covariance @ turn.T, rtol=1e-9, atol=1e-9)


def parts_of(p: MemoryPosteriors, each: int) -> MemoryPosteriors:
    """Every `each` rows in a row as the parts of one datum."""
    return MemoryPosteriors(p.mean, p.scale, row_ids=torch.arange(p.n) // each, weights=p.weights)


def test_merging_counts_data_and_not_their_parts() -> None:
    """The two parts of a datum, far from all others, end up in one cluster: it holds one datum."""
    p = parts_of(posteriors(12, weighted=False), 2)
    p.mean[:2] = 100.0
    two = merged(p, 2)
    lone = two.weight.argmin()
    assert float(two.weight[lone]) == pytest.approx(2 / 12)
    assert float(two.rows[lone]) == pytest.approx(1)
    assert float(two.rows[1 - lone]) == pytest.approx(5)
    torch.testing.assert_close(merged(p, 12).rows, torch.ones(12).double())
    assert len(merged(p, 2, least=1.5).rows) == 1  # a cluster of one datum is not large enough
    assert float(merged(p, 1).rows) == pytest.approx(6)


def test_a_merged_mixture_says_how_many_data_are_behind_it() -> None:
    p = parts_of(posteriors(12, weighted=False), 2)
    p.mean[:2] = 100.0
    settings = MixtureSettings(2, method="merge", polish=0, least_rows=0.0)
    assert settings.fit(task(p, selection=p, rng=stream(0, "fit"))).distribution.least_rows == pytest.approx(1)


def test_cells_count_data_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.latent.merge.DIRECT", 3)
    p = parts_of(posteriors(40), 4)
    datum = p.datum
    assert datum is not None
    found = merged(p, 1)
    mass = torch.bincount(datum, p.log_weights.exp())
    assert float(found.rows) == pytest.approx(1 / float(mass.square().sum()))
    m = p.log_weights.exp() @ p.mean
    torch.testing.assert_close(found.mean[0], m)


@pytest.mark.parametrize("settings", [MixtureSettings(3, method="merge", polish=0), MixtureSettings(3, start="merge")])
def test_mixtures_are_merged_from_either_form_alike(settings: MixtureSettings) -> None:
    p = diagonal(60)
    z = p.draw(rng=stream(0, "z"))
    one, other = (
        settings.fit(task(q, selection=q, rng=stream(0, "fit"))).distribution.log_prob(z) for q in (p, as_full(p))
    )
    torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_a_merge_of_points_is_refused() -> None:
    p = MemoryPosteriors(diagonal().mean, None)
    with pytest.raises(UsageError, match="method: merging takes Gaussians, .* got draws or codes without a density"):
        MixtureSettings(2, method="merge").fit(task(p, selection=p, rng=stream(0, "fit")))
