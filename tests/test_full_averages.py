"""barycentre, log-pool and product-of-experts of posteriors with full covariances, against closed forms."""

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import zprime
from studies import study
from tasks import task
from zoo import sharded
from zprime import latent
from zprime.arrays import covariances
from zprime.errors import UsageError
from zprime.latent import barycentre as module
from zprime.latent import centre
from zprime.latent.barycentre import BarycentreSettings
from zprime.latent.kind import Settings
from zprime.latent.log_pool import LogPool, LogPoolSettings
from zprime.latent.prior import Prior
from zprime.latent.product_of_experts import ProductOfExperts, ProductOfExpertsSettings
from zprime.measure.latents.averages import averages
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

D = 3
KINDS = {
    "barycentre": BarycentreSettings(tolerance=1e-10),
    "log-pool": LogPoolSettings(),
    "product-of-experts": ProductOfExpertsSettings(),
}
every = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())


def posteriors(n: int = 12, d: int = D, *, seed: int = 0, weighted: bool = True) -> MemoryPosteriors:
    """Random covariances with eigenvalues below 1, so that products are densities."""
    rng = stream(seed, "full averages", n, d)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(n, d, d, generator=rng, dtype=torch.float64))
    value = 0.05 + 0.9 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    tril = torch.linalg.cholesky((turn * value[:, None]) @ turn.mT)
    weights = torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    return MemoryPosteriors(mean, tril, weights=weights / weights.sum() if weighted else None)


def diagonal(n: int = 12) -> MemoryPosteriors:
    rng = stream(0, "diagonal", n)
    mean = torch.randn(n, D, generator=rng, dtype=torch.float64)
    weights = torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    scale = 0.1 + 0.8 * torch.rand(n, D, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean, scale, weights=weights / weights.sum())


def as_full(p: MemoryPosteriors) -> MemoryPosteriors:
    return MemoryPosteriors(p.mean, torch.diag_embed(p.scale), weights=p.weights, row_ids=p.row_ids)


def orthogonal(d: int = D) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=stream(0, "turn"), dtype=torch.float64))[0]


def turned(p: MemoryPosteriors, turn: Tensor) -> MemoryPosteriors:
    along = turn @ covariances(p.mean, p.scale) @ turn.T
    return MemoryPosteriors(p.mean @ turn.T, torch.linalg.cholesky(along), weights=p.weights, row_ids=p.row_ids)


def fit(settings: Settings, p: MemoryPosteriors):
    return settings.fit(task(p, selection=p, rng=stream(0, "fit")))


def moments(settings: Settings, p: MemoryPosteriors) -> tuple[Tensor, Tensor]:
    r = fit(settings, p).distribution
    return r.mean, covariances(r.mean, r.scale)


def root(s: Tensor) -> Tensor:
    value, vector = torch.linalg.eigh(s)
    return (vector * value.sqrt()) @ vector.T


@every
def test_diagonal_posteriors_written_as_full_ones_have_the_same_average(settings: Settings) -> None:
    p = diagonal()
    for one, other in zip(moments(settings, p), moments(settings, as_full(p)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    one, other = (fit(settings, q).distribution.least_rows for q in (p, as_full(p)))
    assert other == pytest.approx(one, rel=1e-12)


@every
def test_an_orthogonal_map_of_the_latents_takes_the_average_along(settings: Settings) -> None:
    p, turn = posteriors(), orthogonal()
    mean, covariance = moments(settings, p)
    there = moments(settings, turned(p, turn))
    torch.testing.assert_close(there[0], turn @ mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(there[1], turn @ covariance @ turn.T, rtol=1e-8, atol=1e-9)


@every
def test_one_posterior_is_its_own_average_and_float32_stays(settings: Settings) -> None:
    p = posteriors(1, weighted=False)
    mean, covariance = moments(settings, p)
    torch.testing.assert_close(mean, p.mean[0])
    torch.testing.assert_close(covariance, covariances(p.mean, p.scale)[0])
    small = MemoryPosteriors(p.mean.float(), p.scale.float())
    assert fit(settings, small).distribution.scale.dtype == torch.float32


@every
def test_sums_do_not_depend_on_blocks_or_shards(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    p = posteriors(23)
    whole = moments(settings, p)
    monkeypatch.setattr(centre, "FLOATS", 4 * D**2)
    assert [len(s.mean) for s in centre.parts(p)] == [4, 4, 4, 4, 4, 3]
    for one, other in zip(whole, moments(settings, p), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)
    stored = sharded(p, tmp_path / "p", 5)
    stored.form = "full"
    r = settings.fit(task(stored, selection=p, rng=stream(0, "fit"))).distribution
    torch.testing.assert_close(covariances(r.mean, r.scale), whole[1], rtol=1e-10, atol=1e-12)


@every
def test_the_fit_is_saved_and_read_again(settings: Settings, tmp_path) -> None:
    r = fit(settings, posteriors()).distribution
    r.save(tmp_path / "r")
    again = latent.load(tmp_path / "r")
    z = torch.randn(5, D, generator=stream(0, "z"), dtype=torch.float64)
    want = MultivariateNormal(r.mean, scale_tril=r.scale).log_prob(z)
    torch.testing.assert_close(again.log_prob(z), want, rtol=1e-9, atol=1e-9)


@every
def test_several_components_a_datum_are_refused_with_what_to_take(settings: Settings) -> None:
    p = posteriors()
    twice = MemoryPosteriors(p.mean, p.scale, row_ids=torch.arange(12) // 2)
    with pytest.raises(UsageError, match=f"kind {settings.kind}: .* several parts; .* fit gaussian, which matches"):
        zprime.fit(settings, twice, selection=twice, keep_duplicates=True)


# barycentre


def test_barycentre_of_covariances_that_commute_is_the_mean_of_their_roots_after_one_step() -> None:
    turn = orthogonal()
    p = turned(diagonal(), turn)
    scale = p.log_weights.exp() @ diagonal().scale
    found = fit(BarycentreSettings(), p)
    torch.testing.assert_close(
        covariances(found.distribution.mean, found.distribution.scale),
        turn @ torch.diag(scale.square()) @ turn.T,
        rtol=1e-12,
        atol=1e-12,
    )
    assert found.outcome.message == "converged in 2 steps"  # the second finds nothing to change


def test_barycentre_of_two_is_on_their_geodesic() -> None:
    """S = ((1 - t) I + t T) S_0 ((1 - t) I + t T), T the optimal map from S_0 to S_1 (McCann 1997)."""
    p = posteriors(2)
    first, second = covariances(p.mean, p.scale)
    half = root(first)
    back = torch.linalg.inv(half)
    t = float(p.log_weights.exp()[1])
    between = (1 - t) * torch.eye(D, dtype=torch.float64) + t * back @ root(half @ second @ half) @ back
    mean, covariance = moments(KINDS["barycentre"], p)
    torch.testing.assert_close(covariance, between @ first @ between, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(mean, p.log_weights.exp() @ p.mean)


def test_barycentre_is_that_of_another_library_and_solves_its_equation() -> None:
    p = posteriors()
    weights, inner = p.log_weights.exp(), covariances(p.mean, p.scale)
    mean, covariance = moments(KINDS["barycentre"], p)
    theirs = ot.gaussian.bures_wasserstein_barycenter(p.mean.numpy(), inner.numpy(), weights.numpy(), eps=1e-12)
    np.testing.assert_allclose(mean.numpy(), theirs[0].ravel(), atol=1e-9)
    np.testing.assert_allclose(covariance.numpy(), theirs[1], atol=1e-7)
    half = root(covariance)
    mapped = sum(w * root(half @ s @ half) for w, s in zip(weights, inner, strict=True))
    torch.testing.assert_close(mapped, covariance, rtol=1e-8, atol=1e-9)


def criterion(covariance: Tensor, p: MemoryPosteriors) -> float:
    half = root(covariance)
    inner = covariances(p.mean, p.scale)
    squares = [(covariance + s).trace() - 2 * root(half @ s @ half).trace() for s in inner]
    return float(p.log_weights.exp() @ torch.stack(squares))


def test_no_step_of_the_barycentre_raises_the_criterion_and_no_change_lowers_it() -> None:
    p = posteriors(30, 4)
    found = fit(KINDS["barycentre"], p)
    trace = found.trace["wasserstein"]
    assert found.outcome.ok
    assert all(b <= a + 1e-12 for a, b in zip(trace, trace[1:], strict=False))
    assert trace[0] - trace[-1] > 1e-4
    covariance = covariances(found.distribution.mean, found.distribution.scale)
    assert trace[-1] == pytest.approx(criterion(covariance, p), abs=1e-10)
    rng = stream(0, "perturb")
    for size in (1e-3, 1e-1):
        for _ in range(5):
            step = torch.randn(4, 4, generator=rng, dtype=torch.float64) * size
            moved = torch.eye(4, dtype=torch.float64) + step
            assert criterion(moved @ covariance @ moved.T, p) > trace[-1]


def test_a_barycentre_that_stops_early_says_so() -> None:
    early = fit(BarycentreSettings(iterations=1), posteriors())
    assert not early.outcome.ok
    assert "the last of 1 steps still changed a standard deviation by a share of" in early.outcome.message
    assert "raise iterations" in early.outcome.message
    for changes in ({"iterations": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}):
        with pytest.raises(UsageError, match=f"{next(iter(changes))}: expected"):
            fit(BarycentreSettings(**changes), posteriors())


def test_roots_of_very_thin_posteriors_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard deviations of 1 and 1e-6: of their squares, 1e12 apart, an eigenvalue routine gives four digits."""
    turn, scale = orthogonal(), torch.tensor([1.0, 1e-2, 1e-6], dtype=torch.float64)
    # the factor of a Cholesky decomposition would have lost the digits already
    upper = torch.linalg.qr((turn * scale).T).R
    tril = (upper * upper.diagonal().sign()[:, None]).T.contiguous().tril()
    p = MemoryPosteriors(torch.zeros(1, D, dtype=torch.float64), tril[None])

    def thinnest() -> float:
        found = module._mean_root(p, torch.ones(1, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
        return float(turn[:, 2] @ found @ turn[:, 2])

    assert thinnest() == pytest.approx(1e-6, rel=1e-8)
    monkeypatch.setattr(module, "LOST", 0.0)
    assert thinnest() != pytest.approx(1e-6, rel=1e-6)


# log-pool


def test_log_pool_is_the_normalised_geometric_mean_and_the_closest_in_reverse_kl() -> None:
    p = posteriors()
    weights, each = p.log_weights.exp(), MultivariateNormal(p.mean, scale_tril=p.scale)
    r = fit(LogPoolSettings(), p).distribution
    assert isinstance(r, LogPool)
    z = torch.randn(50, D, generator=stream(0, "z"), dtype=torch.float64)
    constant = r.log_prob(z) - each.log_prob(z[:, None]) @ weights
    torch.testing.assert_close(constant, constant[:1].expand(50), rtol=0, atol=1e-9)
    precision = torch.linalg.inv(covariances(p.mean, p.scale))
    total = torch.einsum("n,nij->ij", weights, precision)
    torch.testing.assert_close(covariances(r.mean, r.scale), torch.linalg.inv(total), rtol=1e-10, atol=1e-12)
    pulled = torch.einsum("n,nij,nj->i", weights, precision, p.mean)
    torch.testing.assert_close(r.mean, torch.linalg.solve(total, pulled), rtol=1e-10, atol=1e-12)

    def reverse(mean: Tensor, tril: Tensor) -> float:
        r = MultivariateNormal(mean.expand(12, D), scale_tril=tril.expand(12, D, D))
        return float(weights @ kl_divergence(r, each))

    best, rng = reverse(r.mean, r.scale), stream(0, "perturb")
    for _ in range(10):
        step = 0.05 * torch.randn(D, D + 1, generator=rng, dtype=torch.float64)
        assert reverse(r.mean + step[:, D], r.scale + step[:, :D].tril() * r.scale.diagonal().min()) > best


def test_a_row_counts_by_its_precision() -> None:
    p = posteriors(40, weighted=False)
    scale = p.scale.clone()
    scale[0] *= 1e-3
    one = MemoryPosteriors(p.mean, scale)
    for settings in (LogPoolSettings(), ProductOfExpertsSettings()):
        assert fit(settings, one).distribution.least_rows == pytest.approx(1, abs=0.01)


# product-of-experts


def test_product_is_proportional_to_the_product_of_densities_of_the_group() -> None:
    p = posteriors(weighted=True)
    group = (2, 5, 7)
    r = fit(ProductOfExpertsSettings(group=group), p).distribution
    assert isinstance(r, ProductOfExperts)
    assert r.rows == 3
    z = torch.randn(50, D, generator=stream(0, "z"), dtype=torch.float64)
    each = MultivariateNormal(p.mean[list(group)], scale_tril=p.scale[list(group)]).log_prob(z[:, None]).sum(1)
    constant = r.log_prob(z) - (each - 2 * Prior(D).log_prob(z))  # p prod q/p = prod q / p^2; weights do not count
    torch.testing.assert_close(constant, constant[:1].expand(50), rtol=0, atol=1e-8)


def test_a_product_that_is_no_density_is_said_where_only_a_direction_is_too_wide() -> None:
    """Both standard deviations are below 1; the principal one, across, is above."""
    s = torch.tensor([[0.9, 0.8], [0.8, 0.9]], dtype=torch.float64)
    tril = torch.linalg.cholesky(s).expand(9, 2, 2).clone()
    p = MemoryPosteriors(torch.zeros(9, 2, dtype=torch.float64), tril)
    found = fit(ProductOfExpertsSettings(), p)
    assert isinstance(found.distribution, Prior)
    assert not found.outcome.ok
    least = 9 / 1.7 - 8
    assert f"its precision in 1 of 2 principal directions is {least:.3g}" in found.outcome.message
    flat = MemoryPosteriors(torch.zeros(9, 2).double(), torch.eye(2).double().expand(9, 2, 2).clone())
    mean, covariance = moments(ProductOfExpertsSettings(), flat)  # posteriors that equal the prior say nothing
    torch.testing.assert_close(covariance, torch.eye(2, dtype=torch.float64))
    assert float(mean.abs().max()) == 0


# the audit


def test_an_audit_of_full_posteriors_has_every_average() -> None:
    p, fresh = diagonal(40), diagonal(20)

    def found(train: MemoryPosteriors, held: MemoryPosteriors):
        cut = surgery(Split("train", train), rng=stream(0, "s"))
        return averages(study({"train": train, "heldout": held}), cut)

    one, other = found(p, fresh), found(as_full(p), as_full(fresh))
    assert list(other.members) == list(one.members)
    assert "product-of-experts" in other.members
    assert other.product_fails == ""
    for name, a in one.members.items():
        b = other.members[name]
        for field in ("forward", "heldout", "to_prior", "reverse"):
            if getattr(a, field) is not None and name != "aggregated posterior":  # that one is by draws
                assert getattr(b, field).value == pytest.approx(getattr(a, field).value, abs=1e-8), (name, field)
        assert b.width == pytest.approx(a.width, rel=1e-9)
        assert b.offset == pytest.approx(a.offset, rel=1e-9)
    q = posteriors(40)
    mine = found(q, posteriors(20, seed=1)).members
    assert min((m.reverse.value, n) for n, m in mine.items() if m.reverse is not None)[1] == "log-pool"
    gaussians = ("prior", "moment match", "log-pool", "barycentre", "product-of-experts")
    assert min(gaussians, key=lambda n: mine[n].forward.value) == "moment match"
