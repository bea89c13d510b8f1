"""A quick audit: no more than it says, the rules of a whole one, and never in the place of a whole one unasked."""

import io
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import small
from test_auditing import MODEL, shifted, splits
from test_cli import call
from test_verdict import checked
from zprime import artifact
from zprime.auditing import audit
from zprime.errors import UsageError
from zprime.measure.likelihood.proposal import enough_draws, least_draws
from zprime.measure.verdicts import likelihood, selected
from zprime.reporting import report
from zprime.reporting.explain import explain
from zprime.reporting.terminal import show
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.settings import MOST, PARTS
from zprime.running import Run

QUICK = AuditSettings(quick=True)


def test_nothing_is_above_what_a_quick_audit_measures() -> None:
    resolved = replace(QUICK, rows=5000, draws=800, samples=50, ais=3).resolve()
    assert (resolved.rows, resolved.draws, resolved.samples, resolved.ais) == (200, 100, 50, 0)
    assert resolved.resolve() == resolved
    assert all(getattr(QUICK.resolve(), name) == most for name, most in MOST.items())
    assert AuditSettings().resolve() == AuditSettings()
    QUICK.resolve().check()


def test_every_part_that_is_left_out_is_told() -> None:
    off = {name for name, most in MOST.items() if not most}
    assert set(PARTS) == off - {"ais"}  # no whole audit has it unless asked
    said = QUICK.resolve().says
    assert all(words in said for words in PARTS.values())
    assert AuditSettings().left_out == []
    assert AuditSettings().says == ""
    assert set(MOST) <= {f.name for f in fields(AuditSettings)}


@pytest.mark.parametrize("space", ["classifier", "selfsupervised"])
def test_a_space_that_needs_a_network_is_refused(space: str) -> None:
    for settings in (replace(QUICK, features=space), AuditSettings(features=space, feature_networks=False)):
        with pytest.raises(UsageError, match=f"features: {space} trains a network"):
            settings.check()


def test_many_candidates_get_the_draws_that_they_need() -> None:
    assert enough_draws(QUICK.resolve(), 4).draws == 100
    assert enough_draws(QUICK.resolve(), 30).draws == least_draws(30) > 100
    assert enough_draws(AuditSettings(draws=100), 30).draws == 100  # what was asked for, and is then refused
    assert enough_draws(replace(QUICK, draws=0), 30).draws == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Audit]:
    folder = tmp_path_factory.mktemp("quick")
    return small.run(folder / "run", small.table(folder / "t.npz", n=240))


@pytest.fixture
def run(made: tuple[Run, Audit], tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(made[0].path, tmp_path / "run"))


def test_it_leaves_out_what_it_says_and_keeps_the_verdicts(run: Run) -> None:
    run.replace = True
    found = run.audit(replace(small.AUDIT, quick=True), seed=0)
    side, samples = found.likelihood, found.samples
    assert side is not None
    assert samples is not None
    assert (found.latents, found.membership, side.calibration) == (None, None, [])
    assert (samples.path, samples.classifier, samples.features) == (None, None, "columns")
    assert all(e.tstr is None and e.fidelity.labels is None for e in samples.entries)
    assert found.verdict.decision
    assert samples.verdict.decision
    assert found.surgery


def test_a_smaller_whole_audit_says_what_it_replaces(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    few = replace(small.AUDIT, rows=small.AUDIT.rows - 2)
    run.audit(few, seed=0)
    assert f"replaced by a smaller one: {few.rows} rows (it has {small.AUDIT.rows})" in caplog.text
    caplog.clear()
    run.audit(small.AUDIT, seed=0)
    assert "smaller" not in caplog.text


def test_page_terminal_card_and_answer_say_that_it_is_quick(run: Run) -> None:
    run.replace = True
    found = run.audit(replace(small.AUDIT, quick=True), seed=0)
    page = report(run.path).read_text()
    console = Console(width=10_000, record=True, file=io.StringIO())
    console.print(show(found, width=200))
    for text in (page, console.export_text(), explain(run.path), str(found)):
        assert "his is a quick audit: at most 12 rows a split with 100 draws each" in text
        assert "calibration of the encoder" in text
        assert "without --quick" in text
    assert "Verdict by likelihood of a quick audit" in page
    whole = replace(found, settings=AuditSettings(), warnings=[])
    assert "quick audit" not in explain(whole) + str(whole)


def test_it_does_not_take_the_place_of_a_whole_audit_unasked(run: Run) -> None:
    before = artifact.read(run.path / "audit").hash
    quick = replace(small.AUDIT, quick=True)
    with pytest.raises(UsageError, match=r"quick: .* holds a whole audit.*generator.*--replace"):
        run.audit(quick, seed=0)
    assert artifact.read(run.path / "audit").hash == before
    run.replace = True
    run.audit(quick, seed=0)
    assert load_audit(run.path).settings.quick
    run.replace = False
    assert run.audit(quick, seed=0).settings.quick  # the same again
    assert not run.audit(small.AUDIT, seed=0).settings.quick  # a whole one takes its place
    assert artifact.read(run.path / "audit").hash == before


def test_the_command_of_a_quick_audit_has_the_flag_and_no_more(run: Run) -> None:
    assert call("--quiet", "audit", run.path, "--quick", "--replace") == 0
    words = shlex.split(load_audit(run.path).command)
    assert words[-1] == "--quick"
    assert not {"--rows", "--draws", "--no-latent-side", "--simulated"} & set(words)


def test_in_python_one_word_asks_for_it() -> None:
    posteriors, rows = splits(60)
    found = audit(
        {"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, quick=True, settings=AuditSettings(rows=30)
    )
    assert found.settings == replace(AuditSettings(quick=True).resolve(), rows=30)
    assert "quick audit" in found.warnings[0]
    assert repr(found).startswith("<Quick audit of")
    assert torch.isfinite(found.tensors["gain.heldout.likelihood.shifted"]).all()


@pytest.mark.parametrize(("measured", "looked"), [(30, 500), (300, 600)])
def test_near_duplicates_are_looked_for_among_twice_as_many_rows_as_are_measured(measured: int, looked: int) -> None:
    posteriors, rows = splits(n=650)
    settings = AuditSettings(rows=measured, draws=0, exchange=0, samples=0, latent_side=False)
    found = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)
    assert found.data.near is not None
    assert found.data.near.share.n == looked


def test_an_undecided_one_says_first_to_run_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selected, "check_choice", lambda *_: checked(-0.5))  # as of a poor encoder
    posteriors, rows = splits(60)
    for quick in (True, False):
        settings = AuditSettings(rows=30, draws=40, samples=0, repair=0, simulated=0, latent_side=False, quick=quick)
        found = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)
        said = found.verdict.sentence
        assert said.startswith("Undecided: ")
        assert (f"{likelihood.WHOLE_FIRST}. {likelihood.BETTER_ENCODER}. Until" in said) is quick
