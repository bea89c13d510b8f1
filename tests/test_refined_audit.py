"""Before and after refining in one audit: what a refined run's page, terminal and JSON say of the run before."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import small
from test_cli import call
from zprime.data import DataSettings
from zprime.latent import MixtureSettings
from zprime.refining import refine
from zprime.reporting.before import sentence, table, to_json
from zprime.results.audit import Audit, load
from zprime.results.paired import paired
from zprime.results.refined import before
from zprime.running import Run
from zprime.serialise import to_jsonable

FEW = replace(small.AUDIT, samples=40, simulated=0)
HEADING = "Before and after refining</h2>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and one that was refined from it and audited; the first is not audited."""
    folder = tmp_path_factory.mktemp("refined")
    job = Run.create(folder / "run")
    job.train(DataSettings(str(small.table(folder / "t.npz", 240))), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit([MixtureSettings(components=3)], seed=0)
    run = refine(job.path, "mixture", epochs=3)
    assert run.folder.model.config["epoch"] > 0
    run.fit(["gaussian"], seed=0)
    run.audit(FEW, seed=0)
    return job.path


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which both are audited."""
    copy = shutil.copytree(made, tmp_path_factory.mktemp("both") / "run")
    Run.open(copy).audit(FEW, seed=0)
    return copy


@pytest.fixture
def both(whole: Path, tmp_path: Path) -> tuple[Path, Path, Audit, Audit]:
    """Both runs of a copy of that, for one test, and their audits."""
    parent = shutil.copytree(whole, tmp_path / "run")
    run = parent / "refined" / "mixture"
    return parent, run, load(parent), load(run)


def reported(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str, str]:
    """What `zprime report` gives as JSON of the refinement and writes beside it, and the page."""
    capsys.readouterr()
    assert call("report", run, "--json") == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out).get("refined", {})
    assert call("report", run) == 0
    return told, " ".join(capsys.readouterr().out.split()), (run / "report.html").read_text()


def test_a_run_before_that_was_not_audited_is_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made / "refined" / "mixture"
    told, says, page = reported(run, capsys)
    assert told["difference"] is None
    for text in (str(told["why"]), says, page):
        assert "has not been audited yet; run" in text
    assert HEADING in page
    assert str(made) in page
    assert call("report", run, "--public", "--quiet") == 0  # it has no rows to pair, and the run before is a path
    public = (run / "public.html").read_text()
    assert HEADING not in public
    assert str(made) not in public


def test_before_and_after_are_paired_row_by_row(
    both: tuple[Path, Path, Audit, Audit], capsys: pytest.CaptureFixture[str]
) -> None:
    """Over what took the prior's place, as it was fitted post hoc, under the model before."""
    _, run, then, now = both
    exact = paired(now, "prior", then, "mixture").difference
    told, says, page = reported(run, capsys)
    assert told == {"over": "mixture", "difference": to_jsonable(exact), "why": ""}
    found = before(run, now)
    assert found is not None
    shown, words = table(found, now), sentence(found, now)
    assert shown is not None
    rows = [[c.text for c in r.cells] for r in shown.rows]
    assert [(r[0], r[2]) for r in rows[:2]] == [("before", "the prior in training"), ("before", "post hoc")]
    assert rows[1][1] == "mixture(3)"
    assert ("refined", "prior: mixture(3)", "refined") in [tuple(r[:3]) for r in rows]
    assert ("not measurably different from 0" in words) == (exact.low <= 0 <= exact.high)
    assert str(exact)[:5] in words
    assert words in page
    assert words in says
    assert HEADING in page


def test_the_audit_of_a_refined_run_says_it_too(
    both: tuple[Path, Path, Audit, Audit], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run, then, now = both
    capsys.readouterr()
    few = ["--rows", "12", "--draws", "120", "--grid", "4", "--map", "20", "--samples", "40", "--simulated", "0"]
    assert call("audit", run, *few, "--json") == 0
    told = json.loads(capsys.readouterr().out)["refined"]["difference"]
    assert told == to_jsonable(paired(now, "prior", then, "mixture").difference)


def test_however_the_folder_is_called_it_is_found(
    both: tuple[Path, Path, Audit, Audit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, run, _, now = both
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(run / "audit")
    whole = before(run, now)
    assert whole is not None
    assert whole.audit is not None
    for path in (run / "audit", tmp_path / "link", "..", ".", "../../mixture"):
        found = before(path, now)
        assert found is not None
        assert (found.r, sentence(found, now)) == (whole.r, sentence(whole, now))


def test_a_public_page_leaves_it_out(both: tuple[Path, Path, Audit, Audit]) -> None:
    """It has no rows to pair, and the run before is a path."""
    assert call("report", both[1], "--public", "--quiet") == 0
    page = (both[1] / "public.html").read_text()
    assert HEADING not in page
    assert str(both[0]) not in page


def test_other_runs_have_none(both: tuple[Path, Path, Audit, Audit], capsys: pytest.CaptureFixture[str]) -> None:
    parent, _, then, _ = both
    assert before(parent, then) is None
    told, _, page = reported(parent, capsys)
    assert told == {}
    assert HEADING not in page


def test_what_cannot_stand_beside_it_is_said(both: tuple[Path, Path, Audit, Audit], tmp_path: Path) -> None:
    """Other splits; an audit without the fit; another place; another fit or model there by now."""
    parent, run, then, now = both
    other = before(run, replace(now, data=replace(now.data, used="otherwise")))
    assert other is not None
    assert other.audit is None
    assert "their splits are not the same" in sentence(other, now)
    assert table(other, now) is None

    job = Run.open(parent)
    small.put_audit(job, replace(then, entries=[e for e in then.entries if e.id.name != "mixture"]))
    assert "has no mixture; run `zprime audit" in why(run, now)
    elsewhere = shutil.copytree(run, tmp_path / "elsewhere")
    assert "does not lie in the folder of the run that it was refined from" in why(elsewhere, now)
    again = Run.open(parent, replace=True)
    again.fit([MixtureSettings(components=2)], seed=0)
    again.audit(FEW, seed=0)
    assert "has another mixture by now" in why(run, now)
    new = Run.create(parent, replace=True)
    new.train(DataSettings(str(small.table(tmp_path / "t.npz", 240))), small.NETWORK, small.TRAINING, seed=1)
    new.encode()
    new.fit([MixtureSettings(components=3)], seed=0)
    new.audit(FEW, seed=0)
    assert "has another model by now" in why(run, now)


def why(run: Path, audit: Audit) -> str:
    """Why nothing stands beside it."""
    found = before(run, audit)
    assert found is not None
    assert found.audit is None
    assert to_json(found, audit)["why"] == found.why
    return found.why


def test_where_no_epoch_was_better_there_is_nothing_to_compare(made: Path, tmp_path: Path) -> None:
    parent = shutil.copytree(made, tmp_path / "run")
    run = refine(parent, "mixture", name="same", epochs=1, lr=1e-30)
    assert run.folder.model.config["epoch"] == 0
    run.fit(["gaussian"], seed=0)
    assert "epoch 0 was kept, so the model is the one before, with mixture" in why(run.path, run.audit(FEW, seed=0))
