"""Drift of new rows: the closed form of the linear model, false alarms at the nominal rate, and what each test sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, ks_2samp, ttest_ind
from torch import Tensor

import small
from oracles import linear_gaussian, maximum_likelihood
from zprime import plot
from zprime.data import new_rows
from zprime.errors import ArrayError, UsageError
from zprime.latent import Gaussian, Prior
from zprime.latent.gaussian import moments
from zprime.measure.latents.drift import drift, moment_shift
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.reporting import page
from zprime.results.audit import load as load_audit
from zprime.results.drift import Drift
from zprime.rng import fork, stream
from zprime.statistics.two_sample import difference_of_means

MODEL = linear_gaussian(D=6, d=3, var=0.4)


def codes(n: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> MemoryPosteriors:
    rng = stream(seed, "codes")
    mean = shift + scale * 0.9 * torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean, torch.full((n, 3), 0.4, dtype=torch.float64))


def fresh(p: MemoryPosteriors, groups: Tensor | None = None) -> Split:
    return Split("new rows", p, groups=groups)


def held(p: MemoryPosteriors, groups: Tensor | None = None) -> Split:
    return Split("heldout", p, groups=groups)


def found(new: MemoryPosteriors, seed: int = 0) -> Drift:
    return drift(Prior(3), fresh(new), held(codes(300, 9000 + seed)), source="prior", rng=stream(seed, "drift"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.latents.drift.SHUFFLES", 99)


def test_moments_of_other_data_in_closed_form() -> None:
    """docs/theory.md, section 4: codes of data with covariance T, through the linear model fitted to other data."""
    x, _ = MODEL.sample(40_000, seed=0)
    fitted, values = maximum_likelihood(x, 3)
    rng = stream(1, "T")
    root = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    new = fitted.bias + torch.randn(40_000, 6, generator=rng, dtype=torch.float64) @ root.T
    top, s2 = values[:3], fitted.var
    axes = fitted.weight / (top - s2).sqrt()  # W = U (L - s2 I)^1/2
    shrink = torch.diag((top - s2).sqrt() / top)
    covariance = new - new.mean(0)
    T = covariance.T @ covariance / len(new)
    truth = torch.diag(s2 / top) + shrink @ axes.T @ T @ axes @ shrink
    mean, got = moments(MemoryPosteriors(*fitted.posterior(new)))
    torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-10)
    # the shift of moments is the KL between the two Gaussians; the training codes' is exactly N(0, I)
    train = MemoryPosteriors(*fitted.posterior(x))
    kl = 0.5 * float(truth.trace() + mean @ mean - 3 - torch.logdet(truth))
    assert moment_shift(MemoryPosteriors(*fitted.posterior(new)), train) == pytest.approx(kl, rel=1e-6)
    assert moment_shift(train, train) == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("few")
def test_equal_rows_raise_an_alarm_at_the_nominal_rate() -> None:
    p = {"density": [], "moments": [], "dimension": [], "all": []}
    for seed in range(200):
        d = drift(Prior(3), fresh(codes(40, seed)), held(codes(60, 5000 + seed)), rng=stream(seed, "drift"))
        p["density"].append(d.density_p)
        p["moments"].append(d.moments_p)
        p["dimension"].append(d.dimensions[0].p_value)
        p["all"].append(d.p_value)
    rates = {k: float(np.mean(np.array(v) < 0.05)) for k, v in p.items()}
    assert 0.015 <= rates["density"] <= 0.09, rates
    assert 0.015 <= rates["moments"] <= 0.09, rates
    assert rates["dimension"] <= 0.09, rates  # Holm's correction and the statistic's steps are on the safe side
    assert rates["all"] <= 0.09, rates


@pytest.mark.usefixtures("few")
def test_a_shift_is_seen_with_its_size() -> None:
    d = found(codes(300, 1, shift=1.0))
    assert d.drifted
    assert d.log_density.high < 0
    # log N(z; 0, I) of codes N(1, I) less that of codes N(0, I): -3/2 nats
    assert d.log_density.low < -1.5 * 0.97 < d.log_density.high
    assert d.moments.low < 1.5 / 0.97 < d.moments.high
    assert "less likely than held-out codes" in d.sentence
    assert (f"(p = {d.p_value:.3f})" if d.p_value >= 0.001 else "(p < 0.001)") in d.sentence


@pytest.mark.usefixtures("few")
def test_what_log_r_cannot_see_the_moments_do() -> None:
    # r knows the lengths of codes only: a shift along one axis that shrinks another keeps log r
    new = codes(400, 2)
    turned = MemoryPosteriors(
        torch.stack([new.mean[:, 0].abs(), *new.mean.T[1:]], 1), new.scale
    )  # folded: the same lengths
    d = found(turned)
    assert d.density_p > 0.01
    assert d.moments_p <= 0.01
    assert d.dimensions[0].dimension == 0
    assert d.drifted
    assert not found(new).drifted
    assert "No drift seen" in found(new).sentence


@pytest.mark.usefixtures("few")
def test_the_gain_says_whether_r_is_still_better_than_the_prior() -> None:
    r = Gaussian(torch.full((3,), 2.0).double(), 0.6 * torch.eye(3).double())
    before = held(codes(300, 3, shift=2.0, scale=0.5))
    good = drift(r, fresh(codes(300, 4, shift=2.0, scale=0.5)), before, rng=stream(0, "d"))
    bad = drift(r, fresh(codes(300, 5, shift=0.0)), before, rng=stream(0, "d"))
    assert good.gain.low > 0
    assert not good.drifted
    assert bad.gain.high < 0
    assert "no longer measurably better than the prior" in bad.sentence
    assert "Fit it again" in bad.sentence
    same = found(codes(300, 1, shift=1.0))  # r is the prior itself
    assert "not measurably better than the prior, as it was before" in same.sentence


@pytest.mark.usefixtures("few")
def test_rows_that_are_likelier_than_held_out_ones_are_asked_about() -> None:
    middle = found(codes(300, 6, scale=0.1))
    assert middle.log_density.low > 0
    assert "are these new?" in middle.sentence
    assert "Fit it again" not in middle.sentence


def test_refusals() -> None:
    with pytest.raises(ArrayError, match="expected at least 8 rows, held-out ones too, got 7 and 300"):
        found(codes(7, 0))
    with pytest.raises(ArrayError, match=r"expected 2 latents, got 3 \(held-out 3\)"):
        drift(Prior(2), fresh(codes(10, 0)), held(codes(10, 1)), rng=stream(0, "d"))


@pytest.mark.usefixtures("few")
def test_from_a_run_and_a_file(tmp_path: Path) -> None:
    data = small.table(tmp_path / "t.npz")
    job, _ = small.run(tmp_path / "run", data)
    same = small.table(tmp_path / "same.npz", n=400)
    before = (job.path / "audit" / "tensors.safetensors").read_bytes()
    d = job.drift(str(same))
    kept = load_audit(job.path / "audit")
    assert kept.drift == d
    assert (job.path / "audit" / "tensors.safetensors").read_bytes() == before
    assert len(plot.drift(kept).axes[0].patches) == len(d.dimensions)
    assert d.sentence in page.html(kept)
    assert plot.drift(replace(kept, drift=None)) is None
    assert d.rows == 400
    assert not d.drifted
    x = np.load(same)["x"]
    np.save(tmp_path / "other.npy", x[x[:, 0] > 90])  # one of the two clumps
    assert job.drift(str(tmp_path / "other.npy")).drifted
    np.save(tmp_path / "wide.npy", np.hstack([x, x]))
    with pytest.raises(ArrayError, match=r"expected rows of shape \[5\], as the run has, got \[10\]"):
        job.drift(str(tmp_path / "wide.npy"))
    with pytest.raises(UsageError, match="data: expected digits, .* which does not exist"):
        job.drift("nothing.npy")


def test_new_rows_are_scaled_as_the_old_ones(tmp_path: Path) -> None:
    data = small.table(tmp_path / "t.npz")
    job, _ = small.run(tmp_path / "run", data)
    described, tensors = job.folder.dataset.describe(), job.folder.dataset.tensors()
    again, _ = new_rows(str(data), described, tensors)
    torch.testing.assert_close(again.x[job.folder.rows["heldout"].ids], job.folder.rows["heldout"].x)
    assert torch.equal(again.labels[job.folder.rows["train"].ids], job.folder.rows["train"].labels)  # type: ignore[index]


def test_the_interval_of_log_r_is_of_95_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.latents.drift.SHUFFLES", 3)
    found_ = [
        drift(Prior(3), fresh(codes(60, s, shift=0.5)), held(codes(40, 700 + s)), rng=stream(s, "d")).log_density
        for s in range(250)
    ]
    for e in found_:
        assert e.stderr is not None
        assert 1.96 * e.stderr < e.high - e.value < 2.03 * e.stderr  # Student, with the degrees of freedom of Welch
        assert e.value - e.low == pytest.approx(e.high - e.value)
    spread = np.std([e.value for e in found_], ddof=1)
    assert np.mean([e.stderr for e in found_]) == pytest.approx(spread, rel=0.15)


@pytest.mark.usefixtures("few")
def test_a_share_of_shuffles_is_never_zero() -> None:
    d = found(codes(300, 1, shift=5.0))
    assert d.moments_p == pytest.approx(1 / 100)  # the rows as they came are one of the shuffles
    # three tests, of which the smallest p counts: three times
    assert d.p_value == pytest.approx(min(1.0, 3 * min(d.density_p, d.moments_p, d.dimensions[0].p_value)))


def test_drift_is_called_at_5_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.latents.drift.SHUFFLES", 9)
    for p, drifted in ((0.0166, True), (0.0167, False)):  # three tests
        monkeypatch.setattr("zprime.measure.latents.drift.rank_test", lambda a, b, p=p: p)
        d = found(codes(40, 0))
        assert d.drifted is drifted
        assert d.p_value == pytest.approx(3 * p)


@pytest.mark.usefixtures("few")
def test_each_dimension_pays_for_the_others() -> None:
    """Holm: the least p counts as often as there are dimensions, the next once less; none falls below one before."""
    new = codes(60, 8)
    new.mean[:, 1] += 0.4
    r = found(new)
    rng = stream(0, "drift")
    a, b = (p.draw(rng=fork(rng, name)) for p, name in ((new, "new"), (codes(300, 9000), "heldout")))
    p = sorted((float(ks_2samp(a[:, j].numpy(), b[:, j].numpy()).pvalue), j) for j in range(3))
    held, truth = 0.0, []
    for rank, (value, j) in enumerate(p):
        held = max(held, min(1.0, (3 - rank) * value))
        truth.append((j, pytest.approx(held)))
    assert [(s.dimension, s.p_value) for s in r.dimensions] == truth


@pytest.mark.usefixtures("few")
def test_new_and_held_out_codes_are_drawn_apart() -> None:
    """The same posteriors on both sides still give other draws: with the same noise log r would not differ at all."""
    p = codes(50, 0)
    d = drift(Prior(3), fresh(p), held(p), rng=stream(0, "d"))
    assert d.log_density.value != 0
    assert d.moments_p == 1.0


# Groups and weights


def together(n: int, size: int, seed: int) -> tuple[MemoryPosteriors, Tensor]:
    """Codes in groups of one size, whose rows share most of their code: marginally those of `codes`."""
    rng = stream(seed, "together", size)
    groups = torch.arange(n) // size
    shared, own = (torch.randn(k, 3, generator=rng, dtype=torch.float64) for k in (n // size, n))
    mean = 0.9 * (0.8**0.5 * shared[groups] + 0.2**0.5 * own)
    return MemoryPosteriors(mean, torch.full((n, 3), 0.4, dtype=torch.float64)), groups


@pytest.mark.parametrize("size", [5, 10])
def test_rows_in_groups_raise_an_alarm_at_the_nominal_rate(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both samples in groups, no drift; with the rows taken as independent it is found in most data sets."""
    monkeypatch.setattr("zprime.measure.latents.drift.SHUFFLES", 99)
    seeds = 100
    alarms = dict.fromkeys(("density", "moments", "dimension", "all", "ignored"), 0)
    outside = 0
    for seed in range(seeds):
        (new, a), (old, b) = together(30 * size, size, seed), together(40 * size, size, 5000 + seed)
        d = drift(Prior(3), fresh(new, a), held(old, b), rng=stream(seed, "d"))
        p = {"density": d.density_p, "moments": d.moments_p, "dimension": d.dimensions[0].p_value}
        for name, value in p.items():
            alarms[name] += value < 0.05
        alarms["all"] += d.drifted
        outside += not d.log_density.low <= 0 <= d.log_density.high
        assert (d.rows, d.tested, d.gain.groups, d.moments.groups) == (30 * size, 30, 30, 30)
        if seed < 40:
            alarms["ignored"] += drift(Prior(3), fresh(new), held(old), rng=stream(seed, "d")).drifted
    most = int(binom.ppf(0.999, seeds, 0.05))
    assert max(alarms[name] for name in ("density", "moments", "dimension", "all")) <= most, alarms
    assert outside <= most
    assert alarms["ignored"] > 20, alarms  # the planted fault


def test_weighted_rows_are_compared_as_the_population_that_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """New codes of N(0, 1) weighed to N(0.5, 1) in the first dimension, held-out codes of that: no drift; else much."""
    monkeypatch.setattr("zprime.measure.latents.drift.SHUFFLES", 99)
    seeds, alarms, ignored, outside = 100, 0, 0, 0
    one = torch.full((200, 3), 1e-3, dtype=torch.float64)
    for seed in range(seeds):
        x, y = (torch.randn(200, 3, generator=stream(seed, name), dtype=torch.float64) for name in ("new", "old"))
        y[:, 0] += 0.5
        new, old = MemoryPosteriors(x, one), held(MemoryPosteriors(y, one))
        d = drift(Prior(3), fresh(new.weighted(torch.exp(0.5 * x[:, 0]))), old, rng=stream(seed, "d"))
        alarms += d.drifted
        outside += not d.log_density.low <= 0 <= d.log_density.high
        assert 8 <= d.tested < 200
        assert 100 < d.gain.n < 200
        if seed < 40:
            ignored += drift(Prior(3), fresh(new), old, rng=stream(seed, "d")).drifted
    most = int(binom.ppf(0.999, seeds, 0.05))
    assert alarms <= most
    assert outside <= most + 2
    assert ignored > 35


@pytest.mark.usefixtures("few")
def test_equal_weights_and_groups_of_one_row_change_no_bit_of_drift() -> None:
    new, old = codes(40, 1), codes(60, 2)
    plain = drift(Prior(3), fresh(new), held(old), rng=stream(0, "d"))
    equal = new.weighted(torch.full((40,), 0.3))
    assert drift(Prior(3), fresh(equal, torch.arange(40) * 3), held(old, torch.arange(60)), rng=stream(0, "d")) == plain


def test_rows_of_weight_0_are_no_new_rows() -> None:
    new, old = codes(40, 1), codes(60, 2)
    weight = torch.ones(40).double()
    weight[::4] = 0
    weighed = drift(Prior(3), fresh(new.weighted(weight)), held(old), rng=stream(0, "d"))
    assert (weighed.rows, weighed.moments.n, weighed.moments.groups) == (30, 30, 0)
    with pytest.raises(ArrayError, match="expected at least 8 rows, held-out ones too, got 5 and 60"):
        drift(Prior(3), fresh(new.weighted((torch.arange(40) < 5).double())), held(old), rng=stream(0, "d"))


@pytest.mark.usefixtures("few")
def test_whole_weights_are_rows_that_are_there_so_often() -> None:
    """In every estimate of moments; and in errors by group, where the rows are one group."""
    count = torch.randint(1, 4, (40,), generator=stream(3, "count"))
    new, old = codes(40, 1, shift=0.3), codes(60, 2)
    one = torch.arange(40).repeat_interleave(count)
    weighed = drift(Prior(3), fresh(new.weighted(count.double())), held(old), rng=stream(0, "d"))
    twice = MemoryPosteriors(new.mean[one], new.scale[one])
    repeated = drift(Prior(3), fresh(twice, one), held(old), rng=stream(0, "d"))
    assert weighed.moments.value == pytest.approx(moment_shift(twice, old))
    assert repeated.moments.value == pytest.approx(moment_shift(twice, old))
    assert weighed.moments.stderr == pytest.approx(repeated.moments.stderr)
    assert weighed.moments.value != pytest.approx(moment_shift(new, old), rel=1e-3)


def test_the_error_of_a_difference_is_welchs() -> None:
    a, b = (torch.randn(n, generator=stream(n), dtype=torch.float64) for n in (12, 30))
    e = difference_of_means(a, 2 * b, unit="nats", split="both", seed=None)
    truth = ttest_ind(a.numpy(), 2 * b.numpy(), equal_var=False).confidence_interval(0.95)
    assert (e.low, e.high) == (pytest.approx(truth.low), pytest.approx(truth.high))


def test_too_few_independent_rows_are_refused() -> None:
    with pytest.raises(ArrayError, match=r"expected at least 8 independent rows, held-out ones too, got 4 and 300"):
        drift(Prior(3), fresh(codes(40, 0), torch.arange(40) // 10), held(codes(300, 1)), rng=stream(0, "d"))
