"""What a run uses again, whose verdict is shipped, and that what is written was flushed in the right order."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import small
from test_auditing import MODEL, SMALL, shifted, splits
from zprime import artifact
from zprime.auditing import audit
from zprime.data import SPLITS
from zprime.errors import ArtifactError, UsageError
from zprime.latent import MixtureSettings
from zprime.reporting.explain import explain
from zprime.results.audit import Audit, Score
from zprime.results.audit import load as load_audit
from zprime.running import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.table(tmp_path_factory.mktemp("data") / "table.npz", n=240)


@pytest.fixture
def done(data: Path, tmp_path: Path, whole: tuple[Run, Audit]) -> Run:
    """A copy of a run, to be altered."""
    import shutil

    return Run.open(shutil.copytree(whole[0].path, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Audit]:
    return small.run(tmp_path_factory.mktemp("run") / "run", data)


def manifest(path: Path) -> tuple[str, int]:
    return artifact.read(path).hash, (path / artifact.MANIFEST).stat().st_mtime_ns


# -- reuse -------------------------------------------------------------------------------------------------------------


def test_a_fit_is_used_again_for_the_same_settings_seed_and_rows_alone(done: Run) -> None:
    path = done.path / "latent" / "mixture"
    done.replace = True

    def again(**changes: Any) -> bool:
        before = manifest(path)
        done.fit(**{"kinds": ["mixture"], "seed": 0, **changes})
        return manifest(path) == before

    assert again()
    assert not again(seed=1)
    assert again(seed=1)
    assert not again()
    assert not again(kinds=[MixtureSettings(components=2)])
    assert not again(kinds=["mixture"])


def test_an_audit_is_used_again_for_the_same_settings_seed_and_candidates_alone(done: Run) -> None:
    path = done.path / "audit"
    done.replace = True
    little = replace(small.AUDIT, samples=0, simulated=0, draws=0)

    def again(settings: Any = little, **changes: Any) -> bool:
        before = manifest(path)
        done.audit(settings, **{"seed": 0, **changes})
        return manifest(path) == before

    assert not again()
    assert again()
    assert not again(seed=1)
    assert not again()
    assert not again(names=["gaussian"])
    assert not again(replace(little, rows=11), names=["gaussian"])
    done.fit(["gaussian"], seed=1)
    assert not path.exists()  # it left with the fit that it had measured


@pytest.mark.parametrize("name", ["data", "model", *(f"posteriors/{s}" for s in SPLITS), "latent/mixture", "audit"])
def test_every_file_of_what_is_used_again_is_verified(name: str, done: Run, data: Path) -> None:
    file = max((done.path / name).glob("*.safetensors"), key=lambda p: p.name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="its SHA-256 is not the one in"):
        small.run(done.path, data)


# -- what is shipped ---------------------------------------------------------------------------------------------------


def with_copying(audit: Audit, name: str, status: str, *, heldout: str = "") -> Audit:
    """With this status beside the selection split; beside the held-out split with another, or not measured there."""
    assert audit.samples is not None
    entries = [
        e
        if e.name != name or e.copying is None
        else replace(e, copying=replace(e.copying, status=status), copying_draws=None)
        for e in audit.samples.entries
    ]
    there = {k: v for k, v in audit.samples.verdict.copying.items() if k != name}
    verdict = replace(audit.samples.verdict, copying={**there, **({name: heldout} if heldout else {})})
    return replace(audit, samples=replace(audit.samples, entries=entries, verdict=verdict))


def leaving_for(audit: Audit, name: str) -> Audit:
    """With a verdict for generation that leaves the prior for what is called `name`."""
    assert audit.samples is not None
    told = replace(audit.samples.verdict, decision="leave the prior", choice=name)
    return replace(audit, samples=replace(audit.samples, verdict=told))


def shipped_kind(run: Run) -> str:
    return str(artifact.read(run.path / "generator").config["latent"]["kind"])


def test_copying_is_known_of_the_fit_that_was_measured_and_of_no_other(done: Run, whole: tuple[Run, Audit]) -> None:
    mixture = small.candidate(whole[1], "mixture")
    accused = with_copying(with_copying(whole[1], "mixture", "passes"), mixture, "copies")
    small.put_audit(done, accused)
    assert done.folder.generative(mixture).copying == "copies"
    assert done.folder.generative("mixture").copying == "passes"
    assert done.folder.generative("mixture+p33").copying == "copies"  # not measured with this share: as with another
    assert done.folder.generative("gaussian").copying == whole[1].copying("gaussian")
    assert done.folder.generative("gaussian+p33").copying == "untested"
    done.replace = True
    done.fit(["mixture"], seed=1)
    for name in ("mixture", mixture, "mixture+p33"):
        assert done.folder.generative(name).copying == "untested"


@pytest.mark.parametrize(
    ("generation", "likelihood", "status", "shipped"),
    [
        (("leave the prior", "gaussian"), "mixture", "passes", "gaussian"),
        (("keep the prior", "prior"), "mixture", "passes", "prior"),
        (("undecided", "prior"), "mixture", "passes", "mixture"),
        (("undecided", "prior"), "mixture", "untested", "prior"),
        (("undecided", "prior"), "mixture", "copies", "prior"),
        (("none of these", "gaussian"), "mixture", "passes", "mixture"),
        (("none of these", "gaussian"), "mixture", "untested", "prior"),
        (("none of these", "gaussian"), "mixture", "copies", "prior"),
        (("leave the prior", "mixture"), "mixture", "untested", "prior"),
        (("leave the prior", "mixture"), "prior", "copies", "prior"),
        (("undecided", "prior"), "prior", "passes", "prior"),
        (None, "mixture", "passes", "prior"),  # nobody decoded a sample: it is not cleared
    ],
)
def test_generation_decides_what_is_shipped_else_likelihood_and_only_what_is_cleared(
    generation: tuple[str, str] | None, likelihood: str, status: str, shipped: str, whole: tuple[Run, Audit]
) -> None:
    name = {n: small.candidate(whole[1], n) for n in ("prior", "gaussian", "mixture")}
    found = with_copying(with_copying(whole[1], name["mixture"], status), name["gaussian"], "passes")
    found = replace(found, verdict=replace(found.verdict, choice=name[likelihood]))
    if generation is None:
        found = replace(found, samples=None)
    else:
        assert found.samples is not None
        told = replace(found.samples.verdict, decision=generation[0], choice=name[generation[1]])
        found = replace(found, samples=replace(found.samples, verdict=told))
    assert found.shipped == name[shipped]


@pytest.mark.parametrize(
    ("selection", "heldout", "found"),
    [
        ("passes", "passes", "passes"),
        ("passes", "untested", "untested"),
        ("passes", "copies", "copies"),
        ("untested", "passes", "untested"),
        ("untested", "copies", "copies"),
        ("copies", "passes", "copies"),
        ("passes", "", "passes"),
        ("untested", "", "untested"),
    ],
)
def test_the_verdict_by_likelihood_ships_nothing_that_the_held_out_split_did_not_clear(
    selection: str, heldout: str, found: str, whole: tuple[Run, Audit]
) -> None:
    """The verdict for generation is undecided then; the choice by likelihood is no way round it."""
    mixture = small.candidate(whole[1], "mixture")
    changed = with_copying(whole[1], mixture, selection, heldout=heldout)
    assert changed.samples is not None
    told = replace(changed.samples.verdict, decision="undecided", choice="prior", best=mixture)
    changed = replace(changed, samples=replace(changed.samples, verdict=told))
    changed = replace(changed, verdict=replace(changed.verdict, decision="leave the prior", choice=mixture))
    assert changed.copying(mixture) == found
    assert changed.shipped == (mixture if found == "passes" else "prior")


def test_both_splits_of_a_measured_audit_count(whole: tuple[Run, Audit]) -> None:
    side = whole[1].samples
    assert side is not None
    assert set(side.verdict.copying) == {"prior", side.verdict.best}
    assert load_audit(whole[0].path).samples == side  # also as it lies on the disk


@pytest.mark.parametrize("by", ["likelihood", "generation"])
def test_a_kind_that_stores_rows_is_shipped_only_where_the_settings_allow_it(by: str, whole: tuple[Run, Audit]) -> None:
    aggregated = small.candidate(whole[1], "aggregated")
    assert whole[1].entry(aggregated).holds_rows
    found = with_copying(whole[1], aggregated, "passes", heldout="passes")
    if by == "generation":
        found = leaving_for(found, aggregated)
    else:
        assert found.samples is not None
        told = replace(found.samples.verdict, decision="undecided", choice="prior")
        found = replace(found, samples=replace(found.samples, verdict=told))
        found = replace(found, verdict=replace(found.verdict, decision="leave the prior", choice=aggregated))
    assert found.shipped == "prior"
    allowed = replace(found, settings=replace(found.settings, allow_rows=True))
    assert allowed.shipped == aggregated
    assert with_copying(allowed, aggregated, "untested").shipped == "prior"  # leave for rows is no leave for copies


@pytest.mark.parametrize(
    ("name", "status", "allow_rows", "kind"),
    [
        ("mixture", "passes", False, "defensive"),
        ("mixture", "untested", False, "prior"),
        ("mixture", "copies", False, "prior"),
        ("aggregated", "passes", False, "prior"),
        ("aggregated", "passes", True, "defensive"),
        ("prior", "untested", False, "prior"),
        ("prior", "copies", False, ""),
    ],
)
def test_a_run_ships_what_is_cleared_else_the_prior_and_nothing_if_that_copies(
    name: str,
    status: str,
    allow_rows: bool,  # noqa: FBT001
    kind: str,
    done: Run,
    whole: tuple[Run, Audit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the verdict would have it; the folder of what was shipped before goes."""
    chosen = small.candidate(whole[1], name)
    found = leaving_for(with_copying(with_copying(whole[1], "prior", "passes"), chosen, status), chosen)
    settings = replace(small.AUDIT, rows=11, allow_rows=allow_rows)
    found = replace(found, settings=settings)
    monkeypatch.setattr("zprime.auditing.audit", lambda *a, **k: found)
    done.audit(settings, seed=0)
    assert (done.path / "generator").exists() is bool(kind)
    if kind:
        assert shipped_kind(done) == kind
        assert found.entry(found.shipped).label == done.folder.generative(done.folder.choice()).latent.label


def test_what_copies_or_stores_rows_is_exported_only_by_leave(
    done: Run, whole: tuple[Run, Audit], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixture, aggregated = (small.candidate(whole[1], n) for n in ("mixture", "aggregated"))
    found = with_copying(with_copying(whole[1], mixture, "passes", heldout="copies"), aggregated, "passes")
    small.put_audit(done, with_copying(found, "gaussian", "untested"))
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="its samples copy training rows"):
        done.export(mixture, out)
    with pytest.raises(UsageError, match="it stores functions of single training rows"):
        done.export(aggregated, out, allow_copies=True)
    assert not out.exists()
    assert "no audit has cleared" not in caplog.text
    done.export("gaussian", tmp_path / "gaussian")
    assert "no audit has cleared its samples of copying training rows" in caplog.text
    assert done.export(mixture, tmp_path / "m", allow_copies=True).copying == "copies"
    done.export(aggregated, out, allow_rows=True)
    assert artifact.read(out).config["holds_training_rows"] is True
    with pytest.raises(UsageError, match="it stores functions of single training rows"):
        done.export(aggregated, out)  # also if it lies there already


# -- numbers of an audit -----------------------------------------------------------------------------------------------


def test_selection_and_held_out_rows_are_scored_with_draws_of_their_own() -> None:
    """The same rows on both sides have other gains: else the held-out split would confirm the choice's own luck."""
    p, rows = splits(shift=0.5)
    both = {**p, "selection": p["heldout"]}
    rows = {**rows, "selection": replace(rows["heldout"], name="selection")}
    found = audit({"r": shifted(0.5)}, both, model=MODEL.vae(), rows=rows, settings=replace(SMALL, samples=0, rows=80))
    gains = {k: v for k, v in found.tensors.items() if k.startswith("gain.") and k.endswith(".r")}
    for name, values in gains.items():
        if ".heldout." in name and "evidence" not in name and "posterior" not in name:  # that one has a closed form
            other = gains[name.replace(".heldout.", ".selection.")]
            assert not torch.equal(values, other), name
            torch.testing.assert_close(values.mean(), other.mean(), rtol=0, atol=0.3)


def test_rows_with_a_heavy_tail_are_those_above_0_7(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the rows at 0.71, the others at 0.69; and a loss is a gain below -5 nats."""
    monkeypatch.setattr(
        "zprime.measure.likelihood.row_draws.pareto_khat",
        lambda terms: torch.where(torch.arange(len(terms)) % 4 == 0, 0.71, 0.69).double(),
    )
    p, rows = splits()
    found = audit({"r": shifted(2.0)}, p, model=MODEL.vae(), rows=rows, settings=replace(SMALL, samples=0, simulated=0))
    score = found.entry("r").heldout.likelihood
    assert score is not None
    assert score.khat == pytest.approx(0.25, abs=0.02)
    gains = found.tensors["gain.heldout.likelihood.r"]
    assert score.below == pytest.approx(float((gains < -5).double().mean()))
    assert len({int((gains < level).sum()) for level in (-5.5, -5.0, -4.5)}) == 3  # rows on either side


# -- order on disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Flushes and renames, in order: what was flushed, or what a name now stands for."""
    seen: list[tuple[str, str]] = []
    fsync, rename, replaced = os.fsync, os.rename, os.replace

    def flush(handle: int) -> None:
        seen.append(("flush", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def move(how: Any) -> Any:
        def moved(a: Any, b: Any) -> None:
            how(a, b)
            seen.append(("rename", str(b)))

        return moved

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", move(rename))
    monkeypatch.setattr(os, "replace", move(replaced))
    return seen


def write(path: Path, value: float) -> None:
    from test_artifact import write as write_model

    write_model(path, seed=int(value))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
@pytest.mark.parametrize("before", [False, True])
def test_files_are_flushed_before_and_the_folder_after_the_rename(
    before: bool,
    tmp_path: Path,
    calls: list[tuple[str, str]],  # noqa: FBT001
) -> None:
    path = tmp_path / "a"
    if before:
        write(path, 0)
        calls.clear()
    write(path, 1)
    assert calls[-1] == ("flush", str(tmp_path))  # else the rename itself may be lost
    steps = [what for what, _ in calls]
    names = [Path(name).name for what, name in calls if what == "rename"]
    assert names[:2] == ["tensors.safetensors", "manifest.json"]  # the manifest last: without it the folder is none
    assert names[2:] == ([] if before else ["a"])  # swapped in one step where the older one lies
    for i, (what, name) in enumerate(calls):
        if what == "rename" and name != str(path):
            assert steps[i - 1] == "flush"
            assert f".{Path(name).name}." in calls[i - 1][1]  # what is renamed is what was flushed
    assert json.loads((path / "manifest.json").read_text())["config"]["seed"] == 1


def test_a_file_that_cannot_be_flushed_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", 0)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        write(tmp_path / "a", 1)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# -- what is said ------------------------------------------------------------------------------------------------------


def with_gain(audit: Audit, names: tuple[str, ...], value: float, error: float) -> Audit:
    """Held-out gains of some entries, by every estimator."""

    def changed(s: Score | None) -> Score | None:
        if s is None:
            return None
        gain = replace(s.gain, value=value, stderr=error, low=value - 2 * error, high=value + 2 * error)
        return replace(s, gain=gain)

    entries = []
    for e in audit.entries:
        if e.id.name in names:
            s = e.heldout
            elbo = changed(s.elbo)
            assert elbo is not None
            scores = replace(s, elbo=elbo, exact_posterior=changed(s.exact_posterior), likelihood=changed(s.likelihood))
            e = replace(e, scores={**e.scores, "heldout": scores})
        entries.append(e)
    return replace(audit, entries=entries)


@pytest.mark.parametrize(("value", "harm"), [(-0.19, False), (-0.21, True), (0.5, False)])
def test_harm_is_said_where_it_is_measurable(value: float, harm: bool, whole: tuple[Run, Audit]) -> None:  # noqa: FBT001
    """Twice an error of 0.1 below nothing."""
    told = explain(with_copying(with_gain(whole[1], ("aggregated",), value, 0.1), "aggregated", "passes"))
    told = told.replace("what it generates are copies", "")
    assert ("nats worse off under it" in told) is harm
    assert ("It does not know new rows" in told) is harm


@pytest.mark.parametrize(("value", "closer"), [(0.19, False), (0.21, True), (-0.5, False)])
def test_what_comes_closer_than_the_prior_is_said_where_it_is_measurable(
    value: float,
    closer: bool,
    whole: tuple[Run, Audit],  # noqa: FBT001
) -> None:
    told = explain(with_gain(whole[1], ("gaussian", "mixture"), value, 0.1))
    assert ("nats closer to their posteriors than p(Z)" in told) is closer
    assert ("no candidate that stores no rows is measurably closer" in told) is not closer
