"""How many draws a row the gains take, when more are taken, and what is corrected where they are few."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from bimodal import data, vae
from oracles import linear_gaussian
from studies import study
from test_auditing import MODEL, SMALL, shifted, splits
from test_verdict import LARGE, PANEL, checked, gains, ladder
from test_verdict import SMALL as LITTLE
from zprime.auditing import audit
from zprime.data import Rows
from zprime.errors import UsageError
from zprime.fitting import fit
from zprime.measure.likelihood import modes
from zprime.measure.likelihood.finer import FEWEST, Measured, some_rows
from zprime.measure.likelihood.gains import PRIOR, RowGains
from zprime.measure.likelihood.proposal import least_draws
from zprime.measure.likelihood.side import measure_splits
from zprime.measure.study import Split, Study
from zprime.measure.verdicts.draws import more_wanted, steps
from zprime.measure.verdicts.selected import choose
from zprime.posteriors import MemoryPosteriors
from zprime.progress import silent
from zprime.results.audit import Audit
from zprime.results.settings import AuditSettings
from zprime.results.verdicts import Choice
from zprime.statistics.estimate import mean_estimate


def chosen(small: float, large: float, *, moved: float = 0.0, spread: float = 1.0) -> tuple[Choice, Choice]:
    """The choice by all draws, and by the first quarter of them, where LARGE was higher by `moved`."""
    selection = ladder("selection", small, large, moved=moved, spread=spread)
    quarter = replace(selection, likelihood=selection.quarter)
    return choose(PANEL, selection, seed=0), choose(PANEL, quarter, seed=0)


def test_few_draws_are_enough_where_nothing_moves() -> None:
    assert not more_wanted(*chosen(0.5, 2.0), checked())
    assert not more_wanted(*chosen(-1.0, -2.0), None)  # the prior is chosen: nothing is checked


@pytest.mark.parametrize(("moved", "more"), [(0.14, False), (-0.14, False), (0.16, True), (-0.16, True)])
def test_more_are_taken_where_bias_is_beside_the_error(moved: float, more: bool) -> None:  # noqa: FBT001
    """A third of the move is left; more than 0.05 nats, and than half of a standard error of 0.05, is too much."""
    assert more_wanted(*chosen(0.5, 2.0, moved=moved), checked()) is more


@pytest.mark.parametrize(("moved", "more"), [(0.29, False), (0.31, True)])
def test_a_bias_below_half_a_standard_error_is_none(moved: float, more: bool) -> None:  # noqa: FBT001
    now, quarter = chosen(0.5, 3.0, moved=moved, spread=4.0)  # a standard error of 0.2
    assert more_wanted(now, quarter, checked()) is more


def test_more_are_taken_where_a_quarter_chooses_another() -> None:
    now, quarter = chosen(1.95, 2.1, moved=-0.14)
    assert (now.best, quarter.best) == (str(LARGE), str(LITTLE))
    assert more_wanted(now, quarter, checked())
    assert not more_wanted(now, replace(quarter, best=now.best), checked())


def test_more_are_taken_where_a_gain_is_not_stable() -> None:
    now, quarter = chosen(0.5, 2.0)
    ranking = [replace(r, gain=replace(r.gain, stable=r.name != str(LITTLE))) for r in now.ranking]
    assert more_wanted(replace(now, ranking=ranking), quarter, checked())


def test_more_are_taken_where_the_exchange_check_does_not_let_the_gain_pass() -> None:
    both = chosen(0.5, 2.0)
    assert more_wanted(*both, checked(-0.2))  # fails
    assert more_wanted(*both, checked(informative=False))
    assert not more_wanted(*both, checked(-0.1, 1.0))
    assert more_wanted(*both, checked(-0.1, 1.2))  # an allowance of 1.97: 2 - 1.97 is no gain


def test_draws_begin_few_and_grow_to_what_was_asked_for() -> None:
    posteriors, rows = splits()
    whole = study(posteriors, rows, model=MODEL.vae(), settings=AuditSettings(draws=400))
    assert steps(whole, PANEL) == [52, 400]

    def asked(**more: int) -> list[int]:
        return steps(replace(whole, settings=replace(whole.settings, **more)), PANEL)

    assert asked(draws=104) == [104]  # one half of it is not worth a trial
    assert asked(draws=4000) == [52, 416, 4000]
    assert asked(first_draws=400) == [400]
    assert asked(first_draws=8) == [least_draws(3), 400]  # 8 would leave parts of the proposal without a draw
    assert asked(draws=0) == [0]
    whole = replace(whole, search=True)  # draws around modes are two parts more
    assert asked(first_draws=8) == [least_draws(3) + 8, 400]


def test_without_a_decoder_nothing_is_saved() -> None:
    posteriors, rows = splits()
    assert steps(study(posteriors, rows, settings=AuditSettings()), PANEL) == [400]
    assert steps(study(posteriors, model=MODEL.vae(), settings=AuditSettings()), PANEL) == [400]
    points = {name: MemoryPosteriors(p.mean, None) for name, p in posteriors.items()}
    assert steps(study(points, rows, model=MODEL.vae(), settings=AuditSettings()), PANEL) == [400]


@pytest.mark.parametrize("first", [6, 50, -4])
def test_first_draws_that_no_quarter_can_have_are_refused(first: int) -> None:
    with pytest.raises(UsageError, match=f"first_draws: expected a multiple of 4 that is at least 8, got {first}"):
        AuditSettings(first_draws=first).check()


def test_an_audit_keeps_how_many_it_took() -> None:
    posteriors, rows = splits(shift=1.0)
    settings = replace(SMALL, draws=400, samples=0, simulated=0, members=0, latent_side=False)
    few = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)
    assert (few.draws, few.settings.draws) == (52, 400)
    assert few.verdict.exchange is not None
    assert few.verdict.exchange.draws == 52
    every = replace(settings, first_draws=400)
    whole = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=every)
    assert whole.draws == 400
    assert (few.verdict.decision, few.verdict.choice) == (whole.verdict.decision, whole.verdict.choice)
    gain, other = (a.entry("shifted").heldout.likelihood for a in (few, whole))
    assert gain is not None
    assert other is not None
    assert gain.gain.value == pytest.approx(other.gain.value, abs=0.1)


def test_a_check_that_fails_with_few_draws_is_made_with_all() -> None:
    """An encoder that misses a mode of every posterior."""
    rows, posteriors = data(0, 2, train=400, selection=100, heldout=100)
    r = fit("gaussian", posteriors["train"], selection=posteriors["selection"], seed=0)
    settings = AuditSettings(
        rows=100, draws=120, grid=1, map=1, simulated=0, samples=0, repair=0, latent_side=False, members=0
    )
    found = audit({"gaussian": r}, posteriors, model=vae(2), rows=rows, settings=settings)
    assert found.verdict.exchange is not None
    assert found.verdict.exchange.failed
    assert (found.verdict.exchange.draws, found.draws) == (120, 120)


REPAIR = AuditSettings(
    rows=60, draws=120, grid=1, map=1, simulated=0, exchange=50, samples=0, repair=20, latent_side=False, members=0
)


def watched(monkeypatch: pytest.MonkeyPatch, settings: AuditSettings, **more: object) -> tuple[list[tuple], Audit]:
    """Which splits gains were measured on, by how many draws, and whether with modes; and the audit.

    The encoder misses a mode of every posterior.
    """
    rows, posteriors = data(0, 2, train=400, selection=100, heldout=100)
    r = fit("gaussian", posteriors["train"], selection=posteriors["selection"], seed=0)
    measured: list[tuple] = []

    def spy(of: Study, candidates: object, names: Sequence[str]) -> dict[str, RowGains]:
        measured.append((tuple(names), of.settings.draws, of.search))
        return measure_splits(of, candidates, names)

    for module in ("selected", "likelihood"):
        monkeypatch.setattr(f"zprime.measure.verdicts.{module}.measure_splits", spy)
    found = audit({"gaussian": r}, posteriors, model=vae(2), rows=rows, settings=settings, **more)
    return measured, found


def test_a_check_that_fails_with_all_draws_leads_to_the_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gains are measured that nothing is made of: neither with all draws before the search, nor held-out ones."""
    measured, found = watched(monkeypatch, REPAIR)
    assert measured == [(("selection",), 52, False), (("selection",), 52, True), (("heldout",), 52, True)]
    assert found.verdict.repaired
    assert found.draws == 52
    assert "on 50 rows simulated" in found.verdict.why[0]
    every, whole = watched(monkeypatch, replace(REPAIR, first_draws=120))
    assert every == [(("selection",), 120, False), (("selection",), 120, True), (("heldout",), 120, True)]
    assert whole.verdict.decision == found.verdict.decision
    assert whole.verdict.why[0] == found.verdict.why[0]  # the check that failed was made with 120 draws in both


def test_with_modes_too_more_draws_are_taken_where_few_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes of the same rows are searched for once."""
    searched: list[tuple[str, int]] = []
    real = modes.search_modes

    def spy(split: Split, *args: object, **named: object) -> Split:
        searched.append((split.name, split.n))
        return real(split, *args, **named)

    monkeypatch.setattr(modes, "search_modes", spy)
    monkeypatch.setattr("zprime.measure.verdicts.selected.more_wanted", lambda *_: True)
    measured, found = watched(monkeypatch, REPAIR)
    with_modes = [(names, draws) for names, draws, search in measured if search]
    assert with_modes == [(("selection",), 52), (("selection",), 120), (("heldout",), 120)]
    assert found.draws == 120
    assert [one for one in searched if one[0] != "simulated"] == [("selection", 20), ("heldout", 20)]


def test_modes_of_some_rows_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those rows that are measured once more with all draws have the modes that they had."""
    posteriors, rows = splits()
    of = replace(study(posteriors, rows, model=MODEL.vae()), search=True)
    split = of.heldout.take(torch.tensor([3, 1, 7]))
    first = modes.searched(of, PANEL, split, rng=of.stream("modes"), progress=silent)
    monkeypatch.setattr(modes, "search_modes", lambda *_, **__: pytest.fail("searched once more"))
    again = modes.searched(of, PANEL, split.take(torch.tensor([2, 0])), rng=of.stream("modes"), progress=silent)
    assert first.modes is not None
    assert again.modes is not None
    assert torch.equal(again.modes, first.modes[[2, 0]])


def test_where_no_modes_are_searched_for_gains_are_measured_with_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, found = watched(monkeypatch, replace(REPAIR, repair=0))
    assert measured == [(("selection",), 52, False), (("selection",), 120, False), (("heldout",), 120, False)]
    assert not found.verdict.repaired


def test_another_thread_measures_held_out_rows_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are the same."""
    both = ("selection", "heldout")
    measured, found = watched(monkeypatch, REPAIR, workers=2)
    assert measured == [(both, 52, False), (both, 52, True), ((), 52, True)]
    _, alone = watched(monkeypatch, REPAIR)
    assert found.verdict == alone.verdict
    assert all(torch.equal(v, alone.tensors[k]) for k, v in found.tensors.items())


def few_and_many(n: int = 400) -> tuple[RowGains, RowGains]:
    """Log p(x) by few draws, and of some rows by many: higher by 0.5 with a spread of 0.1."""
    few = replace(
        ladder("heldout", 0.5, 2.0), log_prior=gains(-7.0, 2.0, "p"), log_prior_quarter=gains(-8.0, 2.0, "p"), draws=52
    )
    at = some_rows(n)
    up = 0.5 + 0.1 * torch.linspace(-1, 1, len(at)).double()
    assert few.log_prior is not None
    parts = {name: {k: v[at] for k, v in getattr(few, name).items()} for name in ("likelihood", "quarter")}
    log_prior = few.log_prior[at] + up
    return few, RowGains(
        "heldout", few.ids[at], log_prior=log_prior, log_prior_quarter=log_prior - 0.1, draws=400, **parts
    )


def test_log_p_is_corrected_by_what_all_draws_change_on_some_rows() -> None:
    few, many = few_and_many()
    assert few.log_prior is not None
    found = Measured(few, some_rows(400), many).mean(few.log_prior, PRIOR, seed=0)
    plain = mean_estimate(few.log_prior, unit="", split="", seed=0)
    change = 0.1 * torch.linspace(-1, 1, 64).double()
    assert found.value == pytest.approx(plain.value + 0.5)
    assert found.stderr == pytest.approx(math.hypot(plain.stderr or 9, float(change.std()) / math.sqrt(64)))
    assert found.stable
    assert "52 draws a row, corrected by 400 on 64 of the rows" in found.because
    alone = Measured(few).mean(few.log_prior, PRIOR, seed=0)
    assert (alone.value, alone.stderr) == (plain.value, plain.stderr)
    assert not alone.stable  # it moved by 1 nat


def test_log_p_under_a_candidate_is_that_of_the_prior_and_the_gain() -> None:
    few, many = few_and_many()
    measured = Measured(few, some_rows(400), many)
    of = {i: measured.mean(few.log_prob(i)[0], i, seed=0).value for i in (PRIOR, LARGE)}
    assert of[LARGE] - of[PRIOR] == pytest.approx(float(few.likelihood[LARGE].mean()))


def test_a_log_p_that_still_moves_with_all_draws_is_not_stable() -> None:
    few, many = few_and_many()
    assert few.log_prior is not None
    assert many.log_prior is not None
    moves = replace(many, log_prior_quarter=many.log_prior - 0.3)
    assert not Measured(few, some_rows(400), moves).mean(few.log_prior, PRIOR, seed=0).stable


@pytest.mark.parametrize(("n", "rows"), [(1600, 100), (1000, FEWEST), (100, FEWEST), (20, 20)])
def test_some_rows_are_a_sixteenth_of_them(n: int, rows: int) -> None:
    at = some_rows(n)
    assert len(at.unique()) == rows
    assert (int(at[0]), int(at[-1])) == (0, n - 1)


def test_in_an_audit_log_p_is_as_near_to_the_truth_as_with_all_draws() -> None:
    """An encoder of half the width: 52 draws fall short of log p(x) by more than the correction leaves."""
    model, posteriors, rows = linear_gaussian(D=5, d=2, var=0.05), {}, {}
    for i, split in enumerate(("train", "selection", "heldout")):
        x, _ = model.sample(200, seed=i)
        mean, scale = model.posterior(x)
        posteriors[split] = MemoryPosteriors(mean, 0.15 * scale)
        rows[split] = Rows(split, x, torch.arange(200))
    settings = AuditSettings(rows=200, samples=0, simulated=0, exchange=0, members=0, latent_side=False, other_scale=0)
    found = audit({"shifted": shifted(0.0)}, posteriors, model=model.vae(), rows=rows, settings=settings)
    assert found.draws == 52
    assert found.likelihood is not None
    told = found.likelihood.log_prob[PRIOR]
    truth = float(model.log_evidence(rows["heldout"].x).mean())
    plain = float(found.tensors["log_prior.heldout"].mean())
    assert abs(told.value - truth) < 0.5 * abs(plain - truth)
    assert found.log_prior == told
