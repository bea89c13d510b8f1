"""All three rungs of the ladder for every kind of r, on the linear-Gaussian model, where each has a known value."""

import functools
import math

import pytest
import torch
from torch import Tensor

from oracles import evidence, grid, hermite, linear_gaussian
from zoo import ZOO
from zprime.arrays import gaussian_log_prob, standard_log_prob
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import Defensive, Flow, Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import ELBO_DRAWS, RowGains, measure_gains
from zprime.measure.likelihood.proposal import Plan, match, propose
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId
from zprime.rng import stream

MODEL = linear_gaussian()
N = 16
X, _ = MODEL.sample(N, seed=5)
MEAN, SCALE = MODEL.posterior(X)
ROWS = Rows("heldout", X, torch.arange(N))
CALLED = {"product-of-experts": "shared", "log-pool": "pool"}
"""Names of candidates decide their random streams: these keep the streams that the tests were made with."""
KINDS = {CALLED.get(n, n): n for n in ZOO if n not in ("prior", "shared-nuts")}
NAMES = list(KINDS)
"""All kinds that have a density, and are not the reference itself."""
GRID, AREA = grid()


@functools.cache
def r(name: str) -> LatentDistribution:
    return ZOO[KINDS[name]](2, torch.float64)


def named(name: str) -> CandidateId:
    """Under which the distribution is measured: with its share of the prior, where it has one."""
    found = r(name)
    return CandidateId.of(name, found.epsilon) if isinstance(found, Defensive) else CandidateId(name)


@functools.cache
def truth(name: str) -> Tensor:
    return evidence(MODEL, X, r(name)) - MODEL.log_evidence(X)


@functools.cache
def ladder(widen: float = 1.0) -> RowGains:
    """Every kind at once, on the same draws."""
    candidates = Candidates({n: r(n) for n in NAMES})
    model, posteriors = MODEL.vae(widen=widen), MemoryPosteriors(MEAN, SCALE * widen)
    return measure_gains(candidates, Split("heldout", posteriors, ROWS), rng=stream(0, "all"), model=model, draws=1200)


def closed(name: str) -> bool:
    return r(name).tilt(MEAN[:1], SCALE[:1], draws=0, rng=stream(0)) is not None


every = pytest.mark.parametrize("name", NAMES)


@every
def test_a_is_the_mean_of_log_r_minus_log_p_under_q(name: str) -> None:
    """Against Gauss-Hermite quadrature, row by row; then the mean over rows within its own error."""
    nodes, weights = hermite(MEAN, SCALE)
    flat = nodes.reshape(-1, 2)
    gap = (r(name).log_prob(flat) - standard_log_prob(flat)).reshape(N, -1)
    expected = gap @ weights
    stderr = ((gap.square() @ weights - expected.square()).clamp(min=0) / ELBO_DRAWS).sqrt()
    error = ladder().elbo[named(name)] - expected
    assert (error.abs() < 4.5 * stderr + 5e-3).all()
    assert abs(float(error.sum())) < 4 * float(stderr.square().sum().sqrt()) + 5e-3 * N


@every
def test_b_is_the_change_of_the_evidence(name: str) -> None:
    """In closed form to rounding (as stored), by importance sampling within its own Monte Carlo error."""
    error = ladder().exact_posterior[named(name)] - truth(name)
    if closed(name):
        assert float(error.abs().max()) < 1e-6
        assert named(name) not in ladder().exact_posterior_quarter
        return
    moved = float((ladder().exact_posterior[named(name)] - ladder().exact_posterior_quarter[named(name)]).abs().mean())
    assert 0 < moved < 0.05
    assert float(error.abs().max()) < 0.1
    assert abs(float(error.mean())) < 0.01


@every
def test_b_exceeds_a_by_the_divergence_of_q_from_q_r(name: str) -> None:
    """Exact-posterior gain - ELBO gain = KL(q || q_r), with q_r normalised by quadrature, not by any of the gains."""
    log_ratio = r(name).log_prob(GRID) - standard_log_prob(GRID)
    log_q = gaussian_log_prob(GRID.expand(N, -1, -1), MEAN[:, None], SCALE[:, None])
    log_q_r = log_q + log_ratio
    log_q_r = log_q_r - torch.logsumexp(log_q_r, 1, keepdim=True) - math.log(AREA)
    q = log_q.exp() * AREA
    kl = (q * (log_q - log_q_r)).sum(1)
    var = (q * (log_q - log_q_r - kl[:, None]).square()).sum(1)
    error = ladder().exact_posterior[named(name)] - ladder().elbo[named(name)] - kl
    slack = 5e-3 if closed(name) else 0.03
    assert (kl > -1e-9).all()
    assert abs(float(error.mean())) < 4 * float(var.sum().sqrt()) / N / math.sqrt(ELBO_DRAWS) + slack


@every
@pytest.mark.parametrize("widen", [1.0, 0.6, 1.5])
def test_c_is_the_change_of_the_evidence_whatever_the_encoder(name: str, widen: float) -> None:
    error = ladder(widen).likelihood[named(name)] - truth(name)
    assert float(error.abs().max()) < 0.7  # one row of the narrowest kind is off by .63
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(N) + 0.02
    assert float(error.mean().abs()) < 0.08


def test_log_prior_and_reconstruction() -> None:
    found = ladder()
    assert found.log_prior is not None
    assert found.reconstruction is not None
    torch.testing.assert_close(found.log_prior, MODEL.log_evidence(X), rtol=0, atol=0.3)
    expected, _ = MODEL.elbo(X)
    plan = Plan.of(Candidates({n: r(n) for n in NAMES}), 1200)
    # Var_q of log p(x|z) row by row is 1/2 sum (s^2 g / var)^2 + ...; bounded here by 4
    error = found.reconstruction - expected
    assert abs(float(error.mean())) < 4 * 2 / math.sqrt(4 * plan.widened[0] * N)


def test_without_a_decoder_b_is_there_for_every_kind_all_the_same() -> None:
    names = ["mixture", "flow", "flow-matching"]
    found = measure_gains(
        Candidates({n: r(n) for n in names}),
        Split("heldout", MemoryPosteriors(MEAN, SCALE)),
        rng=stream(0, "bare"),
        draws=800,
    )
    assert not found.likelihood
    assert {str(i) for i in found.exact_posterior_quarter} == {"flow", "flow-matching"}
    for name in names:
        assert float((found.exact_posterior[named(name)] - truth(name)).abs().max()) < 0.1
    assert measure_gains(
        Candidates({n: r(n) for n in names}), Split("h", MemoryPosteriors(MEAN, SCALE)), rng=stream(0, "bare"), draws=0
    ).exact_posterior.keys() == {CandidateId("prior"), CandidateId("mixture")}


class _Hidden(Gaussian):
    """A Gaussian that does not own up to its closed form."""

    kind = "hidden"

    def tilt(self, *args, **kwargs):
        return None


def sharp() -> tuple[Gaussian, Gaussian, MemoryPosteriors]:
    """An r from which q is far, in eight dimensions: with draws of q alone the estimate is off by nats."""
    mean = torch.full((8,), 0.6, dtype=torch.float64)
    tril = 0.35 * torch.eye(8, dtype=torch.float64)
    q = MemoryPosteriors(torch.zeros(16, 8, dtype=torch.float64), torch.full((16, 8), 0.6, dtype=torch.float64))
    return _Hidden(mean, tril), Gaussian(mean, tril), q


def test_the_matched_gaussian_makes_b_right_where_draws_of_q_alone_are_off() -> None:
    hidden, plain, q = sharp()
    exact = plain.tilt(q.mean, q.scale, draws=0, rng=stream(0)).log_ratio
    z = q.draw(rng=stream(0, "q"), draws=400).reshape(400, -1, 8)
    naive = torch.logsumexp((plain.log_prob(z.reshape(-1, 8)) - standard_log_prob(z).flatten()).reshape(400, -1), 0)
    naive = naive - math.log(400)
    found = measure_gains(
        Candidates({"hidden": hidden}), Split("h", q), rng=stream(0, "measure_gains"), draws=400
    ).exact_posterior[CandidateId("hidden")]
    assert float((naive - exact).mean()) < -0.2
    assert abs(float((found - exact).mean())) < 0.1
    assert float((found - exact).abs().max()) < 0.7


def test_the_match_goes_towards_q_r_and_no_further() -> None:
    hidden, plain, q = sharp()
    tilted = plain.tilt(q.mean, q.scale, draws=2000, rng=stream(0, "q_r")).draws
    found = match(Candidates({"hidden": hidden}), ["hidden"], q.mean, q.scale, rng=stream(0, "pilot"))
    centre, spread = found["hidden"]
    target = tilted.mean(1)
    assert float((centre - target).norm(dim=1).mean()) < 0.75 * float((q.mean - target).norm(dim=1).mean())
    assert (spread > 0.7 * tilted.std(1)).all()
    same = match(Candidates({"flat": Flat(8)}), ["flat"], q.mean, q.scale, rng=stream(0, "pilot"))["flat"]
    assert float((same[0] - q.mean).abs().max()) < 0.5  # r = p: q_r is q
    torch.testing.assert_close(same[1].mean(), 1.2 * q.scale.mean(), rtol=0.1, atol=0)


class Flat(LatentDistribution):
    """The prior, without its closed form; counts how many points it was asked for."""

    kind = "flat"

    def __init__(self, d: int) -> None:
        self.dim, self.asked = d, 0

    @property
    def d(self) -> int:
        return self.dim

    def log_prob(self, z):
        self.asked += len(z)
        return standard_log_prob(z)

    def sample(self, n, *, rng):
        return torch.randn(n, self.dim, generator=rng, dtype=torch.float64)

    def tensors(self):
        return {}

    def config(self):
        return {}

    @classmethod
    def rebuild(cls, config, tensors):
        return cls(2)


def test_a_density_is_evaluated_once_a_draw() -> None:
    """400 draws and 64 of the pilot a row, however many blends show it; 16 for the ELBO gain."""
    flat = Flat(2)
    candidates = Candidates({"flat": Defensive(flat, 0.1), "mixture": r("mixture")})
    found = measure_gains(
        candidates,
        Split("h", MemoryPosteriors(MEAN, SCALE), ROWS),
        rng=stream(0, "x"),
        model=MODEL.vae(),
        draws=400,
    )
    assert flat.asked == N * (400 + 64 + ELBO_DRAWS)
    assert set(found.likelihood) == set(candidates.ids)
    for gain in (found.likelihood, found.exact_posterior):
        torch.testing.assert_close(gain[CandidateId("flat")], torch.zeros(N).double(), rtol=0, atol=0.05)


def test_the_proposal_is_what_the_draws_follow() -> None:
    """E_proposal[p(z) / proposal(z)] = 1 and E_proposal[q / proposal] = 1, for every row."""
    candidates = Candidates({n: r(n) for n in ("mixture", "flow", "resampled-rejection", "aggregated")})
    plan = Plan.of(candidates, 4000)
    for widen in (1.0, 2.5):  # 2.5 times these scales are wider than the prior
        drawn = propose(candidates, plan, MEAN[:4], SCALE[:4] * widen, stream(0, "p"))
        for log_density in (drawn.prior, drawn.posterior, *drawn.base.values()):
            w = (log_density - drawn.proposal).exp()
            assert ((w.mean(1) - 1).abs() < 4.5 * w.std(1) / math.sqrt(4000)).all()
        u = (drawn.z[:, drawn.from_posterior] - MEAN[:4, None]) / (SCALE[:4, None] * widen)
        torch.testing.assert_close(u.std(1), torch.ones(4, 2).double(), rtol=0.2, atol=0)
    assert isinstance(r("flow"), Flow)


class Narrow(Flat):
    """A narrow Gaussian in one dimension, without its closed form."""

    def __init__(self, centre: float, scale: float) -> None:
        super().__init__(1)
        self.centre, self.scale = centre, scale

    def log_prob(self, z: Tensor) -> Tensor:
        return gaussian_log_prob(z.double(), torch.tensor([self.centre]).double(), torch.tensor([self.scale]).double())


def matched(r: Narrow, rows: int = 200) -> tuple[Tensor, Tensor]:
    """What `match` makes of it for posteriors N(0, 1): means and standard deviations."""
    one = torch.zeros(rows, 1).double(), torch.ones(rows, 1).double()
    centre, spread = match(Candidates({"r": r}), ["r"], *one, rng=stream(0, "pilot"))["r"]
    return centre[:, 0], spread[:, 0]


def test_a_match_to_what_lies_far_off_leaves_a_dozen_draws() -> None:
    """Of 64 draws, the half of them 1.5 times as wide: by the largest alone the match would lie at 3."""
    centre, _ = matched(Narrow(4.0, 0.7))
    assert 1.3 < float(centre.mean()) < 2.2
    assert float(centre.std()) < 0.45
    near, _ = matched(Narrow(0.5, 0.5))  # half of them count there: nothing to temper
    product = 1 / (1 + 4 - 1)  # of N(0, 1) with N(0.5, 0.25) / N(0, 1)
    assert float(near.mean()) == pytest.approx(4 * 0.5 * product, abs=0.05)


def test_a_match_is_never_much_narrower_than_the_posterior() -> None:
    """A Gaussian of 0.2 that some 12 draws see: q counts for four draws of its own, so that its tails are not lost."""
    _, spread = matched(Narrow(0.0, 0.2))
    assert float(spread.min()) > 0.5
    assert float(spread.mean()) < 1.0


def test_where_q_is_wider_than_the_prior_its_scales_count_as_one() -> None:
    """q_r of a wide r and a wider q is no density; that of q with scale 1 is, and all draws have a finite weight."""
    r = Gaussian(torch.zeros(2).double(), 1.5 * torch.eye(2).double())
    candidates, scale = Candidates({"wide": r}), torch.full((6, 2), 3.0).double()
    assert not bool(torch.isfinite(r.tilt(MEAN[:6], scale, draws=0, rng=stream(0)).log_ratio).any())
    drawn = propose(candidates, Plan.of(candidates, 4000), MEAN[:6], scale, stream(0, "p"))
    for part in (drawn.z, drawn.proposal, drawn.log_ratio["wide"]):
        assert bool(torch.isfinite(part).all())
    torch.testing.assert_close(
        drawn.log_ratio["wide"], r.tilt(MEAN[:6], torch.ones(6, 2).double(), draws=0, rng=stream(0)).log_ratio
    )
    w = (drawn.base["wide"] - drawn.proposal).exp()
    assert ((w.mean(1) - 1).abs() < 4.5 * w.std(1) / math.sqrt(4000)).all()
