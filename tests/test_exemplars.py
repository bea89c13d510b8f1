"""exemplars: what the kernel keeps, its density against brute force, and the choice of rows and bandwidth."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from tasks import task
from zprime.arrays import standard_log_prob
from zprime.components import Diagonal, Full
from zprime.distribution import rebuild
from zprime.errors import UsageError
from zprime.kernels import diagonal_log_ratio
from zprime.latent import Prior, smoothed
from zprime.latent.aggregated import AggregatedSettings
from zprime.latent.exemplars import GRID, Exemplars, ExemplarsSettings
from zprime.latent.gaussian import GaussianSettings, moments
from zprime.latent.selection import EPSILONS, Codes
from zprime.latent.subset import k_medoids, npmle
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

BANDWIDTHS = (0.0, 0.05, 0.3, 0.7, 1.0)


def posteriors(
    n: int = 30, d: int = 3, *, weighted: bool = False, dtype=torch.float64, name: str = "exemplars"
) -> MemoryPosteriors:
    """Correlated means; scales from 0.05 to 1."""
    rng = stream(0, name, n, d)
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64) + torch.eye(d, dtype=torch.float64)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + 1
    scale = 0.05 + 0.95 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    weights = None
    if weighted:
        weights = (torch.rand(n, generator=rng, dtype=torch.float64) + 0.1).to(dtype)
        weights = weights / weights.sum()
    return MemoryPosteriors(mean.to(dtype), scale.to(dtype), weights=weights)


def points(m: int, d: int, name: str = "points") -> torch.Tensor:
    return 2 * torch.randn(m, d, generator=stream(0, name, m, d), dtype=torch.float64) + 1


def test_bandwidths_tried_rise_to_one_and_none_is_far_from_the_next() -> None:
    """A maximum between two of them would be missed, and one out of range is no bandwidth."""
    assert GRID[-1] == 1
    assert all(1 < b / a <= 2 for a, b in zip(GRID, GRID[1:], strict=False))
    assert 0 < GRID[0] <= 0.05


def fit(data: MemoryPosteriors, selection: MemoryPosteriors | None = None, **settings):
    return ExemplarsSettings(**settings).fit(task(data, selection=selection or data, rng=stream(0, "fit")))


def dense(r: Exemplars) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and covariances of all components, from the definition."""
    h = r.bandwidth
    a2 = 1 - h**2
    n = len(r.mean)
    s = r.tril @ r.tril.T if r.tril.ndim == 2 else torch.diag(r.tril.square())
    weights = torch.full((n,), 1 / n, dtype=torch.float64) if r.weights is None else r.weights
    return weights, math.sqrt(a2) * (r.mean - r.centre) + r.centre, a2 * torch.diag_embed(r.scale.square()) + h**2 * s


def brute(r: Exemplars) -> MixtureSameFamily:
    weights, mean, covariance = dense(r)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(mean, covariance))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bandwidth_0_is_the_aggregated_posterior_to_the_bit(covariance, dtype):
    q = posteriors(weighted=True, dtype=dtype)
    exact = AggregatedSettings().fit(task(q, selection=q, rng=stream(0))).distribution
    r = fit(q, bandwidth=0.0, covariance=covariance).distribution
    z = points(40, 3).to(dtype)
    assert bool((r.log_prob(z) == exact.log_prob(z)).all())
    assert bool((r.sample(20, rng=stream(1)) == exact.sample(20, rng=stream(1))).all())


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_bandwidth_1_is_the_moment_match(covariance):
    q = posteriors(weighted=True)
    match = GaussianSettings(covariance=covariance).fit(task(q, selection=q, rng=stream(0))).distribution
    r = fit(q, bandwidth=1.0, covariance=covariance).distribution
    z = points(40, 3)
    torch.testing.assert_close(r.log_prob(z), match.log_prob(z), atol=1e-10, rtol=0)
    near = fit(q, bandwidth=1 - 1e-12, covariance=covariance).distribution  # not the short cut
    torch.testing.assert_close(near.log_prob(z), match.log_prob(z), atol=1e-4, rtol=0)


@pytest.mark.parametrize("h", BANDWIDTHS)
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_mean_and_covariance_are_kept(h, covariance):
    q = posteriors(weighted=True)
    mean, target = moments(q)
    c = fit(q, bandwidth=h, covariance=covariance).distribution.components
    w = c.log_weight.exp()
    found = w @ c.mean
    gap = c.mean - found
    if isinstance(c, smoothed.Smoothed):
        own = torch.diag(w @ c.scale.square()) + c.tril @ c.tril.T
    elif isinstance(c, Full):
        own = c.scale_tril[0] @ c.scale_tril[0].T
    else:
        own = torch.diag(w @ c.scale.square())
    torch.testing.assert_close(found, mean, atol=1e-12, rtol=0)
    if covariance == "diagonal":  # correlations shrink by a^2
        target = target * (1 - h**2) + torch.diag(target.diagonal()) * h**2
    torch.testing.assert_close((gap * w[:, None]).T @ gap + own, target, atol=1e-12, rtol=0)


@pytest.mark.parametrize("h", BANDWIDTHS)
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_density_is_the_brute_force_mixture(h, d, covariance):
    r = fit(posteriors(40, d, weighted=True), bandwidth=h, covariance=covariance).distribution
    z = points(60, d)
    torch.testing.assert_close(r.log_prob(z), brute(r).log_prob(z), atol=1e-9, rtol=1e-12)


def test_density_with_scales_from_1e_4_to_1e_2():
    q = posteriors(20, 3)
    unit = torch.tensor([1e-4, 1, 1e2], dtype=torch.float64)
    wide = MemoryPosteriors(q.mean * unit, q.scale * unit)
    z = points(50, 3)
    a = fit(q, bandwidth=0.2, covariance="full").distribution.log_prob(z)
    b = fit(wide, bandwidth=0.2, covariance="full").distribution.log_prob(z * unit)
    torch.testing.assert_close(b + unit.log().sum(), a, atol=1e-8, rtol=0)
    # one narrow and one wide component in the same mixture
    q = MemoryPosteriors(
        q.mean, torch.where(torch.arange(20)[:, None] % 2 == 0, 1e-4, 1e2).double().expand(20, 3).clone()
    )
    r = fit(q, bandwidth=0.05, covariance="full").distribution
    torch.testing.assert_close(r.log_prob(z), brute(r).log_prob(z), atol=1e-8, rtol=0)


def test_far_away_points_have_a_finite_density():
    r = fit(posteriors(), bandwidth=0.05, covariance="full").distribution
    z = torch.full((1, 3), 300.0, dtype=torch.float64)
    torch.testing.assert_close(r.log_prob(z), brute(r).log_prob(z), atol=0, rtol=1e-9)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(smoothed, "COMPONENTS", 7)
    monkeypatch.setattr(smoothed, "POINTS", 3)
    monkeypatch.setattr(smoothed, "FLOATS", 1)
    monkeypatch.setattr(smoothed, "PAIRS", 100)


def test_blocks_change_nothing(request):
    q = posteriors(40)
    r = fit(q, bandwidth=0.3, covariance="full").distribution
    z = points(50, 3)
    leave = torch.arange(50) - 5
    whole, masked = r.log_prob(z), r.log_prob_without(z, leave.clamp(max=39))
    tilted = r.tilt(q.mean[:9], q.scale[:9], draws=3, rng=stream(0))
    request.getfixturevalue("small_blocks")
    torch.testing.assert_close(r.log_prob(z), whole, atol=1e-11, rtol=0)
    torch.testing.assert_close(r.log_prob_without(z, leave.clamp(max=39)), masked, atol=1e-11, rtol=0)
    torch.testing.assert_close(torch.cat([r.log_prob(z[i : i + 1]) for i in range(50)]), whole, atol=1e-11, rtol=0)
    again = r.tilt(q.mean[:9], q.scale[:9], draws=3, rng=stream(0))
    torch.testing.assert_close(again.log_ratio, tilted.log_ratio, atol=1e-11, rtol=0)
    torch.testing.assert_close(again.draws, tilted.draws, atol=1e-10, rtol=0)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("h", [0.0, 0.3, 1.0])
def test_leave_out_is_the_mixture_of_the_others(covariance, h):
    r = fit(posteriors(12, 2, weighted=True), bandwidth=h, covariance=covariance).distribution
    z = points(12, 2)
    position = torch.arange(12)
    position[:3] = -1
    weights, mean, full = dense(r)
    for i in range(12):
        w = weights.clone()
        w[position[i]] = w[position[i]] if position[i] < 0 else 0
        expected = MixtureSameFamily(Categorical(w / w.sum()), MultivariateNormal(mean, full)).log_prob(z[i])
        found = r.log_prob_without(z[i : i + 1], position[i : i + 1])
        torch.testing.assert_close(found[0], expected, atol=1e-10, rtol=0)


def test_tilt_is_that_of_the_explicit_mixture():
    q = posteriors(25)
    q = MemoryPosteriors(q.mean, q.scale.clamp(max=0.9))
    r = fit(q, bandwidth=0.4, covariance="full").distribution
    weights, mean, covariance = dense(r)
    explicit = Full(weights.log(), mean, torch.linalg.cholesky(covariance))
    expected = explicit.tilt(q.mean[:8], q.scale[:8], draws=5, rng=stream(3))
    found = r.tilt(q.mean[:8], q.scale[:8], draws=5, rng=stream(3))
    torch.testing.assert_close(found.log_ratio, expected.log_ratio, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.draws, expected.draws, atol=1e-9, rtol=0)


def test_tilt_where_the_integral_diverges():
    q = MemoryPosteriors(torch.zeros(4, 2, dtype=torch.float64), torch.full((4, 2), 3.0, dtype=torch.float64))
    found = fit(q, bandwidth=0.5, covariance="full").distribution.tilt(q.mean, q.scale, draws=2, rng=stream(0))
    assert bool((found.log_ratio == torch.inf).all())


def test_tilt_says_when_it_would_take_hours(monkeypatch):
    monkeypatch.setattr(smoothed, "CLOSED_FORM", 29)
    q = posteriors(30)
    for covariance, known in (("full", False), ("diagonal", True)):
        r = fit(q, bandwidth=0.3, covariance=covariance).distribution
        assert (r.tilt(q.mean, q.scale, draws=0, rng=stream(0)) is not None) == known


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_draws_have_the_moments_of_the_mixture(covariance):
    q = posteriors()
    r = fit(q, bandwidth=0.5, covariance=covariance).distribution
    n = 60_000
    z = r.sample(n, rng=stream(0, "draws"))
    weights, mean, full = dense(r)
    target = (full * weights[:, None, None]).sum(0) + torch.cov(mean.T, correction=0)
    unit = target.diagonal().sqrt()
    assert float(((z.mean(0) - r.centre) / unit).abs().max()) < 5 / math.sqrt(n)
    assert float(((torch.cov(z.T) - target) / unit / unit[:, None]).abs().max()) < 5 * math.sqrt(2 / n)
    # and each draw's log-density is what the density says: E[-log r] by both
    assert float(brute(r).log_prob(z[:2000]).mean()) == pytest.approx(float(r.log_prob(z[:2000]).mean()), abs=1e-9)


def test_no_covariance_is_stored_per_row_and_the_parts_rebuild_it():
    q = posteriors(30, 3, weighted=True)
    r = fit(q, bandwidth=0.3, covariance="full").distribution
    assert r.bytes == 8 * (2 * 30 * 3 + 3 + 9 + 30)
    assert r.stores_rows
    again = rebuild("exemplars", r.config(), r.tensors())
    z = points(10, 3)
    assert bool((again.log_prob(z) == r.log_prob(z)).all())
    assert bool((again.sample(10, rng=stream(0)) == r.sample(10, rng=stream(0))).all())
    assert r.label == "exemplars(30, h=0.3)"


def memorising() -> tuple[MemoryPosteriors, MemoryPosteriors, MemoryPosteriors]:
    """Training, selection and held-out posteriors so narrow that the aggregated posterior is a lookup table."""
    rng = stream(0, "memorising")
    mix = torch.tensor([[1, 0.6, 0], [0, 0.8, 0], [0, 0, 0.5]], dtype=torch.float64)
    split = [torch.randn(n, 3, generator=rng, dtype=torch.float64) @ mix for n in (300, 150, 600)]
    a, b, c = (MemoryPosteriors(m, torch.full_like(m, 0.03)) for m in split)
    return a, b, c


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("method", ["selection", "leave-one-out"])
def test_chosen_bandwidth_mends_a_lookup_table(method, covariance):
    train, selection, heldout = memorising()
    done = fit(train, selection, method=method, covariance=covariance)
    z = heldout.draw(rng=stream(0, "held out"))

    def gain(h: float) -> float:
        return float((replace(done.distribution, bandwidth=h).log_prob(z) - standard_log_prob(z)).mean())

    chosen = done.chosen.settings["bandwidth"]
    assert chosen in GRID
    assert gain(chosen) > 0.1  # better than the prior
    assert gain(0.0) < -10  # which the aggregated posterior is not
    assert gain(chosen) > max(gain(h) for h in GRID) - 0.05
    assert [(p.setting, p.value) for p in done.curve] == [("bandwidth", h) for h in GRID]
    best = max(done.curve, key=lambda p: p.gain)
    assert best.value == chosen


def test_leave_one_out_gain_is_that_of_the_others():
    """At one bandwidth, by hand: the curve's gain is the mean over rows of the mixture without each."""
    train, selection, _ = memorising()
    train = train.take(torch.arange(40))
    done = fit(train, selection, method="leave-one-out", covariance="full")
    at = done.curve[4]
    r = replace(done.distribution, bandwidth=at.value)
    weights, mean, full = dense(r)
    z = train.draw(rng=stream(0, "fresh"), draws=200)
    position = torch.arange(40).repeat(200)
    parts = MultivariateNormal(mean, full).log_prob(z[:, None]) - math.log(39)
    parts[torch.arange(len(z)), position] = -torch.inf
    by_row = torch.logsumexp(parts, 1).reshape(200, 40)
    log_r = torch.logaddexp(
        by_row + math.log1p(-at.epsilon),
        standard_log_prob(z).reshape(200, 40) + math.log(max(at.epsilon, 1e-300)),
    )
    expected = (log_r - standard_log_prob(z).reshape(200, 40)).mean()
    assert at.gain == pytest.approx(float(expected), abs=0.05)


def test_one_gaussian_is_called_by_its_name():
    rng = stream(0, "one gaussian")
    train, selection = (
        MemoryPosteriors(torch.randn(n, 2, generator=rng) * 0.8, torch.full((n, 2), 0.01)) for n in (40, 4000)
    )
    done = fit(train, selection)
    assert done.chosen.settings["bandwidth"] >= 0.6
    if done.chosen.settings["bandwidth"] == 1:
        assert "kind gaussian is the same and stores no rows" in done.outcome.message


def test_fit_twice_gives_the_same():
    train, selection, _ = memorising()
    for settings in ({"rows": 50, "subset": "kmedoids"}, {"rows": 50}, {"rows": 50, "subset": "npmle"}):
        a, b = fit(train, selection, **settings), fit(train, selection, **settings)
        assert a.chosen == b.chosen
        assert a.curve == b.curve
        assert all(
            bool((x == y).all())
            for x, y in zip(a.distribution.tensors().values(), b.distribution.tensors().values(), strict=True)
        )


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("subset", ["random", "kmedoids", "npmle"])
def test_one_and_two_rows(n, covariance, subset):
    r = fit(posteriors(n, 2), posteriors(5, 2), covariance=covariance, subset=subset).distribution
    z = points(10, 2)
    torch.testing.assert_close(r.log_prob(z), brute(r).log_prob(z), atol=1e-9, rtol=1e-9)


def test_medoids_find_clusters_and_weigh_them_by_their_share():
    rng = stream(0, "clusters")
    sizes = [10, 20, 30, 40, 100]
    centre = 10 * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [3, 3]], dtype=torch.float64)
    mean = centre.repeat_interleave(torch.tensor(sizes), 0) + torch.randn(200, 2, generator=rng, dtype=torch.float64)
    q = MemoryPosteriors(mean, torch.ones(200, 2, dtype=torch.float64))
    subset = k_medoids(q, 5, torch.eye(2, dtype=torch.float64), rng=stream(0, "medoids"))
    group = torch.arange(5).repeat_interleave(torch.tensor(sizes))
    assert group[subset.rows].tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(subset.weights, torch.tensor(sizes, dtype=torch.float64) / 200)
    # each is the member with the least sum of squared distances to its cluster
    for g, row in enumerate(subset.rows.tolist()):
        member = (group == g).nonzero().flatten()
        cost = torch.cdist(mean[member], mean[member]).square().sum(1)
        assert row == int(member[cost.argmin()])


def test_medoids_of_duplicates():
    mean = torch.tensor([[0.0, 0], [0, 0], [0, 0], [5, 5]], dtype=torch.float64)
    q = MemoryPosteriors(mean, torch.ones(4, 2, dtype=torch.float64))
    subset = k_medoids(q, 3, torch.eye(2, dtype=torch.float64), rng=stream(0))
    assert float(subset.weights.sum()) == pytest.approx(1)
    total = torch.zeros(2, dtype=torch.float64).index_add_(0, (mean[subset.rows, 0] > 1).long(), subset.weights)
    torch.testing.assert_close(total, torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_medoids_cover_better_than_random_rows():
    rng = stream(0, "cover")
    centre = 4 * torch.randn(12, 2, generator=rng, dtype=torch.float64)

    def some(n: int) -> MemoryPosteriors:
        mean = centre[torch.randint(12, (n,), generator=rng)] + 0.2 * torch.randn(
            n, 2, generator=rng, dtype=torch.float64
        )
        return MemoryPosteriors(mean, torch.full((n, 2), 0.2, dtype=torch.float64))

    train, selection, heldout = some(400), some(100), some(300)
    z = heldout.draw(rng=stream(0, "held out"))
    score = {}
    for subset in ("random", "kmedoids"):
        r = fit(train, selection, rows=12, subset=subset).distribution
        assert len(r.mean) == 12
        score[subset] = float(r.log_prob(z).mean())
    assert score["kmedoids"] > score["random"] + 0.3


def codes_for(selection: MemoryPosteriors) -> Codes:
    return Codes.draw(selection, Prior(selection.d), rng=stream(0, "codes"), points=600)


def themselves(q: MemoryPosteriors) -> Diagonal:
    """Every row's own posterior as its component."""
    return Diagonal(q.log_weights, q.mean, q.scale)


def test_npmle_takes_the_step_of_the_theory_page():
    """Against the formula: w_k <- mean_i w_k E_ik / sum_l w_l E_il with E_ii = 0, from the rows' weights."""
    q = posteriors(15, 2, weighted=True)
    q = MemoryPosteriors(q.mean, q.scale.clamp(max=0.8), weights=q.weights)
    e = diagonal_log_ratio(q.mean, q.scale, q.mean, q.scale).exp().fill_diagonal_(0)
    w = q.weights
    likelihood, gain = [], []
    codes = codes_for(posteriors(20, 2, name="other"))
    for _ in range(61):
        likelihood.append(float(q.weights @ (e @ w).log()))
        log_r = torch.log(Independent(Normal(q.mean, q.scale), 1).log_prob(codes.z[:, None]).exp() @ w)
        gain.append(max(codes.gain(log_r, share).mean for share in EPSILONS))
        w = w * (q.weights @ (e / (e @ w)[:, None]))
    found = npmle(q, themselves(q), 0, codes, rng=stream(0))
    assert found.trace["likelihood"] == pytest.approx(likelihood, abs=1e-9)
    assert found.trace["gain"] == pytest.approx(gain, abs=1e-9)
    assert gain[found.steps] == max(gain)


def test_npmle_likelihood_never_falls_and_the_best_step_is_taken():
    train, selection, _ = memorising()
    wide = MemoryPosteriors(train.mean, train.scale * 8)
    found = npmle(wide, themselves(wide), 0, codes_for(selection), rng=stream(0))
    likelihood, gain = found.trace["likelihood"], found.trace["gain"]
    assert all(b >= a - 1e-9 for a, b in zip(likelihood, likelihood[1:], strict=False))
    assert likelihood[-1] > likelihood[0] + 0.01
    assert found.steps == max(range(len(gain)), key=lambda i: gain[i])


def test_npmle_weights_undo_a_kernel_that_is_too_wide():
    """Three tight clumps under a wide kernel: weight moves to the rows in their middles, and held-out codes gain."""
    rng = stream(0, "clumps")
    centre = torch.tensor([[-1.5, 0], [1.5, 0], [0, 1.5]], dtype=torch.float64)

    def some(n: int) -> MemoryPosteriors:
        mean = centre[torch.randint(3, (n,), generator=rng)] + 0.3 * torch.randn(
            n, 2, generator=rng, dtype=torch.float64
        )
        return MemoryPosteriors(mean, torch.full((n, 2), 0.1, dtype=torch.float64))

    train, selection, heldout = some(200), some(100), some(400)
    z = heldout.draw(rng=stream(0, "held out"))
    weighed = fit(train, selection, subset="npmle", rows=30, bandwidth=0.5)
    equal = fit(train, selection, bandwidth=0.5).distribution
    assert weighed.chosen.settings["steps"] > 0
    assert len(weighed.distribution.mean) == 30
    assert float((weighed.distribution.log_prob(z) - equal.log_prob(z)).mean()) > 0.05


def test_npmle_smooths_before_it_weighs():
    """Narrow posteriors do not see each other: on them as they are the first step already overfits."""
    train, selection, heldout = memorising()
    alone = npmle(train, themselves(train), 0, codes_for(selection), rng=stream(0))
    assert alone.steps == 0
    done = fit(train, selection, subset="npmle")
    assert done.trace["gain"][done.chosen.settings["steps"]] > max(alone.trace["gain"]) + 1
    z = heldout.draw(rng=stream(0, "held out"))
    assert float((done.distribution.log_prob(z) - standard_log_prob(z)).mean()) > 0.1


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_npmle_takes_at_most_2000_rows_and_breaks_ties_at_random(monkeypatch, covariance):
    monkeypatch.setattr("zprime.latent.exemplars.NPMLE_ROWS", 100)
    monkeypatch.setattr("zprime.latent.subset.NPMLE_STEPS", 0)
    train, selection, _ = memorising()
    r = fit(train, selection, subset="npmle", rows=50, covariance=covariance).distribution
    position = (r.mean[:, None] == train.mean).all(2).nonzero()[:, 1]
    assert len(position) == 50
    assert position.double().mean() == pytest.approx(149.5, abs=5 * 300 / math.sqrt(12 * 50))
    torch.testing.assert_close(r.weights, torch.full((50,), 0.02, dtype=torch.float64))


def test_npmle_with_scales_above_1_stays_finite():
    q = posteriors(20, 2)
    q = MemoryPosteriors(q.mean, q.scale * 3)
    found = npmle(q, themselves(q), 5, codes_for(q), rng=stream(0))
    assert all(math.isfinite(v) for v in found.trace["likelihood"])
    assert len(found.rows) == 5


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_rows_of_weight_zero_count_for_nothing(covariance):
    q = posteriors(6, 2)
    weights = torch.tensor([0.5, 0, 0.25, 0.25, 0, 0], dtype=torch.float64)
    some = MemoryPosteriors(q.mean, q.scale, weights=weights)
    few = MemoryPosteriors(q.mean[[0, 2, 3]], q.scale[[0, 2, 3]], weights=weights[[0, 2, 3]])
    z = points(20, 2)
    a, b = (fit(p, bandwidth=0.3, covariance=covariance).distribution for p in (some, few))
    torch.testing.assert_close(a.log_prob(z), b.log_prob(z), atol=1e-10, rtol=0)
    p = MemoryPosteriors(q.mean, q.scale.clamp(max=0.9))
    torch.testing.assert_close(
        a.tilt(p.mean, p.scale, draws=0, rng=stream(0)).log_ratio,
        b.tilt(p.mean, p.scale, draws=0, rng=stream(0)).log_ratio,
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bandwidth": 1.5}, "bandwidth: expected 0 to 1, or -1 to choose, got 1.5"),
        ({"bandwidth": -0.5}, "bandwidth: expected 0 to 1, or -1 to choose, got -0.5"),
        ({"bandwidth": math.nan}, "bandwidth: expected 0 to 1, or -1 to choose, got nan"),
        ({"method": "guess"}, "method: expected selection or leave-one-out, got 'guess'"),
        ({"subset": "best"}, "subset: expected random, kmedoids or npmle, got 'best'"),
        ({"covariance": "low"}, "covariance: expected diagonal or full, got 'low'"),
        ({"rows": 31}, r"rows: expected 1 to 30 \(the number of posteriors\), or 0 for all, got 31"),
        ({"method": "leave-one-out", "rows": 1}, "leave-one-out expected at least two rows"),
    ],
)
def test_settings_that_cannot_be_used(settings, text):
    with pytest.raises(UsageError, match=text):
        fit(posteriors(), **settings)
