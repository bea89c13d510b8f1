"""zprime verify: a run gives its numbers again; whatever was planted in audit, card or weights is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import small
from tampering import WRONG
from test_cli import call
from zprime import chain, verify
from zprime.errors import ArtifactError, UsageError
from zprime.reporting.card import card
from zprime.results.audit import Audit
from zprime.results.audit import load as load_audit
from zprime.results.differences import ROUNDING, compare, compare_tensors
from zprime.run_folder import RunFolder
from zprime.running import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    job, audit = small.run(folder / "run", small.table(folder / "t.npz", n=240))
    (job.path / "card.md").write_text(card(audit, name="mine", license="mit"))
    return job.path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_an_untouched_run_gives_every_number_again_and_stays_as_it_is(run: Path) -> None:
    before = files(run)
    found = verify(run)
    assert found.passed
    assert found.measured
    assert (found.different, found.altered, found.rounded, found.versions) == ([], {}, 0, {})
    assert found.equal > 1000
    assert found.card == "card.md"
    assert found.sentence.startswith("Verified: measured again")
    assert files(run) == before


def gain_of(audit: dict[str, Any], name: str) -> dict[str, Any]:
    entry = next(e for e in audit["entries"] if e["id"]["name"] == name and e["id"]["percent"])
    gain: dict[str, Any] = entry["scores"]["heldout"]["likelihood"]["gain"]
    return gain


def test_a_number_planted_in_the_audit_is_named_with_its_candidate_and_both_values(run: Path) -> None:
    file = run / "audit" / "audit.json"
    audit = json.loads(file.read_text())
    gain = gain_of(audit, "mixture")
    old, gain["value"] = gain["value"], gain["value"] + 0.01
    file.write_text(json.dumps(audit, indent=1) + "\n")
    found = verify(run)
    assert not found.passed
    assert list(found.altered) == ["audit"]  # by its hash
    (only,) = found.different
    assert only.what.startswith("entries[mixture+p")
    assert only.what.endswith("].scores.heldout.likelihood.gain.value")
    assert (only.recorded, only.found) == (repr(old + 0.01), repr(old))
    assert found.card == "card.md"  # compared with what was measured


@pytest.mark.parametrize("value", [20.5, "x", None, [], True])
def test_settings_that_no_audit_has_are_refused(run: Path, value: Any) -> None:
    file = run / "audit" / "audit.json"
    audit = json.loads(file.read_text())
    audit["settings"]["rows"] = value
    file.write_text(json.dumps(audit))
    with pytest.raises(ArtifactError, match="does not say how it was measured"):
        verify(run)


def put(run: Path, change: Callable[[Audit], Audit]) -> None:
    """Another audit in the place of the one there, with every hash right."""
    audit = load_audit(run)
    small.put_audit(Run.open(run), change(replace(audit, drift=None)))


def test_what_was_altered_and_hashed_again_is_found_by_its_numbers(run: Path) -> None:
    text = (run / "card.md").read_text()

    def better(audit: Audit) -> Audit:
        surgery = audit.surgery["train"]
        mean = replace(surgery.mean_kl, value=surgery.mean_kl.value + 1e-4)
        rows = audit.tensors["gain.heldout.likelihood.gaussian"].clone()
        rows[3] += 1e-3
        tensors = {**audit.tensors, "gain.heldout.likelihood.gaussian": rows}
        return replace(audit, surgery={**audit.surgery, "train": replace(surgery, mean_kl=mean)}, tensors=tensors)

    put(run, better)
    assert list(verify(run, files_only=True).altered) == ["generator"]  # it was made from the other audit
    chain.drop(run, ["generator"])
    (run / "card.md").write_text(text)  # a page goes with the audit that it was made from
    found = verify(run)
    assert found.altered == {}
    assert [d.what for d in found.different] == [
        "surgery.train.mean_kl.value",
        "tensor gain.heldout.likelihood.gaussian, entry 3, one of 1 that differ",
    ]


def test_a_number_planted_in_the_card_is_named(run: Path) -> None:
    file = run / "card.md"
    text = file.read_text()
    metric = json.loads(text.split("model-index: ")[1].split("\n---\n")[0])[0]["results"][0]["metrics"][0]
    value = repr(metric["value"])
    file.write_text(text.replace(f'"value": {value}', f'"value": {metric["value"] + 1}', 1) + "\nMore of ours: 12.\n")
    (only,) = verify(run, files_only=True).different
    assert only.what == f"card.md, metric {metric['type']}"
    assert value in only.found
    row = next(line for line in text.splitlines() if line.startswith("| ") and "±" in line)
    file.write_text(text.replace(row, row.replace("±", "1 ±")))
    (only,) = verify(run, files_only=True).different
    assert (only.what, only.found) == ("card.md, a line", repr(row))
    assert only.recorded == repr(row.replace("±", "1 ±"))


@pytest.mark.parametrize("where", ["model", "latent/mixture", "generator"])
def test_altered_weights_are_named_and_nothing_is_measured_from_them(run: Path, where: str) -> None:
    file = next((run / where).rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    found = verify(run)
    assert not found.passed
    assert any(str(file) in said for said in found.altered.values())
    assert found.measured == where.startswith("generator")  # an audit is not made from it
    assert found.sentence.startswith("Not verified: altered 1")


def test_data_that_moved_are_named_and_may_be_told(run: Path, tmp_path: Path) -> None:
    data = RunFolder(run).data.source
    moved = shutil.move(data, tmp_path / "moved.npz")
    try:
        with pytest.raises(UsageError, match=r"data: .*t\.npz, where the run .* is not there; say where .*--data PATH"):
            verify(run)
        assert verify(run, data=moved).passed
        with pytest.raises(ArtifactError, match="these are not the rows of the run"):
            verify(run, data=small.table(tmp_path / "other.npz", n=200))
    finally:
        shutil.move(moved, data)


def test_an_audit_without_its_run_is_told_what_can_be_checked(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run / "audit", alone / "audit")
    shutil.copy(run / "card.md", alone / "README.md")
    with pytest.raises(UsageError, match="an audit and no run.*--files-only"):
        verify(alone)
    found = verify(alone, files_only=True)
    assert (found.passed, found.measured, found.card) == (True, False, "README.md")
    assert "Nothing was measured again" in found.sentence
    with pytest.raises(UsageError, match="expected the folder of a run that was audited"):
        verify(tmp_path, files_only=True)


def test_numbers_equal_within_rounding_are_counted_apart() -> None:
    then = {"a": 1.0, "b": [1000.0, {"name": "x", "value": 2}], "c": None, "versions": {"torch": "1"}, "d": 0.0}
    now = {"a": 1.0, "b": [1000.0 * (1 + 0.9 * ROUNDING), {"name": "x", "value": 2}], "c": None, "d": 1.1 * ROUNDING}
    found = compare(then, now)
    assert (found.equal, found.rounded) == (2, 1)
    assert [str(d) for d in found.different] == [f"d: recorded 0.0, found {1.1 * ROUNDING!r}"]
    assert [d.what for d in compare(then, {**then, "b": [1000.0, {"name": "x"}]}).different] == ["b[x].value"]
    assert compare({"e": True}, {"e": 1}).different  # not the same in JSON
    tensors = {"t": torch.tensor([1.0, torch.inf])}
    assert compare_tensors(tensors, {"t": torch.tensor([1.0, torch.inf])}).equal == 1
    assert compare_tensors(tensors, {"t": torch.tensor([1.0 + 1e-6, torch.inf])}).rounded == 1
    assert compare_tensors(tensors, {"t": torch.tensor([1.0, 5.0])}).different
    assert compare_tensors(tensors, {}).different


@pytest.mark.parametrize("value", [*WRONG, -(10**400)])
def test_whatever_stands_in_an_audit_is_compared_without_a_fault(value: Any) -> None:
    right = {"entries": [{"id": {"name": "a", "percent": 1.0}, "name": "a", "gain": 2.0}]}
    for key in ("name", "gain"):
        entry = {**right["entries"][0], key: value}
        assert compare({"entries": [entry]}, right).different
    for identity in (value, {"name": value, "percent": value}):
        assert compare({"entries": [{**right["entries"][0], "id": identity}]}, right).different
    assert compare(value, right).different


def test_the_command_ends_with_0_or_1(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--json", "--quiet", "verify", run) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["passed"], said["measured"], said["tolerance"]) == (True, True, ROUNDING)
    (run / "card.md").write_text((run / "card.md").read_text().replace("numbers ", "numbers 0"))
    assert call("--quiet", "verify", run, "--files-only") == 1
    out = capsys.readouterr().out
    assert "Different: card.md, a line" in out
    assert "Not verified: altered 0, different 1." in out
