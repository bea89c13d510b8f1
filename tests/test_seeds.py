"""Training and audit repeated with other seeds: same rows, whole runs, nothing made twice, a summary of all."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small
import zprime
from zprime import artifact, cli, train_stage
from zprime.data import SPLITS, DataSettings
from zprime.errors import ArtifactError, UsageError
from zprime.reporting.page import html
from zprime.reporting.seeds import summary as terminal_table
from zprime.results.audit import Audit, Entry
from zprime.results.names import CandidateId, Gain
from zprime.results.seeds import PLACE, Seeds, VerdictOverSeeds
from zprime.run_folder import RunFolder
from zprime.run_posteriors import steps_by_split
from zprime.running import Run
from zprime.seeds import fit_of, summarise
from zprime.serialise import from_jsonable
from zprime.statistics.estimate import student95

FEW = replace(small.AUDIT, samples=0, simulated=0)
HOW = {"network": small.NETWORK, "training": small.TRAINING, "kinds": ["gaussian", "mixture"], "auditing": FEW}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.table(tmp_path_factory.mktemp("data") / "table.npz")


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit]:
    out = tmp_path_factory.mktemp("seeds") / "run"
    return out, zprime.run(data, out, seeds=3, **HOW)


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing pages takes most of the time of a run as small as these."""
    for module in ("zprime.seeds", "zprime.running"):
        monkeypatch.setattr(f"{module}.report", lambda path: None)


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}


def test_the_other_runs_are_whole_and_have_the_same_rows_but_other_weights(made: tuple[Path, Audit]) -> None:
    out, _ = made
    assert sorted(p.name for p in (out / "seeds").iterdir()) == ["1", "2", "summary"]
    own = artifact.read(out / "data")
    weights = [artifact.read(out / "model").tensors()]
    for seed in (1, 2):
        path = out / "seeds" / str(seed)
        data = artifact.read(path / "data")
        for split in SPLITS:
            assert torch.equal(data.tensors()[f"ids.{split}"], own.tensors()[f"ids.{split}"])
        assert data.seed == own.seed == 0
        assert {artifact.read(path / n).seed for n in ("model", "latent/mixture", "audit")} == {seed}
        assert (path / "report.html").exists()
        assert (path / "generator").exists()
        assert len(RunFolder.open(path).rows["train"]) == 80  # read again by the seed that split them
        weights.append(artifact.read(path / "model").tensors())
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert any(not torch.equal(v, weights[b][k]) for k, v in weights[a].items())


@pytest.mark.usefixtures("no_pages")
def test_the_run_itself_is_as_without_other_seeds(made: tuple[Path, Audit], data: Path, tmp_path: Path) -> None:
    alone = zprime.run(data, tmp_path / "run", **HOW)
    assert alone.seeds is None
    assert not (tmp_path / "run" / "seeds").exists()
    for name in ("data", "model", "posteriors/heldout", "latent/mixture", "audit"):
        assert artifact.read(tmp_path / "run" / name).key == artifact.read(made[0] / name).key, name
    assert made[1].verdict == alone.verdict


def test_a_run_with_a_seed_says_the_command_that_makes_it(made: tuple[Path, Audit]) -> None:
    command = zprime.load_audit(made[0] / "seeds" / "2").command
    assert "--split-seed 0" in command
    assert command.endswith("--seed 2")
    assert "split-seed" not in made[1].command


def test_the_summary_is_what_the_audits_say(made: tuple[Path, Audit]) -> None:
    out, audit = made
    found = audit.seeds
    assert found is not None
    audits = [zprime.load_audit(p) for p in (out, out / "seeds" / "1", out / "seeds" / "2")]
    assert found == summarise(audits)
    assert (found.seeds, found.gain, found.generation) == ([0, 1, 2], Gain.LIKELIHOOD, None)
    assert [c.name for c in found.candidates] == ["gaussian", "mixture"]
    for c in found.candidates:
        chosen = [e for a in audits for e in a.entries if e.eligible and e.id.name == c.name]
        scores = [e.heldout.likelihood for e in chosen]
        assert len(scores) == 3
        assert c.gains == [s.gain for s in scores if s is not None]
        values = [g.value for g in c.gains if g is not None]
        mean = sum(values) / 3
        between = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
        assert c.between == pytest.approx(between)
        assert c.within == pytest.approx(sum(g.stderr for g in c.gains if g is not None) / 3)
        assert c.mean is not None
        assert (c.mean.value, c.mean.stderr) == pytest.approx((mean, between / math.sqrt(3)))
        assert (c.mean.n, c.mean.split, c.mean.seed) == (3, "heldout", None)
        assert c.mean.low <= mean - student95(2) * between / math.sqrt(3) + 1e-12
    assert found.likelihood.decisions == [a.verdict.decision for a in audits]
    assert found.shipped == [a.shipped for a in audits]


@pytest.mark.usefixtures("no_pages")
def test_the_summary_is_read_with_the_audit_it_was_made_from_and_no_other(
    made: tuple[Path, Audit], data: Path, tmp_path: Path
) -> None:
    out, audit = made
    for place in (out, out / "audit"):
        assert zprime.load_audit(place).seeds == audit.seeds
    assert zprime.load_audit(out / "seeds" / "1").seeds is None
    assert "seeds" not in audit.to_json()
    copy = tmp_path / "run"
    zprime.run(data, copy, seeds=2, **HOW)
    zprime.run(data, copy, **HOW)
    assert zprime.load_audit(copy).seeds is not None  # nothing has changed
    zprime.run(data, copy, **{**HOW, "auditing": replace(FEW, rows=10)})
    assert zprime.load_audit(copy).seeds is None
    file = copy / PLACE / "seeds.json"
    assert not file.exists()  # it left with the audit that it was made from
    zprime.run(data, copy, seeds=2, **HOW)
    file.write_text(file.read_text().replace("mixture", "mixtura"))
    with pytest.raises(ArtifactError, match=r"seeds.json: its SHA-256 is not the one in"):
        zprime.load_audit(copy)


@pytest.mark.usefixtures("no_pages")
def test_all_seeds_are_encoded_with_the_steps_of_the_first(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = Run.create(out)
    job.train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=0)
    job.encode(steps=2)
    zprime.run(data, out, seeds=2, **HOW)
    for place in (out, out / "seeds" / "1"):
        assert steps_by_split(place) == dict.fromkeys(SPLITS, 2)


@pytest.mark.usefixtures("no_pages")
def test_again_makes_nothing_and_more_seeds_make_only_the_new(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = zprime.run(data, out, seeds=2, **HOW)
    before = stamps(out)
    assert zprime.run(data, out, seeds=2, **HOW).seeds == first.seeds
    assert stamps(out) == before
    three = zprime.run(data, out, seeds=3, **HOW)
    changed = {k for k, v in stamps(out).items() if before.get(k) != v}
    assert {k for k in changed if not k.startswith("seeds/2/")} == {
        f"{PLACE}/manifest.json",
        "manifest.json",
    }
    assert three.seeds is not None
    assert three.seeds.seeds == [0, 1, 2]


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("where", ["seed 1: train", "seeds"])
def test_an_interrupted_run_goes_on_and_trains_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Interrupted in the fits of the first run, and in training and fits of the second; each epoch is done once."""
    finished, trained = 0, train_stage.train

    def counting(*args, **kwargs):
        nonlocal finished
        result = trained(*args, **kwargs)
        finished += 1
        return result

    seen: list[tuple[str, int]] = []

    def interrupting(what: str, done: int, total: int) -> None:
        seen.append((what, done))
        if what.startswith(where) and done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_stage, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        zprime.run(data, tmp_path / "run", seeds=2, progress=interrupting, **HOW)
    audit = zprime.run(data, tmp_path / "run", seeds=2, **HOW)
    assert finished == 2
    assert audit.seeds is not None
    assert not list((tmp_path / "run").rglob("checkpoint"))
    assert ("seeds", 0) in seen
    assert {w.split(":")[0] for w, _ in seen} <= {"seeds", "seed 0", "seed 1"}


def test_seeds_that_cannot_be_used_are_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seeds: expected at least 1, got 0"):
        zprime.run(data, tmp_path / "run", seeds=0, **HOW)
    assert not list(tmp_path.iterdir())


def test_the_split_has_a_seed_of_its_own(data: Path) -> None:
    def ids(seed: int, split_seed: int | None) -> torch.Tensor:
        return zprime.load_data(DataSettings(str(data), split_seed=split_seed), seed=seed).ids["heldout"]

    assert torch.equal(ids(0, 5), ids(5, None))
    assert torch.equal(ids(0, 5), ids(1, 5))
    assert torch.equal(ids(3, 0), ids(0, None))
    assert not torch.equal(ids(0, None), ids(5, None))


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("mixture", "mixture"),
        ("mixture+p10", "mixture"),
        ("mixture+p1", "mixture"),
        ("a+p2.5", "a"),
        ("a+p1e-05", "a"),
        ("log-pool", "log-pool"),
        ("mine+plus", "mine+plus"),
        ("+p10x", "+p10x"),
    ],
)
def test_candidates_are_called_by_their_fit(name: str, fit: str) -> None:
    assert fit_of(name) == fit


def renamed(e: Entry, name: str, **changes) -> Entry:
    return replace(e, id=CandidateId.parse(name), **changes)


def test_names_that_differ_by_seed_are_one_candidate(made: tuple[Path, Audit]) -> None:
    """The share of the prior may differ; the distribution itself, which no verdict may choose, does not count."""
    prior, gaussian, mixture = (e for e in made[1].entries if e.eligible)
    shared = renamed(mixture, "mixture+p10", label="mixed")
    itself = renamed(mixture, "mixture", label="itself")
    audits = [
        replace(made[1], entries=[prior, gaussian, renamed(mixture, "mixture+p1"), itself], seed=0),
        replace(made[1], entries=[prior, gaussian, itself, shared], seed=1),
        replace(made[1], entries=[prior, gaussian], seed=2),
    ]
    choices = [replace(a, verdict=replace(a.verdict, choice=c)) for a, c in zip(audits, CHOICES, strict=True)]
    found = summarise(choices)
    assert [c.name for c in found.candidates] == ["gaussian", "mixture"]
    assert found.candidates[1].labels == [mixture.label, "mixed", None]
    assert found.candidates[1].gains[2] is None
    assert found.candidates[1].mean is not None
    assert found.candidates[1].mean.n == 2
    assert found.likelihood.choices == ["mixture", "mixture", "prior"]
    bare = replace(prior.heldout, likelihood=None)
    audits[0] = replace(audits[0], entries=[prior, renamed(gaussian, "gaussian+p1", scores={"heldout": bare})])
    assert summarise(audits).gain is Gain.ELBO


CHOICES = ("mixture+p1", "mixture+p10", "prior")

LEAVE, KEEP = "leave the prior", "keep the prior"


def test_verdicts_over_seeds_in_words() -> None:
    mixed = VerdictOverSeeds([LEAVE, KEEP, LEAVE], ["mixture", "prior", "gaussian"])
    assert mixed.sentence.startswith(
        "leave the prior in 2 of 3 seeds (mixture in 1, gaussian in 1); keep the prior in 1 of 3 seeds. Decision or "
    )
    assert not mixed.unanimous
    same = VerdictOverSeeds([LEAVE] * 3, ["mixture"] * 3)
    assert same.sentence == "leave the prior in 3 of 3 seeds (mixture in 3). The same in all of them."
    assert not VerdictOverSeeds([LEAVE] * 2, ["mixture", "gaussian"]).unanimous
    assert VerdictOverSeeds([KEEP], ["prior"]).sentence.startswith("keep the prior in 1 of 1 seeds. The same")


def test_all_surfaces_show_it(made: tuple[Path, Audit]) -> None:
    out, audit = made
    found = audit.seeds
    assert found is not None
    sentence = found.likelihood.sentence
    said = sentence[0].upper() + sentence[1:]
    page = (out / "report.html").read_text()
    for text in (page, html(audit), zprime.explain(out)):
        assert said in text
    assert 'id="seeds"' in page
    assert "Does it depend on the training?" in zprime.explain(out)
    for width, columns in ((80, 4), (120, 7)):
        shown = terminal_table(audit, width)
        assert len(shown.columns) == columns
        assert said in shown.note
    alone = replace(audit, seeds=None)
    assert 'id="seeds"' not in html(alone)
    assert "Does it depend on the training?" not in zprime.explain(alone)


@pytest.mark.usefixtures("no_pages")
def test_the_command_line_prints_and_gives_it(
    made: tuple[Path, Audit], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--data", str(data), "--out", str(made[0]), "--kinds", "gaussian", "mixture", "--seeds", "3"]
    words += ["--latents", "2", "--hidden", "16", "--epochs", "4", "--batch", "32"]
    words += ["--rows", "12", "--draws", "120", "--grid", "4", "--map", "20", "--samples", "0", "--simulated", "0"]
    before = stamps(made[0])
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--json", "--quiet"])
    given = json.loads(capsys.readouterr().out)
    assert stamps(made[0]) == before
    assert from_jsonable(Seeds, given["seeds"]) == made[1].seeds
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    assert "over the prior in 3 trainings" in " ".join(capsys.readouterr().out.split())
