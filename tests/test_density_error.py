"""Gains of densities that are bounds or estimates: their own error is in the interval, and it is enough."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from oracles import grid, linear_gaussian
from ring import AREA, GRID, fit, ring
from test_two_stage import SMALL, true_log_prob
from zoo import ZOO
from zprime import distribution
from zprime.arrays import standard_log_prob
from zprime.auditing import audit
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import Active, Defensive, Gaussian, Prior
from zprime.latent.conditional import Conditional
from zprime.latent.network import MLP, Whitening
from zprime.latent.resampled import Normaliser, Resampled
from zprime.latent.two_stage import TwoStage
from zprime.measure.candidates import Candidates
from zprime.measure.latents.hole import best_elbo_gain
from zprime.measure.likelihood import density_error
from zprime.measure.likelihood.density_error import density_errors
from zprime.measure.likelihood.gains import RowGains, elbo_gain, measure_gains
from zprime.measure.likelihood.scores import elbo_estimate, exact_posterior_estimate, likelihood_estimate
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.gains import TERMINAL_NOTE
from zprime.reporting.page import html
from zprime.results.audit import Audit, AuditSettings
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.statistics.estimate import Z95, mean_estimate, widened

R = CandidateId("r")
DRAWS = 4  # few, so that the error is large: about 0.1 nats


@pytest.fixture(scope="module")
def second() -> TwoStage:
    found: TwoStage = fit(SMALL, ring(), ring(100, "selection")).distribution
    return replace(found, draws=DRAWS)


def some_rows(n: int, seed: int) -> MemoryPosteriors:
    """Rows drawn from those of the ring, with equal chances."""
    every = ring()
    at = torch.randint(every.n, (n,), generator=stream(seed, "rows"))
    return MemoryPosteriors(every.mean[at], every.scale[at])


def at_least(n: int, rate: float) -> int:
    """Successes that n tries with this rate reach but once in a thousand."""
    return int(binom.ppf(0.001, n, rate))


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_interval_of_the_elbo_gain_covers_the_exact_gain_over_seeds(second: TwoStage, epsilon: float) -> None:
    """Exact by quadrature over z and w; without the error of the bound the same intervals hardly ever cover it."""
    log_q, log_r, log_p = ring().log_prob(GRID), true_log_prob(second, GRID), standard_log_prob(GRID)
    if epsilon:
        log_r = torch.logaddexp(log_r + math.log1p(-epsilon), log_p + math.log(epsilon))
    truth = float((log_q.exp() * (log_r - log_p)).sum()) * AREA
    wanted = CandidateId.of("r", epsilon)
    tries, covered, bare = 40, 0, 0
    for seed in range(tries):
        r: LatentDistribution = replace(second, seed=100 * seed)
        candidates = Candidates({"r": Defensive(r, epsilon) if epsilon else r})
        split = Split("heldout", some_rows(1000, seed))
        elbo, ids = elbo_gain(candidates, split.posteriors, rng=stream(seed, "gain")), split.posteriors.row_ids
        errors = density_errors(candidates, split, None, 0, rng=stream(seed, "error"))
        e = elbo_estimate(RowGains("heldout", ids, elbo, density_error=errors), wanted, seed)
        alone = elbo_estimate(RowGains("heldout", ids, elbo), wanted, seed)
        covered += e.low <= truth <= e.high
        bare += alone.low <= truth <= alone.high
    assert covered >= at_least(tries, 0.95)
    assert bare < at_least(tries, 0.95) - 5


def test_interval_of_the_likelihood_gain_covers_the_exact_gain_over_seeds(second: TwoStage) -> None:
    """A linear-Gaussian decoder: log p_r(x) by quadrature. The rows are given, so only the error of log r counts."""
    model = linear_gaussian(D=6, d=2, var=0.3)
    x, _ = model.sample(24, seed=1)
    rows, posteriors = Rows("heldout", x, torch.arange(24)), MemoryPosteriors(*model.posterior(x))
    split = Split("heldout", posteriors, rows)
    z, area = grid(6.0, 101)
    log_x = model.vae().decode(z.to(x.dtype)).log_prob(x[:, None]).double()
    log_r, log_p = true_log_prob(second, z), standard_log_prob(z)
    truth = float((torch.logsumexp(log_x + log_r, 1) - torch.logsumexp(log_x + log_p, 1)).mean())
    tries = 12
    hits = {Gain.LIKELIHOOD: 0, Gain.EXACT_POSTERIOR: 0}
    bare = 0
    for seed in range(tries):
        candidates = Candidates({"r": replace(second, seed=100 * seed)})
        gains = measure_gains(candidates, split, rng=stream(seed), model=model.vae(), draws=400)
        errors = density_errors(candidates, split, model.vae(), 400, rng=stream(seed, "error"))
        assert set(errors) == set(Gain)
        for gain in hits:  # the encoder is exact, so both are the change of log p(x)
            off = abs(float(gains.of(gain)[R].mean()) - truth)
            hits[gain] += off < Z95 * errors[gain][R] + 0.01
            bare += gain is Gain.LIKELIHOOD and off < 0.02
    assert min(hits.values()) >= at_least(tries, 0.95)
    assert bare < tries / 2


@pytest.mark.parametrize("draws", [4, 256])
def test_error_is_at_least_the_spread_over_seeds(second: TwoStage, draws: int) -> None:
    """On average over seeds the square is twice that of the standard deviation between seeds."""
    split = Split("heldout", some_rows(16, 0))
    z = split.posteriors.draw(rng=stream(0), draws=16)
    seeds = [replace(second, draws=draws, seed=100 * s) for s in range(40)]
    std = float(torch.tensor([float(r.log_prob(z).mean()) for r in seeds]).std())
    found = [density_errors(Candidates({"r": r}), split, None, 0, rng=stream(0))[Gain.ELBO][R] for r in seeds[:16]]
    assert 1.1 < math.sqrt(sum(e * e for e in found) / len(found)) / std < 1.8


def test_an_exact_density_has_no_error() -> None:
    candidates = Candidates({"r": Gaussian(torch.zeros(2).double(), torch.eye(2).double())})
    assert density_errors(candidates, Split("heldout", some_rows(8, 0)), None, 400, rng=stream(0)) == {}


def test_standard_errors_add_in_quadrature_and_each_side_keeps_its_skew() -> None:
    e = mean_estimate(torch.tensor([0.0, 0.0, 0.0, 4.0]), unit="nats", split="heldout", seed=0)
    wide = widened(e, 2.0, because="why")
    assert wide.stderr == pytest.approx(math.hypot(e.stderr, 2.0))
    assert e.value - wide.low == pytest.approx(math.hypot(e.value - e.low, Z95 * 2))
    assert wide.high - e.value == pytest.approx(math.hypot(e.high - e.value, Z95 * 2))
    assert wide.high - wide.value > wide.value - wide.low
    assert (wide.value, wide.because) == (e.value, "why")
    assert widened(replace(e, because="moved"), 0.0, because="why").because == "moved; why"


def test_every_number_that_is_made_of_log_r_has_the_error() -> None:
    ids, values = torch.arange(5), {R: torch.arange(5.0).double()}
    error = {g: {R: 3.0 + i} for i, g in enumerate(Gain)}
    zero = torch.zeros(5).double()
    gains = RowGains("heldout", ids, *[values] * 5, zero, zero, draws=8, density_error=error)
    bare = replace(gains, density_error={})
    for gain, estimate in {
        Gain.ELBO: elbo_estimate,
        Gain.EXACT_POSTERIOR: exact_posterior_estimate,
        Gain.LIKELIHOOD: likelihood_estimate,
    }.items():
        found, before = estimate(gains, R, 0), estimate(bare, R, 0)
        assert found.stderr == pytest.approx(math.hypot(before.stderr, error[gain][R])), gain
        assert f"its log r(z) is not exact, which is ± {error[gain][R]:.2g} of the error" in found.because
    infinite = replace(gains, exact_posterior={R: torch.tensor([math.inf, 1.0, 2.0, 3.0, 4.0]).double()})
    assert exact_posterior_estimate(infinite, R, 0).stderr > error[Gain.EXACT_POSTERIOR][R]
    assert best_elbo_gain(gains, gains, 0).estimate.stderr > error[Gain.ELBO][R]


INEXACT = [name for name in ZOO if ZOO[name](2, torch.float64).density in ("bound", "estimate")]


def test_bounds_and_estimates_are_all_here() -> None:
    assert {"flow-matching", "resampled-energy", "resampled-rejection", "two-stage"} <= set(INEXACT)


@pytest.mark.parametrize("name", ZOO)
def test_replicates_are_for_densities_that_are_not_exact(name: str, tmp_path) -> None:
    r = ZOO[name](2, torch.float64)
    found = r.replicates()
    if name not in INEXACT:
        assert not found
        return
    z = 0.5 * torch.randn(40, 2, generator=stream(0), dtype=torch.float64)
    stored = r.save(tmp_path / "r")
    again = distribution.rebuild(r.kind, stored.config, stored.tensors()).replicates()
    moves = torch.stack([other.log_prob(z) - r.log_prob(z) for other in found])
    assert all(other.kind == r.kind for other in found)
    assert bool(torch.isfinite(moves).all())
    assert float(moves.abs().mean()) < 0.5
    assert float(moves.abs().max()) > 0
    for other, same in zip(found, again, strict=True):
        assert torch.equal(other.log_prob(z), same.log_prob(z))


def shifted(seed: int, shift: float = 0.0) -> TwoStage:
    plain = Whitening(torch.zeros(2).double() + shift, torch.eye(2).double())
    return replace(ZOO["two-stage"](2, torch.float64), whitening=plain, draws=2, seed=seed)


def test_wrappers_replace_what_they_wrap() -> None:
    r, z = shifted(0), torch.tensor([[0.3, -0.4], [1.0, 1.0]]).double()
    others = r.replicates()
    defended = Defensive(r, 0.2).replicates()
    expected = Defensive(others[3], 0.2).log_prob(z)
    torch.testing.assert_close(defended[3].log_prob(z), expected, rtol=0, atol=0)
    wide = Active(r, (0, 2), 3)
    assert [a.base.seed for a in wide.replicates()] == [o.seed for o in others] == list(range(1, 9))
    half = torch.tensor([0.5, 0.5]).double().log()
    exact = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    both = Conditional((0, 1, 2), torch.ones(3).double().div(3).log(), (r, exact, rejection(0.1)))
    parts = both.replicates()
    assert len(parts) == 8
    assert [p.bases[0].seed for p in parts] == list(range(1, 9))
    assert all(p.bases[1] is exact for p in parts)
    assert len({p.bases[2].normaliser.log_z for p in parts}) == 2
    assert not Conditional((0, 1), half, (exact, Prior(2))).replicates()


def rejection(stderr: float) -> Resampled:
    none = torch.empty(0, dtype=torch.float64)
    z = Normaliser(math.log(0.5), stderr, 100.0, none)
    plain = Whitening(torch.zeros(2).double(), torch.eye(2).double())
    return Resampled(MLP(2, (4,), 1).requires_grad_(False), plain, "rejection", (4,), 10_000, z)


def test_error_of_a_normaliser_is_its_standard_error() -> None:
    """log r = log pi + log a/Z, but for what is taken unaccepted: a gain moves as -log Z does."""
    split = Split("heldout", some_rows(16, 0))
    errors = density_errors(Candidates({"r": rejection(0.03)}), split, None, 400, rng=stream(0))
    assert errors[Gain.ELBO][R] == pytest.approx(0.03, rel=1e-6)
    assert errors[Gain.EXACT_POSTERIOR][R] == pytest.approx(0.03, rel=1e-6)
    mixed = density_errors(Candidates({"r": Defensive(rejection(0.03), 0.5)}), split, None, 0, rng=stream(0))
    assert mixed[Gain.ELBO][CandidateId("r", 50.0)] < 0.02 < mixed[Gain.ELBO][R]


def test_bootstrap_of_an_energy_density_is_its_error_over_sets() -> None:
    """Sets of proposals drawn anew move the mean log-density by as much as the bootstrap says."""
    z = some_rows(50, 0).mean
    plain = Whitening(torch.zeros(2).double(), torch.eye(2).double())
    net = MLP(2, (4,), 1).requires_grad_(False)

    def made(seed: int, sets: int = 16, proposals: int = 4) -> Resampled:
        log_weight = torch.randn(sets * (proposals - 1), generator=stream(seed), dtype=torch.float64)
        energy = Normaliser.estimate("energy", log_weight, proposals)
        return Resampled(net, plain, "energy", (4,), proposals, energy)

    def mean(r: LatentDistribution) -> float:
        return float(r.log_prob(z).mean())

    std = float(torch.tensor([mean(made(s)) for s in range(200)]).std())
    moves = [mean(o) - mean(r) for r in map(made, range(40)) for o in r.replicates()]
    assert 0.8 < math.sqrt(sum(m * m for m in moves) / len(moves)) / std < 1.2


@pytest.fixture(scope="module")
def audited() -> Audit:
    model = linear_gaussian(D=6, d=2, var=0.3)
    rows, posteriors = {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        x, _ = model.sample(20, seed=i)
        rows[name], posteriors[name] = Rows(name, x, torch.arange(20)), MemoryPosteriors(*model.posterior(x))
    candidates = {"second": Defensive(shifted(0, 0.3), 0.1), "normaliser": rejection(0.2), "wide": Prior(2, 1.1)}
    few = AuditSettings(rows=15, draws=120, samples=0, simulated=0, grid=4, map=20)
    return audit(candidates, posteriors, model=model.vae(), rows=rows, settings=few)


def test_an_audit_has_the_error_on_both_splits_and_says_what_log_r_is(audited: Audit) -> None:
    told = {e.name: e for e in audited.entries if e.eligible}
    assert {n: e.density for n, e in told.items()} == {
        "prior": "exact",
        "second+p10": "bound",
        "normaliser+p1": "estimate",
        "wide+p1": "exact",
    }
    for name in ("second+p10", "second", "normaliser+p1", "normaliser"):
        for scores in audited.entry(name).scores.values():
            for gain in Gain:
                score = scores.of(gain)
                assert score is not None
                assert "its log r(z) is not exact" in score.gain.because
    assert audited.entry("normaliser").heldout.elbo.gain.stderr == pytest.approx(0.2)
    assert "not exact" not in told["wide+p1"].heldout.elbo.gain.because
    log_prob = audited.likelihood.log_prob
    assert "not exact" in log_prob[CandidateId("second", 10.0)].because
    assert "not exact" in log_prob[CandidateId("second")].because
    assert "not exact" not in log_prob[CandidateId("prior")].because


def test_the_tables_mark_gains_of_bounds_and_estimates(audited: Audit) -> None:
    cells = {row.name: row.cells for row in audited.table().rows}
    second, normaliser, wide = (
        next(c for name, c in cells.items() if name.startswith(start)) for start in ("second", "normaliser", "wide")
    )
    assert all(c.text.endswith(" (bound)") and c.short.endswith("b") for c in second[2:])
    assert all("a lower bound in expectation, made with random numbers" in c.why for c in second[2:])
    assert all(c.text.endswith(" (estimate)") and c.short.endswith("e") for c in normaliser[2:])
    assert not any("(" in c.text for c in wide[2:])
    assert html(audited).count("(bound)") >= 6  # with its base alone
    assert "b: log r is a bound" in TERMINAL_NOTE


def test_the_means_behind_the_error_are_weighted_as_the_rows_are() -> None:
    values = torch.randn(density_error.ELBO_DRAWS * 5, generator=stream(1), dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0, 3.0], dtype=torch.float64)
    draws = values.reshape(density_error.ELBO_DRAWS, 5)
    mean = density_error._mean(Design(weights))
    assert mean(values) == pytest.approx(float((draws.mean(0) * weights).sum() / 10))
    beside = torch.randn(5, density_error.ELBO_DRAWS, generator=stream(2), dtype=torch.float64)
    truth = float((torch.logsumexp(draws.T + beside, 1) * weights).sum() / 10)
    assert density_error._log_mean(beside, Design(weights))(draws.T) == pytest.approx(truth)
