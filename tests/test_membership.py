"""Membership: chance where nothing was seen, certainty for a lookup table, and intervals that hold what they say."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from oracles import LinearGaussian, evidence, linear_gaussian
from studies import study
from zprime.auditing import audit
from zprime.data import Rows
from zprime.errors import UsageError
from zprime.latent import Aggregated, Defensive, Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.membership import attack, membership
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.explain import explain
from zprime.reporting.membership import LIMITS, sentences, table
from zprime.reporting.page import html
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.auc import above_quantile, auc

SETTINGS = AuditSettings(rows=320, draws=64, map=10, grid=2, simulated=0, samples=0, members=320)
WIDE = Gaussian(torch.zeros(6).double(), 1.2 * torch.eye(6).double())


def splits(model: LinearGaussian, n: int = 320, seed: int = 0) -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    """Rows that an exact model makes: it has seen none of them."""
    posteriors, rows = {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        x, _ = model.sample(n if name != "selection" else 60, seed=10 * seed + i)
        posteriors[name] = MemoryPosteriors(*model.posterior(x))
        rows[name] = Rows(name, x, torch.arange(len(x)))
    return posteriors, rows


def measured(*, codes_only: bool = False, **changes: int) -> Audit:
    model = linear_gaussian(D=12, d=6, var=0.02)
    posteriors, rows = splits(model)
    train = posteriors["train"]
    candidates = {"wide": WIDE, "lookup": Defensive(Aggregated(train.mean, train.scale), 0.01)}
    decoder = {} if codes_only else {"model": model.vae(), "rows": rows}
    return audit(candidates, posteriors, settings=replace(SETTINGS, **changes), **decoder)


@pytest.fixture(scope="module")
def found() -> Audit:
    return measured()


def test_the_area_is_that_of_all_pairs() -> None:
    a, b = (torch.randint(9, (n,), generator=stream(n, "auc")).double() for n in (40, 55))
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b)
    e = auc(a, b, split="", seed=0)
    assert e.value == pytest.approx(float(pairs.mean()))
    var = float(pairs.mean(1).var()) / 40 + float(pairs.mean(0).var()) / 55  # DeLong et al. 1988
    assert e.stderr == pytest.approx(math.sqrt(var))
    assert e.low < e.value < e.high
    apart = auc(a + 100, b, split="", seed=0)
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert apart.low == pytest.approx(1 - 3 / 40)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_both_intervals_hold_the_truth(shift: float) -> None:
    """300 seeds at 95 %: at least 273 hold it unless coverage is below 0.95 (binomial, one in 500)."""
    area, rate = norm.cdf(shift / math.sqrt(2)), norm.sf(norm.ppf(0.99) - shift)
    held = torch.zeros(2)
    for seed in range(300):
        rng = stream(seed, "normal")
        e = attack(torch.randn(400, generator=rng) + shift, torch.randn(400, generator=rng), seed=0)
        assert e.rate is not None
        held += torch.tensor([e.auc.low <= area <= e.auc.high, e.rate.low <= rate <= e.rate.high])
    assert held.min() >= 273


def test_an_interval_without_the_threshold_s_error_would_be_too_short() -> None:
    """The planted fault: the proportion's own interval, at a threshold that is taken for exact."""
    rate, inside = norm.sf(norm.ppf(0.99) - 3), 0
    for seed in range(300):
        rng = stream(seed, "normal")
        a, b = torch.randn(400, generator=rng) + 3, torch.randn(400, generator=rng)
        e = above_quantile(a, b, 0.01, split="", seed=0)
        half = 1.96 * math.sqrt(e.value * (1 - e.value) / 400)
        inside += abs(e.value - rate) < half
    assert inside < 200


def test_below_300_held_out_rows_no_rate_is_told() -> None:
    a = torch.randn(400, generator=stream(0))
    assert attack(a, a[:299], seed=0).rate is None
    assert attack(a, a[:300], seed=0).rate is not None


def test_a_model_that_never_saw_the_rows_gives_chance() -> None:
    """Both scores, 25 seeds at 95 %: 21 or more hold 1/2 (binomial, one in 140 below)."""
    model, held = linear_gaussian(), torch.zeros(2)
    candidates = Candidates({"wide": Gaussian(torch.zeros(2).double(), 1.2 * torch.eye(2).double())})
    for seed in range(25):
        posteriors, rows = splits(model, n=60, seed=seed)
        s = study(posteriors, rows, model=model.vae(), settings=replace(SETTINGS, draws=24), seed=seed)
        heldout = measure_gains(candidates, s.heldout, rng=stream(seed, "h"), model=s.model, draws=24)
        m = membership(s, candidates, heldout)
        assert m is not None
        assert m.model is not None
        for i, e in enumerate((m.model.auc, m.candidates[CandidateId("wide")].auc)):
            held[i] += e.low <= 0.5 <= e.high
    assert held.min() >= 21


def test_a_lookup_table_gives_its_rows_away_and_the_model_does_not(found: Audit) -> None:
    m = found.membership
    assert m is not None
    assert (m.members, m.others, m.score) == (320, 320, Gain.LIKELIHOOD)
    assert m.model is not None
    assert m.model.auc.low <= 0.5 <= m.model.auc.high
    lookup, wide = (m.candidates[CandidateId(n, 1.0)] for n in ("lookup", "wide"))
    assert lookup.auc.low > 0.8
    assert lookup.rate is not None
    assert lookup.rate.low > 0.05
    assert wide.auc.low <= 0.5 <= wide.auc.high
    assert CandidateId("prior") not in m.candidates
    assert CandidateId("lookup") in m.candidates


def test_the_gain_finds_what_log_p_under_the_candidate_hides(found: Audit) -> None:
    """Exact evidences of data with 400 more entries of noise, which z has no part in (docs/theory.md, section 15)."""
    m = found.membership
    assert m is not None
    model = linear_gaussian(D=12, d=6, var=0.02)
    posteriors, rows = splits(model)
    train = posteriors["train"]
    lookup = Aggregated(train.mean, train.scale)
    noise = {s: -0.5 * torch.randn(320, 400, generator=stream(0, s)).square().sum(1) for s in ("train", "heldout")}
    plain = {s: model.log_evidence(rows[s].x) + e for s, e in noise.items()}
    under = {s: evidence(model, rows[s].x, lookup) + e for s, e in noise.items()}

    def area(score: dict[str, Tensor]) -> float:
        return attack(score["train"], score["heldout"], seed=0).auc.value

    alone, gain = area(under), area({s: under[s] - plain[s] for s in noise})
    assert alone < 0.85
    assert gain > 0.98
    assert m.candidates[CandidateId("lookup")].auc.value == pytest.approx(gain, abs=0.01)


def test_without_a_decoder_codes_are_scored_and_the_model_is_not() -> None:
    m = measured(codes_only=True).membership
    assert m is not None
    assert m.model is None
    assert m.score is Gain.EXACT_POSTERIOR
    assert m.candidates[CandidateId("lookup", 1.0)].auc.low > 0.8
    assert m.candidates[CandidateId("lookup")].auc.low > 0.8


def test_it_is_switched_off_and_limited_by_a_setting() -> None:
    assert measured(codes_only=True, members=0).membership is None
    m = measured(codes_only=True, members=50).membership
    assert m is not None
    assert m.members == 50
    with pytest.raises(UsageError, match="members: expected 0, or at least 2 rows, got 1"):
        measured(codes_only=True, members=1)


def test_where_modes_are_searched_for_no_more_rows_are_taken_than_of_a_split() -> None:
    model, candidates = linear_gaussian(), Candidates({"wide": Gaussian(torch.zeros(2), 1.2 * torch.eye(2))})
    posteriors, rows = splits(model, n=60)
    settings = replace(SETTINGS, draws=40, members=50, repair=20)
    plain = study(posteriors, rows, model=model.vae(), settings=settings)
    for s, inside in ((plain, 50), (replace(plain, search=True), 20)):
        heldout = measure_gains(candidates, s.heldout, rng=stream(0, "h"), model=s.model, draws=40)
        m = membership(s, candidates, heldout)
        assert m is not None
        assert m.members == inside


def test_it_is_stored_and_told_without_a_promise(found: Audit, tmp_path) -> None:
    found.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.membership == found.membership
    m = found.membership
    assert m is not None
    said, answer, page = " ".join(sentences(again)), explain(again), html(again)
    area = f"{m.candidates[CandidateId('lookup')].auc.value:.3f} ["
    for text in (said, answer, page):
        assert area in text
        assert LIMITS in text
        assert "320 training and 320 held-out rows, seed 0" in text
    assert "AUC" in page
    assert "private" not in said
    assert "safe" not in said
    shown = table(again)
    assert [c.name for c in shown.columns] == ["name", "auc", "rate"]
    assert len(shown.rows) == 1 + len(m.candidates)
    assert shown.rows[0].name == "the model: log p(x) under the prior"


def test_with_few_held_out_rows_the_page_says_why_no_rate_is_told() -> None:
    few = measured(codes_only=True, rows=100)
    assert [row.cells[2].text for row in table(few).rows] == ["–"] * 4
    assert "With fewer than 300 held-out rows no rate at 1 % is told" in html(few)


def test_rows_of_a_group_count_once() -> None:
    """In groups of 4, 320 rows are 80 independent ones; the rate at 1 % is then not told."""
    model = linear_gaussian(D=12, d=6, var=0.02)
    posteriors, rows = splits(model, seed=2)
    groups = {s: 1000 * i + torch.arange(len(r)) // 4 for i, (s, r) in enumerate(rows.items())}
    given = {"model": model.vae(), "rows": rows, "groups": groups}
    m = audit({"wide": WIDE}, posteriors, **given, settings=SETTINGS, seed=2).membership
    assert m is not None
    assert (m.members, m.others) == (80, 80)
    attack_of = m.candidates[CandidateId("wide", 1.0)]
    assert attack_of.rate is None
    assert attack_of.auc.low < 0.5 < attack_of.auc.high
