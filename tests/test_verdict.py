"""The verdict's rule, on planted gains."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from zprime.latent import Defensive, Gaussian, Mixture, Prior
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.likelihood.scores import exact_posterior_estimate, likelihood_estimate
from zprime.measure.study import Split, Study
from zprime.measure.verdicts.likelihood import decide, largest_group, whole_first
from zprime.measure.verdicts.selected import choose
from zprime.posteriors import MemoryPosteriors
from zprime.results.likelihood import Exchange
from zprime.results.names import CandidateId, Gain
from zprime.results.verdicts import Verdict
from zprime.rng import stream
from zprime.statistics.betting import bet
from zprime.statistics.design import Design
from zprime.statistics.estimate import exact

N = 400


def gains(mean: float, spread: float = 1.0, name: str = "x") -> Tensor:
    """N gains with exactly this mean and spread."""
    z = torch.randn(N, generator=stream(0, "gains", name), dtype=torch.float64)
    return mean + spread * (z - z.mean()) / z.std()


def mixture(k: int) -> Mixture:
    return Mixture(torch.zeros(k).log_softmax(0), torch.zeros(k, 2), torch.ones(k, 2))


PANEL = Candidates(
    {"small": Defensive(Gaussian(torch.zeros(2), torch.ones(2)), 0.01), "large": Defensive(mixture(50), 0.01)}
)
PRIOR, SMALL, LARGE = (next(i for i in PANEL.eligible if i.name == n) for n in ("prior", "small", "large"))


def ladder(
    split: str, small: float, large: float, *, moved: float = 0.0, spread: float = 1.0, elbo: float | None = None
) -> RowGains:
    values = {PRIOR: torch.zeros(N).double(), SMALL: gains(small, spread, "a"), LARGE: gains(large, spread, "a")}
    quarter = {k: v + (moved if k == LARGE else 0.0) for k, v in values.items()}
    shifted = {k: v + (elbo if elbo is not None and k != PRIOR else 0.0) for k, v in values.items()}
    rows = torch.arange(N)
    return RowGains(split, rows, elbo=shifted, exact_posterior=values, likelihood=values, quarter=quarter, draws=400)


def checked(delta: float = 0.0, stderr: float = 0.01, *, informative: bool = True) -> Exchange:
    shift = replace(exact(delta, n=200, unit="nats per row", split="simulated"), stderr=stderr)
    zero = exact(0.0, n=200, unit="nats per row", split="simulated")
    return Exchange("large", 200, 400, shift, 0, zero, zero, informative)


def verdict(selection: RowGains, heldout: RowGains, exchange: Exchange | None = checked()) -> Verdict:
    return decide(PANEL, choose(PANEL, selection, seed=0), heldout, exchange, seed=0)


def test_leaves_the_prior_for_the_best() -> None:
    v = verdict(ladder("selection", 0.5, 2.0), ladder("heldout", 0.5, 1.8))
    assert (v.decision, v.choice, v.chosen.gain) == ("leave the prior", str(LARGE), Gain.LIKELIHOOD)
    assert v.sentence.startswith(
        "Draw z' from mixture(50) + 1 % p, not from the prior: held-out data are 1.800 ± 0.050 nats per row"
    )
    assert v.heldout is not None
    assert v.heldout.value == pytest.approx(1.8)
    assert v.bet == bet(gains(1.8, 1.0, "a"), torch.arange(N), bound=-math.log(0.01))
    assert v.after_allowance == pytest.approx(1.8 - 0.01645)


def test_a_tie_goes_to_the_one_that_stores_least() -> None:
    assert verdict(ladder("selection", 1.96, 2.0), ladder("heldout", 1.9, 1.9)).choice == str(SMALL)
    assert verdict(ladder("selection", 1.94, 2.0), ladder("heldout", 1.9, 1.9)).choice == str(LARGE)


def test_keeps_the_prior_when_nothing_is_better() -> None:
    v = verdict(ladder("selection", 0.01, 0.04), ladder("heldout", 3.0, 3.0), None)
    assert (v.decision, v.choice, v.best) == ("keep the prior", "prior", "prior")


def repeated(one: RowGains, times: int) -> RowGains:
    """As many rows, so that a small gain is certain."""
    parts = {n: {k: v.repeat(times) for k, v in getattr(one, n).items()} for n in ("elbo", "likelihood", "quarter")}
    return replace(one, ids=torch.arange(N * times), exact_posterior={}, **parts)


@pytest.mark.parametrize(("mean", "decision"), [(0.045, "keep"), (0.055, "leave")])
def test_a_gain_below_a_tie_is_none_however_certain(mean: float, decision: str) -> None:
    heldout = repeated(ladder("heldout", 0.0, mean, spread=0.01), 5)
    v = verdict(ladder("selection", 0.0, 1.0), heldout, checked(0.0, 1e-4))
    assert v.decision == f"{decision} the prior"
    assert v.best == str(LARGE)
    assert v.bet is not None
    assert v.bet.passed


def test_two_standard_errors_are_no_guarantee() -> None:
    """0.105 +- 0.05: the rule before this one would leave the prior; the bet does not."""
    v = verdict(ladder("selection", 0.0, 1.0), ladder("heldout", 0.0, 0.105), checked(0.0, 1e-4))
    assert v.heldout is not None
    assert v.heldout.value > 2 * (v.heldout.stderr or 9)
    assert v.bet is not None
    assert not v.bet.passed
    assert v.decision == "keep the prior"


def test_a_few_rows_that_lose_much_are_seen() -> None:
    """One row in 16 is 4.6 nats worse: the mean is about 0, whatever most rows say."""
    heavy = ladder("heldout", 0.0, 0.3, spread=0.0)
    for values in (heavy.likelihood[LARGE], heavy.quarter[LARGE]):
        values[::16] = math.log(0.01)
    v = verdict(ladder("selection", 0.0, 1.0), heavy)
    assert v.decision == "keep the prior"


def test_held_out_is_opened_for_the_selected_one_only() -> None:
    v = verdict(ladder("selection", 0.0, 1.0), ladder("heldout", 9.0, -1.0))
    assert v.choice == "prior"


@pytest.mark.parametrize("elbo", [0.0, -3.0])
def test_where_the_likelihood_gain_may_not_be_used_nothing_else_decides(elbo: float) -> None:
    """ELBO gain and exact-posterior gain agree by Jensen's inequality: they are no two votes."""
    selection, heldout = ladder("selection", 0.5, 2.0, elbo=elbo), ladder("heldout", 0.5, 2.0, elbo=elbo)
    for exchange in (checked(-0.5), None):
        v = verdict(selection, heldout, exchange)
        assert (v.decision, v.choice, v.heldout) == ("undecided", "prior", None)
        assert "Until then keep the prior" in v.sentence
    assert "fails the exchange check" in verdict(selection, heldout, checked(-0.5)).sentence


def test_what_to_do_after_an_undecided_quick_audit_is_the_whole_one() -> None:
    selection, heldout = ladder("selection", 0.5, 2.0), ladder("heldout", 0.5, 2.0)
    drifts = ladder("selection", 0.5, 2.0, moved=4.0)
    cases = [
        (selection, checked(-0.5), "A better encoder would settle it"),
        (selection, checked(informative=False), "More simulated rows"),
        (selection, checked(stderr=1.5), "More simulated rows"),
        (drifts, checked(), "More draws a row"),
    ]
    first = "First run the whole audit, which measures more: without --quick (in Python without quick=True). "
    for gained, exchange, way in cases:
        chosen = choose(PANEL, gained, seed=0)
        whole = decide(PANEL, chosen, heldout, exchange, seed=0)
        quick = whole_first(whole)
        assert whole.decision == quick.decision == "undecided"
        assert quick.sentence == whole.sentence.replace(way, first + way) != whole.sentence


def test_a_check_that_is_too_inaccurate_stands_in_the_way_of_leaving_only() -> None:
    selection = ladder("selection", 0.5, 2.0)
    v = verdict(selection, ladder("heldout", 0.5, 2.0), checked(informative=False))
    assert (v.decision, v.choice) == ("undecided", "prior")
    assert "(--exchange)" in v.sentence
    assert verdict(selection, ladder("heldout", 0.5, 0.0), checked(informative=False)).decision == "keep the prior"


def test_the_allowance_is_taken_off() -> None:
    """A shift that is no failure still counts: 0.5 nats, of which 0.46 may be the estimator's."""
    for gain, decision in ((0.84, "undecided"), (0.85, "leave the prior")):
        exchange = checked(-0.3, 0.3)
        assert not exchange.failed
        heldout = ladder("heldout", 0.0, gain, spread=0.1)
        v = verdict(ladder("selection", 0.0, gain), heldout, exchange)
        assert v.after_allowance == pytest.approx(gain - 0.3 - 1.645 * 0.3)
        assert v.decision == decision


def test_without_a_decoder() -> None:
    bare = {s: replace(ladder(s, 0.5, 2.0), likelihood={}, quarter={}) for s in ("selection", "heldout")}
    v = verdict(bare["selection"], bare["heldout"], None)
    assert (v.decision, v.choice, v.chosen.gain) == ("undecided", "prior", Gain.ELBO)
    assert "was not measured" in v.sentence


def test_a_drift_counts_where_it_could_change_the_decision() -> None:
    """A gain of 2 nats may drift by 0.2; one of 0.2 may not."""
    assert likelihood_estimate(ladder("heldout", 0, 2.0, moved=0.2), LARGE, 0).stable
    assert not likelihood_estimate(ladder("heldout", 0, 0.2, moved=0.2), LARGE, 0).stable
    assert likelihood_estimate(ladder("heldout", 0, 0.2, moved=0.14), LARGE, 0).stable
    assert likelihood_estimate(ladder("heldout", 0, 0.0, moved=0.049), LARGE, 0).stable
    assert not likelihood_estimate(ladder("heldout", 0, 0.0, moved=0.051), LARGE, 0).stable
    unsure = verdict(ladder("selection", 0.0, 0.2, moved=0.2), ladder("heldout", 0.0, 2.0))
    assert unsure.decision == "undecided"
    assert "moved -0.200 nats from 100 to 400 draws" in unsure.sentence
    late = verdict(ladder("selection", 0.0, 2.0), ladder("heldout", 0.0, 0.3, moved=0.3, spread=0.1))
    assert late.decision == "undecided"
    assert "on the held-out split" in late.sentence


def test_more_rows_do_not_make_a_drift_worse() -> None:
    """The limit is held against the decision, not against the standard error."""
    wide, narrow = (ladder("heldout", 0, 1.0, moved=0.3, spread=s) for s in (2.0, 0.001))
    assert likelihood_estimate(wide, LARGE, 0).stable
    assert likelihood_estimate(narrow, LARGE, 0).stable


def test_a_candidate_without_a_chance_decides_nothing() -> None:
    """One candidate's estimate drifts, far below the best: the verdict is about the best."""
    v = verdict(ladder("selection", 2.0, 0.1, moved=0.2), ladder("heldout", 2.0, 0.1))
    assert (v.decision, v.choice) == ("leave the prior", str(SMALL))
    assert [s.gain.stable for s in v.chosen.ranking] == [True, True, False]


def test_every_number_of_the_choice_is_kept() -> None:
    """The rule, applied again to nothing but what the verdict keeps, gives the verdict."""
    for small, large in ((1.96, 2.0), (1.94, 2.0), (0.5, 0.2), (0.01, 0.04)):
        selection = ladder("selection", small, large, moved=0.01)
        v = verdict(selection, ladder("heldout", small, large))
        found = {s.name: s for s in v.chosen.ranking}
        assert set(found) == {str(i) for i in PANEL.eligible}
        top = max(found.values(), key=lambda s: s.gain.value)
        for s in found.values():
            assert s.behind == pytest.approx(top.gain.value - s.gain.value)
            ids = (CandidateId.parse(top.name), CandidateId.parse(s.name))
            difference = selection.likelihood[ids[0]] - selection.likelihood[ids[1]]
            assert s.behind_stderr == pytest.approx(float(difference.std()) / N**0.5)
            assert s.limit == pytest.approx(max(s.behind_stderr, 0.05))
            assert s.tied == (s is top or s.behind < s.limit)
        assert min((s for s in found.values() if s.tied), key=lambda s: s.bytes).name == v.best
        if v.best != "prior":
            assert v.heldout is not None
            assert v.bet is not None
            assert v.after_allowance is not None
            leave = v.bet.passed and v.heldout.value > 0.05 and v.after_allowance > 0.05
            assert (v.decision == "leave the prior") == leave


def test_rows_where_the_exact_posterior_gain_is_infinite_count_by_their_elbo_gain() -> None:
    """A lower bound, not distrust of the whole: 5 such rows of 2,000 once turned +1.70 into undecided."""
    one = ladder("heldout", 0.5, 2.0, elbo=-1.0)
    expected = one.exact_posterior[LARGE].clone()
    expected[3] = one.elbo[LARGE][3]
    one.exact_posterior[LARGE][3] = float("inf")
    e = exact_posterior_estimate(one, LARGE, 0)
    assert e.n == N
    assert e.stable
    assert e.value == pytest.approx(float(expected.mean()))
    assert e.because == "1 rows diverge: q is wider than the prior there; they count by their ELBO gain, a lower bound"


def test_an_exact_posterior_gain_by_importance_sampling_says_that_it_moved() -> None:
    one = ladder("heldout", 0.5, 0.2)
    earlier = {LARGE: one.exact_posterior[LARGE] - 0.2}
    e = exact_posterior_estimate(replace(one, exact_posterior_quarter=earlier), LARGE, 0)
    assert not e.stable
    assert "by importance sampling: moved" in e.because


def test_the_prior_is_not_kept_on_an_estimate_that_drifts() -> None:
    """The prior looks best, and a candidate that may be better is known to be badly estimated."""
    near = verdict(ladder("selection", 0.0, -0.02, moved=-0.8), ladder("heldout", 0.0, 0.0))
    assert near.decision == "undecided"
    assert "(--draws)" in near.sentence
    far = verdict(ladder("selection", 0.0, -9.0, moved=-20.0), ladder("heldout", 0.0, 0.0))
    assert far.decision == "keep the prior"


def test_an_estimate_without_an_error_asks_for_rows() -> None:
    selection = ladder("selection", 0.0, 1.0)
    one = {n: {k: v[:1] for k, v in getattr(selection, n).items()} for n in ("elbo", "likelihood", "quarter")}
    v = verdict(replace(selection, ids=torch.arange(1), exact_posterior={}, **one), ladder("heldout", 0.0, 1.0))
    assert v.decision == "undecided"
    assert "cannot be judged (one row only: no error can be given). More rows would settle it" in v.sentence


def test_the_bet_knows_what_a_group_counts_for_at_most() -> None:
    groups = torch.arange(N) // 4
    heldout = replace(ladder("heldout", 0.5, 1.8), groups=groups)
    chosen = choose(PANEL, ladder("selection", 0.5, 2.0), seed=0)
    v = decide(PANEL, chosen, heldout, checked(), seed=0, most=3.0)
    assert v.bet == bet(
        gains(1.8, 1.0, "a"), torch.arange(N), bound=-math.log(0.01), design=Design(groups=groups), most=3.0
    )
    assert "100 bets, where no group counts for more than 3 rows, the most in the training and selection" in v.why[-1]


def test_the_limit_is_the_largest_group_of_the_other_splits() -> None:
    """Whatever the held-out split has; in proportion where a part of it was measured."""

    def split(name: str, sizes: list[int]) -> Split:
        groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return Split(name, MemoryPosteriors(torch.zeros(len(groups), 1), torch.ones(len(groups), 1)), groups=groups)

    train, selection, held = split("train", [2, 8]), split("selection", [5, 1]), split("heldout", [100, 1, 1, 2])
    study = Study(train, selection, held, prior=Prior(1))
    row_gains = RowGains("heldout", torch.arange(104), {}, {}, groups=held.groups)
    assert largest_group(study, row_gains) == pytest.approx(8)
    some = torch.arange(52)
    assert held.groups is not None
    half = RowGains("heldout", some, {}, {}, groups=held.groups[some])
    assert largest_group(study, half) == pytest.approx(4)
    assert largest_group(study, replace(row_gains, groups=None)) == 1
