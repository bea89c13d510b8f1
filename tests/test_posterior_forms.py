"""Posteriors that are not diagonal Gaussians: full covariances, several components a datum, draws (docs/theory.md, 10).

A posterior that is written in another form is the same posterior: nothing that is measured may change.
"""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import zprime
from zoo import ZOO
from zprime import encoding
from zprime.arrays import gaussian_log_prob, times, whitened
from zprime.data import Rows
from zprime.distribution import Density, LatentDistribution
from zprime.errors import ArrayError, NumericalError, UsageError
from zprime.latent import Aggregated, Gaussian, Prior
from zprime.latent.active import active_dimensions
from zprime.latent.gaussian import moments, scatter_of
from zprime.latent.kind import Task
from zprime.latent.mixture import MixtureSettings
from zprime.latent.selection import Codes
from zprime.measure.candidates import Candidates
from zprime.measure.latents.averages import forward_kl, reverse_kl
from zprime.measure.latents.hole import gaussian_bound, own_mixture
from zprime.measure.latents.leave_one_out import leave_one_out
from zprime.measure.latents.surgery import surgery
from zprime.measure.likelihood.ais import _score
from zprime.measure.likelihood.gains import elbo_gain, exact_posterior_gain, measure_gains
from zprime.measure.likelihood.proposal import cap, wider
from zprime.measure.prior import prior_kl
from zprime.measure.study import Split, gather
from zprime.posteriors import MemoryPosteriors, ShardedPosteriors
from zprime.reporting.explain import explain
from zprime.reporting.page import html
from zprime.reporting.terminal import details, show
from zprime.results.audit import AuditSettings, load
from zprime.results.names import CandidateId
from zprime.rng import stream

N, D = 60, 3


def diagonal(n: int = N, seed: int = 0, first: int = 0) -> MemoryPosteriors:
    rng = stream(seed, "forms")
    mean = torch.randn(n, D, generator=rng, dtype=torch.float64)
    scale = 0.2 + 0.5 * torch.rand(n, D, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean, scale, row_ids=first + torch.arange(n))


def full(n: int = N, seed: int = 0, first: int = 0) -> MemoryPosteriors:
    rng = stream(seed, "full forms")
    mean = torch.randn(n, D, generator=rng, dtype=torch.float64)
    a = torch.randn(n, D, D, generator=rng, dtype=torch.float64)
    covariance = 0.05 * a @ a.mT + 0.05 * torch.eye(D, dtype=torch.float64)
    return MemoryPosteriors(mean, torch.linalg.cholesky(covariance), row_ids=first + torch.arange(n))


def as_full(p: MemoryPosteriors) -> MemoryPosteriors:
    return MemoryPosteriors(p.mean, torch.diag_embed(p.scale), row_ids=p.row_ids, weights=p.weights, labels=p.labels)


def twice(p: MemoryPosteriors) -> MemoryPosteriors:
    """Every posterior as a mixture of two equal components."""
    ids = p.row_ids.repeat(2)
    return MemoryPosteriors(p.mean.repeat(2, 1), p.scale.repeat(2, *[1] * (p.scale.ndim - 1)), row_ids=ids)


def bimodal(n: int = 20) -> MemoryPosteriors:
    """Two components of weights 1/4 and 3/4 a datum, in one dimension."""
    rng = stream(3, "bimodal")
    mean = torch.randn(n, 1, generator=rng, dtype=torch.float64)
    both = torch.stack([mean - 1, mean + 0.5], 1).reshape(-1, 1)
    scale = torch.tensor([0.3, 0.6], dtype=torch.float64).repeat(n)[:, None]
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64).repeat(n) / n
    return MemoryPosteriors(both, scale, row_ids=torch.arange(n).repeat_interleave(2), weights=weights)


def test_scales_and_factors_say_the_same() -> None:
    p, z = full(), torch.randn(N, D, generator=stream(0, "z"), dtype=torch.float64)
    want = MultivariateNormal(p.mean, scale_tril=p.scale)
    assert torch.allclose(gaussian_log_prob(z, p.mean, p.scale), want.log_prob(z), atol=1e-10)
    assert torch.allclose(times(p.scale, whitened(z, p.scale)), z, atol=1e-10)
    many = torch.randn(N, 5, D, generator=stream(1, "z"), dtype=torch.float64)
    one = torch.stack([gaussian_log_prob(many[:, i], p.mean, p.scale) for i in range(5)], 1)
    assert torch.allclose(gaussian_log_prob(many, p.mean[:, None], p.scale[:, None]), one, atol=1e-10)
    wide = z.clone().requires_grad_()
    gaussian_log_prob(wide, p.mean, p.scale).sum().backward()
    assert torch.allclose(_score(z, p.mean, p.scale), wide.grad, atol=1e-9)


def test_moments_and_density_of_full_posteriors() -> None:
    p = full()
    mean, covariance = moments(p)
    inner = (p.scale @ p.scale.mT).mean(0)
    gap = p.mean - p.mean.mean(0)
    assert torch.allclose(mean, p.mean.mean(0), atol=1e-12)
    assert torch.allclose(covariance, inner + gap.T @ gap / N, atol=1e-12)
    z = torch.randn(7, D, generator=stream(0, "z"), dtype=torch.float64)
    terms = MultivariateNormal(p.mean, scale_tril=p.scale).log_prob(z[:, None]) - math.log(N)
    assert torch.allclose(p.log_prob(z), torch.logsumexp(terms, 1), atol=1e-10)
    out = torch.tensor([3, -1, 5, 0, 59, 99, 2])
    masked = terms.clone()
    for i, k in enumerate(out.tolist()):
        if 0 <= k < N:
            masked[i, k] = -torch.inf
    kept = torch.where((out >= 0) & (out < N), math.log1p(-1 / N), 0.0)
    assert torch.allclose(p.log_prob(z, leave_out=out), torch.logsumexp(masked, 1) - kept, atol=1e-10)


def test_many_full_components_are_evaluated_together_with_the_same_answer() -> None:
    p = full(400, seed=5)
    z = p.draw(rng=stream(0, "z"))
    terms = MultivariateNormal(p.mean, scale_tril=p.scale).log_prob(z[:, None]) - math.log(400)
    assert torch.allclose(p.log_prob(z), torch.logsumexp(terms, 1), atol=1e-9)


def gains_of(p: MemoryPosteriors) -> dict[str, torch.Tensor]:
    r = Gaussian(torch.full((D,), 0.3, dtype=torch.float64), torch.linalg.cholesky(COVARIANCE))
    few = full(40, seed=9)
    candidates = Candidates({"gaussian": r, "many": Aggregated(few.mean, few.scale), "wide": Prior(D, 0.9)})
    exact = exact_posterior_gain(candidates, p, rng=stream(0, "e"))
    return {str(k): v for k, v in exact.items()}


COVARIANCE = torch.tensor([[0.9, 0.4, 0.0], [0.4, 0.8, -0.2], [0.0, -0.2, 0.7]], dtype=torch.float64)


def test_diagonal_posteriors_written_as_full_ones_give_the_same_numbers() -> None:
    p, train = diagonal(), diagonal(seed=1, first=1000)
    q, held = as_full(p), as_full(train)
    for name, value in gains_of(p).items():
        assert torch.allclose(gains_of(q)[name], value, atol=1e-9), name
    assert torch.allclose(prior_kl(None, q, rng=stream(0, "k")), prior_kl(None, p, rng=stream(0, "k")), atol=1e-12)
    mean, covariance = scatter_of(p)
    assert torch.allclose(forward_kl(q, mean, covariance), forward_kl(p, mean, covariance), atol=1e-10)
    assert torch.allclose(reverse_kl(q, mean, covariance), reverse_kl(p, mean, covariance), atol=1e-9)
    one, other = (surgery(Split("train", x), rng=stream(0, "s")) for x in (p, q))
    for field in ("mean_kl", "information", "hole", "gaussian_part"):
        assert getattr(one, field).value == pytest.approx(getattr(other, field).value, abs=1e-9), field
    assert one.posterior_variance == pytest.approx(other.posterior_variance)
    one, other = (gaussian_bound(Split("train", a), Split("heldout", b), seed=0) for a, b in ((p, train), (q, held)))
    assert one.value == pytest.approx(other.value, abs=1e-10)
    for a, b in zip(*(own_mixture(Split("heldout", x), seed=0) for x in (train, held)), strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "aggregated"])
def test_kinds_fitted_to_either_form_are_the_same(kind: str) -> None:
    p, chosen = diagonal(200), diagonal(80, seed=1, first=1000)
    settings = MixtureSettings(components=2) if kind == "mixture" else kind
    one = zprime.fit(settings, p, selection=chosen).distribution
    other = zprime.fit(settings, as_full(p), selection=as_full(chosen)).distribution
    z = p.draw(rng=stream(4, "z"))
    assert torch.allclose(one.log_prob(z), other.log_prob(z), atol=1e-6)


def test_leave_one_out_of_full_posteriors() -> None:
    p, held = diagonal(40), diagonal(20, seed=1, first=1000)
    found = []
    for a, b in ((p, held), (as_full(p), as_full(held))):
        candidates = Candidates({"aggregated": Aggregated(a.mean, a.scale)})
        gains = measure_gains(candidates, Split("heldout", b), rng=stream(0, "g"), draws=0)
        found.append(leave_one_out(candidates, Split("train", a), gains, seed=0)[CandidateId("aggregated")])
    for field in ("elbo", "exact_posterior"):
        one, other = (getattr(x, field) for x in found)
        assert set(one) == {"self-included", "leave-one-out", "held-out"}
        for name, e in one.items():
            assert other[name].value == pytest.approx(e.value, abs=1e-8), (field, name)


def test_turning_all_latents_changes_no_gain() -> None:
    """z -> A z for orthogonal A takes prior, posteriors and a full-covariance candidate along."""
    p, fresh = full(300), full(100, seed=1, first=1000)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=stream(7, "turn"), dtype=torch.float64))

    def turned(p: MemoryPosteriors) -> MemoryPosteriors:
        scale = turn @ p.scale
        return MemoryPosteriors(p.mean @ turn.T, torch.linalg.cholesky(scale @ scale.mT), row_ids=p.row_ids)

    found = []
    for a, b in ((p, fresh), (turned(p), turned(fresh))):
        r = zprime.fit("gaussian", a, selection=b, keep_duplicates=True).distribution
        found.append(exact_posterior_gain(Candidates({"gaussian": r}), b, rng=stream(0, "e")))
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=1e-6), name


def test_correlated_posteriors_whose_mixture_is_the_prior_keep_it() -> None:
    """R = s^2 [[1, rho], [rho, 1]], mu ~ N(0, I - R): the diagonal alone seems to gain -1/2 log(1 - rho^2 s^4)."""
    s, rho, n = 0.7, 0.9, 4000
    r = s * s * torch.tensor([[1, rho], [rho, 1.0]], dtype=torch.float64)
    factor = torch.linalg.cholesky(r).expand(n, 2, 2).clone()
    spread = torch.linalg.cholesky(torch.eye(2, dtype=torch.float64) - r)

    def means(seed: int) -> torch.Tensor:
        return torch.randn(n, 2, generator=stream(seed, "mu"), dtype=torch.float64) @ spread.T

    gains = {}
    for form, scale in (("full", factor), ("diagonal", torch.full((n, 2), s, dtype=torch.float64))):
        train, fresh = (MemoryPosteriors(means(i), scale, row_ids=torch.arange(n) + n * i) for i in range(2))
        fitted = zprime.fit("gaussian", train, selection=fresh).distribution
        gains[form] = float(elbo_gain(Candidates({"g": fitted}), fresh, rng=stream(0, "g"))[CandidateId("g")].mean())
    assert abs(gains["full"]) < 0.01
    assert gains["diagonal"] == pytest.approx(-0.5 * math.log(1 - rho**2 * s**4), abs=0.03)


def test_the_density_of_a_posterior_of_several_components_is_that_of_all() -> None:
    p = bimodal()
    z = p.draw(rng=stream(0, "z"), draws=2)
    pairs = p.mean.reshape(-1, 2), p.scale.reshape(-1, 2)
    datum = torch.arange(20).repeat_interleave(2).repeat(2)
    terms = torch.stack(
        [gaussian_log_prob(z, pairs[0][datum, [k]][:, None], pairs[1][datum, [k]][:, None]) for k in (0, 1)]
    )
    want = torch.logsumexp(terms + torch.tensor([[0.25], [0.75]], dtype=torch.float64).log(), 0)
    assert torch.allclose(p.own_log_prob(z), want, atol=1e-10)
    some = p.take(torch.tensor([4, 7]))  # what is taken alone still knows the other component
    assert torch.allclose(some.own_log_prob(z[[4, 7]]), want[[4, 7]], atol=1e-10)


def test_the_exact_posterior_gain_of_several_components_is_by_datum() -> None:
    """log E_q[r/p] of the whole posterior, by quadrature."""
    p = bimodal()
    r = Gaussian(torch.tensor([0.4], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64))
    gains = measure_gains(Candidates({"r": r}), Split("heldout", p, groups=p.datum), rng=stream(0, "g"), draws=0)
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    step = float(z[1, 0] - z[0, 0])
    ratio = r.log_prob(z) - Prior(1).log_prob(z)
    q = torch.stack([gaussian_log_prob(z, m, s) for m, s in zip(p.mean, p.scale, strict=True)]).reshape(20, 2, -1)
    q = torch.logsumexp(q + torch.tensor([0.25, 0.75], dtype=torch.float64).log()[:, None], 1)
    want = torch.logsumexp(q + ratio, 1) + math.log(step)
    found = gains.exact_posterior[CandidateId("r")]
    assert torch.allclose(found.reshape(20, 2), want[:, None].expand(20, 2), atol=1e-6)


def test_two_equal_components_are_one_posterior() -> None:
    p, fresh = full(), full(seed=1, first=1000)
    q, other = twice(p), twice(fresh)
    for name, value in gains_of(fresh).items():
        assert torch.allclose(gains_of(other)[name], value.repeat(2), atol=1e-9), name
    assert q.effective_rows == pytest.approx(p.effective_rows)
    z = p.draw(rng=stream(0, "z"))
    assert torch.allclose(q.log_prob(z), p.log_prob(z), atol=1e-9)
    assert torch.allclose(q.log_prob(z, leave_out=p.row_ids), p.log_prob(z, leave_out=p.row_ids), atol=1e-9)
    one, two = (
        surgery(gather({"train": x, "selection": y, "heldout": y})[0], rng=stream(0, "s"))
        for x, y in ((p, fresh), (q, other))
    )
    assert two.log_n == pytest.approx(one.log_n)
    assert two.information.value == pytest.approx(one.information.value, abs=0.15)
    assert two.mean_kl.value == pytest.approx(one.mean_kl.value, abs=0.15)


def test_errors_and_effective_rows_count_data_not_components() -> None:
    p = bimodal(50)
    train, _, held = gather({"train": p, "selection": bimodal(50), "heldout": bimodal(50)})
    assert held.groups is not None
    assert held.design.units(held.n) == 50
    assert held.modes is not None
    assert torch.equal(held.modes[0], torch.stack([p.mean[0], p.mean[1]]))
    assert p.effective_rows == pytest.approx(50)
    one = MixtureSettings(components=2, least_rows=0.0).fit(Task(p, p, Prior(1), stream(0, "m"))).distribution
    alone = MemoryPosteriors(p.mean, p.scale, weights=p.weights)
    other = MixtureSettings(components=2, least_rows=0.0).fit(Task(alone, alone, Prior(1), stream(0, "m"))).distribution
    assert one.least_rows is not None
    assert other.least_rows is not None
    assert one.least_rows < other.least_rows
    assert p.pick(20, rng=stream(0, "p")).reshape(-1, 2).diff(dim=1).eq(1).all()


def test_draws_of_a_posterior_give_what_the_posterior_gives() -> None:
    p, fresh = full(400), full(300, seed=1, first=1000)
    m = 64

    def drawn(p: MemoryPosteriors) -> MemoryPosteriors:
        return MemoryPosteriors(p.draw(rng=stream(8, "d"), draws=m), None, row_ids=p.row_ids.repeat(m))

    q, other = drawn(p), drawn(fresh)
    assert q.form == "points"
    assert q.effective_rows == pytest.approx(400)
    candidates = Candidates({"g": zprime.fit("gaussian", p, selection=fresh).distribution})
    exact = exact_posterior_gain(candidates, fresh, rng=stream(0, "e"))[CandidateId("g")].mean()
    gains = measure_gains(candidates, Split("heldout", other, groups=other.datum), rng=stream(0, "g"), draws=400)
    elbo = elbo_gain(candidates, fresh, rng=stream(0, "e"))[CandidateId("g")].mean()
    assert float(gains.elbo[CandidateId("g")].mean()) == pytest.approx(float(elbo), abs=0.02)
    assert float(gains.exact_posterior[CandidateId("g")].mean()) == pytest.approx(float(exact), abs=0.02)
    by_datum = gains.elbo[CandidateId("g")].reshape(m, -1).mean(0)
    assert bool((gains.exact_posterior[CandidateId("g")][:300] >= by_datum - 1e-12).all())  # Jensen
    assert not gains.likelihood
    fitted = zprime.fit("gaussian", q, selection=other, keep_duplicates=True).distribution
    z = fresh.draw(rng=stream(0, "z"))
    gap = fitted.log_prob(z) - candidates.distribution(CandidateId("g")).log_prob(z)
    assert float(gap.mean().abs()) < 0.01


def test_what_needs_a_density_refuses_points() -> None:
    p = MemoryPosteriors(torch.randn(20, 2, generator=stream(0, "p")), None)
    with pytest.raises(ArrayError, match="needs Gaussian posteriors, and these are draws or codes"):
        p.log_prob(torch.zeros(1, 2))
    with pytest.raises(UsageError, match="kind aggregated: takes .* these posteriors are draws or codes"):
        zprime.fit("aggregated", p, selection=p, keep_duplicates=True)
    with pytest.raises(UsageError, match="kind kronecker: takes Gaussians with standard deviations"):
        zprime.fit("kronecker", full(), selection=full(seed=1))


def test_scales_that_are_no_factors_are_refused() -> None:
    p = full()
    with pytest.raises(ArrayError, match="lower triangular Cholesky factors, got .* above the diagonal in row 0"):
        MemoryPosteriors(p.mean, p.scale @ p.scale.mT)
    with pytest.raises(ArrayError, match="standard deviations above 0, got -0"):
        MemoryPosteriors(p.mean, -p.scale)


def test_scales_of_proposals_are_at_most_the_priors_in_every_direction() -> None:
    p = full()
    wide = MemoryPosteriors(p.mean, 3 * p.scale)
    width = torch.full((D,), 0.8, dtype=torch.float64)
    assert bool(wider(wide.mean, wide.scale, width).any())
    capped = cap(wide.mean, wide.scale, width)
    assert not bool(wider(wide.mean, capped * (1 - 1e-9), width).any())
    narrow = ~wider(wide.mean, wide.scale, width)
    assert torch.allclose(capped[narrow], wide.scale[narrow], atol=1e-9)
    assert torch.equal(cap(p.mean, p.scale, 100 * width), p.scale)


def test_kinds_that_take_rows_for_data_refuse_parts_of_posteriors() -> None:
    p = twice(diagonal())
    for kind in ("barycentre", "log-pool", "product-of-experts"):
        with pytest.raises(UsageError, match=f"kind {kind}: takes one Gaussian a datum, .* have several parts"):
            zprime.fit(kind, p, selection=p, keep_duplicates=True)


def test_choices_on_the_selection_split_count_data() -> None:
    p = diagonal()
    z = torch.randn(len(p.mean) * 2, D, generator=stream(0, "z"), dtype=torch.float64)
    log_r = z[:, 0]
    one, two = (
        Codes(z, torch.zeros(len(z), dtype=torch.float64), 2 * N, None, groups).gain(log_r)
        for groups in (None, torch.arange(N).repeat(2))
    )
    assert one.mean == two.mean
    assert one.stderr != two.stderr
    drawn = Codes.draw(twice(p), Prior(D), rng=stream(0, "c"))
    assert drawn.groups is not None
    assert torch.equal(drawn.groups, torch.arange(N).repeat(2))


class Correlated:
    """An encoder with full covariances."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lower = torch.eye(2).expand(len(x), 2, 2) * 0.5
        return x, lower + torch.diag_embed(x[:, :1], -1) * 0.2


def test_full_posteriors_are_encoded_in_shards_as_in_memory(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 16)
    rows = Rows("train", torch.randn(50, 2, generator=stream(0, "rows")), torch.arange(50))
    stored = encoding.encode(Correlated(), rows, tmp_path / "p")
    memory = encoding.encode(Correlated(), rows).gather()
    again = ShardedPosteriors(tmp_path / "p")
    assert again.form == memory.form == "full"
    assert len(list(stored.shards())) == 4
    assert torch.equal(again.gather().scale, memory.scale)
    z = memory.draw(rng=stream(0, "z"))
    assert torch.allclose(again.log_prob(z), memory.log_prob(z), atol=1e-9)
    assert torch.allclose(again.log_prob(z, leave_out=rows.ids), memory.log_prob(z, leave_out=rows.ids), atol=1e-9)
    mean, covariance = moments(again)
    assert torch.allclose(covariance, moments(memory)[1], atol=1e-9)
    assert again.bytes == memory.bytes == 50 * 6 * 4
    on_demand = encoding.Reencoded(Correlated(), rows)
    assert on_demand.form == "full"
    assert on_demand.sample(20, rng=stream(0, "s")).shape == (20, 2)


def test_an_encoder_whose_factor_is_none_is_named() -> None:
    class Wrong(Correlated):
        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, scale = super().encode(x)
            scale = scale.clone()
            scale[3, 1, 1] = -0.5
            return mean, scale

    rows = Rows("train", torch.randn(5, 2, generator=stream(0, "rows")), torch.arange(10, 15))
    with pytest.raises(NumericalError, match="row 13 of train got mean .* and scale -0.5 in dimension 1"):
        encoding.encode(Wrong(), rows)


class Taken(LatentDistribution):
    """A distribution taken along by z -> A z + b."""

    def __init__(self, r: LatentDistribution, a: torch.Tensor, b: torch.Tensor) -> None:
        self.r, self.a, self.b = r, a, b

    @property
    def d(self) -> int:
        return self.r.d

    @property
    def density(self) -> Density:
        return self.r.density

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        u = torch.linalg.solve(self.a, (z - self.b).T).T
        return self.r.log_prob(u) - self.a.diagonal().log().sum()

    def sample(self, n: int, *, rng: torch.Generator) -> torch.Tensor:
        return self.r.sample(n, rng=rng).double() @ self.a.T + self.b

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def config(self) -> dict:
        return {}

    @classmethod
    def rebuild(cls, config, tensors) -> LatentDistribution:
        raise NotImplementedError


Taken.kind = "taken along"  # not in the registry: it is of these tests alone


@pytest.mark.parametrize("name", [n for n in ZOO if not n.startswith("defensive")])  # those are blends of two
def test_an_affine_change_of_latents_with_prior_and_candidate_changes_no_gain(name: str) -> None:
    """z -> A z + b takes posteriors, p and r along: log r - log p is what it was, whatever the kind."""
    d = 3
    r = ZOO[name](d, torch.float64)
    if r.density == "none":
        return
    p = full(40)
    a = torch.tensor([[1.5, 0.0, 0.0], [-0.7, 0.6, 0.0], [0.3, 0.9, 2.0]], dtype=torch.float64)
    b = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    moved = MemoryPosteriors(p.mean @ a.T + b, a @ p.scale, row_ids=p.row_ids)
    here = Candidates({"r": r})
    there = Candidates({"r": Taken(r, a, b)}, prior=Gaussian(b, a))
    gains = [elbo_gain(c, q, rng=stream(0, "g"))[CandidateId("r")] for c, q in ((here, p), (there, moved))]
    assert torch.allclose(*gains, atol=1e-5), (gains[0] - gains[1]).abs().max()
    # the prior itself gains nothing, in either
    assert float(elbo_gain(there, moved, rng=stream(0, "g"))[CandidateId("prior")].abs().max()) < 1e-9


def spread_apart(n: int = 40) -> MemoryPosteriors:
    """The same two components for every datum: the code of a row says nothing of it."""
    mean = torch.tensor([[-0.8, 0.8]], dtype=torch.float64).T.repeat(n, 1)
    return MemoryPosteriors(mean, torch.full_like(mean, 0.6), row_ids=torch.arange(n).repeat_interleave(2))


def test_spread_between_parts_of_a_datum_is_no_signal() -> None:
    p = spread_apart()
    train = gather({"train": p, "selection": p, "heldout": p})[0]
    found = surgery(train, rng=stream(0, "s"))
    assert found.active == 0
    assert found.mean_kl.n == 40
    assert found.mean_variance == pytest.approx([0])
    assert found.posterior_variance == pytest.approx([1.0])
    assert found.information.value == pytest.approx(0, abs=1e-6)
    assert active_dimensions(p) == []
    assert active_dimensions(bimodal()) == [0]


def test_a_datum_is_there_twice_only_if_all_of_its_parts_are() -> None:
    rng = stream(0, "shared")
    own = torch.randn(60, 1, generator=rng, dtype=torch.float64)

    def with_shared(mean: torch.Tensor, first: int) -> MemoryPosteriors:
        both = torch.stack([mean, torch.zeros_like(mean)], 1).reshape(-1, 1)
        ids = first + torch.arange(len(mean)).repeat_interleave(2)
        return MemoryPosteriors(both, torch.full_like(both, 0.5), row_ids=ids)

    train, other = with_shared(own[:30], 0), with_shared(own[30:], 100)
    assert zprime.fit("gaussian", train, selection=other).distribution.d == 1
    with pytest.raises(ArrayError, match="60 of 60 selection rows have the posterior of a training row"):
        zprime.fit("gaussian", train, selection=with_shared(own[:30], 100))


def test_one_part_of_each_datum_is_drawn_by_its_weight() -> None:
    p = bimodal(4000)
    at = p.one_each(rng=stream(0, "one"))
    assert torch.equal(p.row_ids[at], torch.arange(4000))
    assert float((at % 2).double().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(full().one_each(rng=stream(0, "one")), torch.arange(N))


@pytest.mark.parametrize("codes", ["means", "draws", "posteriors"])
def test_mixtures_of_correlated_posteriors_start_from_what_is_between_them(codes: str) -> None:
    r = torch.tensor([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    tril = torch.linalg.cholesky(0.6 * r).expand(200, 3, 3).clone()
    mean = torch.randn(200, 3, generator=stream(0, "m"), dtype=torch.float64) * 0.6
    p = MemoryPosteriors(mean, tril)
    settings = MixtureSettings(components=2, codes=codes)
    assert zprime.fit(settings, p, selection=p, keep_duplicates=True).outcome.ok
    points = MemoryPosteriors(mean, None)
    assert zprime.fit(settings, points, selection=points, keep_duplicates=True).outcome.ok


def test_what_is_taken_or_weighted_keeps_what_it_is_a_part_of() -> None:
    p = twice(diagonal())
    some = p.take(torch.tensor([0, 0, 1]))
    assert some.datum is not None
    alone = diagonal().take(torch.tensor([0, 0, 1]))  # drawn with replacement: two data
    assert alone.datum is None
    assert alone.restrict([0]).datum is None
    assert alone.weighted(torch.tensor([1.0, 2.0, 3.0])).datum is None
    assert Split("heldout", p).design.units(p.n) == N


def test_parts_of_a_datum_in_two_groups_are_refused() -> None:
    p = twice(diagonal())
    groups = {"train": torch.arange(2 * N), "selection": torch.arange(2 * N), "heldout": torch.arange(2 * N)}
    groups = {s: [f"{s} {i}" for i in g.tolist()] for s, g in groups.items()}
    with pytest.raises(ArrayError, match="groups: expected all parts of a datum in one group"):
        gather({"train": p, "selection": p, "heldout": p}, groups=groups)


@pytest.mark.parametrize("make", [full, lambda *a, **k: twice(full(*a, **k)), lambda *a, **k: twice(diagonal(*a, **k))])
def test_an_audit_of_any_form_is_told_saved_and_read_again(make, tmp_path) -> None:
    p = {s: make(60, seed=i, first=1000 * i) for i, s in enumerate(("train", "selection", "heldout"))}
    fits = {k: zprime.fit(k, p["train"], selection=p["selection"]) for k in ("gaussian", "aggregated")}
    audit = zprime.audit(fits, p, settings=AuditSettings(rows=60))
    audit.save(tmp_path / "audit")
    again = load(tmp_path / "audit")
    assert again.averages == audit.averages
    for told in (explain(again), html(again)):
        assert "aggregated" in told
    show(again)
    details(again)
