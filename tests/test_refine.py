"""Refining: a run of its own, from the trained weights on, never worse than before on the selection split."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import own_code
import small
from learning import RING, in_the_hole, ring
from test_cli import call
from test_own_model import model
from zprime import artifact, vae
from zprime.command import OUT
from zprime.data import DataSettings
from zprime.errors import UsageError
from zprime.latent import MixtureSettings
from zprime.own_model import OwnModel
from zprime.refining import refine
from zprime.running import Run
from zprime.training import TrainSettings, evaluate

FEW = replace(small.AUDIT, samples=40, simulated=0)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with fits."""
    folder = tmp_path_factory.mktemp("refine")
    job = Run.create(folder / "run")
    job.train(DataSettings(str(small.table(folder / "t.npz", 240))), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["gaussian", MixtureSettings(components=3), "aggregated", "vamp", "exemplars"], seed=0)
    return folder / "run"


def content(run: Path) -> dict[str, bytes]:
    """All files of a run but those of the runs that were refined from it."""
    files = (p for p in run.rglob("*") if p.is_file() and "refined" not in p.relative_to(run).parts)
    return {str(p.relative_to(run)): p.read_bytes() for p in files if p.suffix != ".lock"}


def test_it_is_a_run_of_its_own_and_the_one_before_stays_as_it_is(parent: Path) -> None:
    before = content(parent)
    job = refine(parent, epochs=4)
    assert content(parent) == before
    assert job.path == parent / "refined" / "mixture"
    old, new = Run.open(parent).folder, job.folder
    assert torch.equal(new.prior.tensors()["mean"], old.distribution("mixture").tensors()["mean"])
    assert new.dataset.hash == old.dataset.hash
    for split in ("train", "selection", "heldout"):
        assert torch.equal(new.rows[split].ids, old.rows[split].ids)
    told = new.model.config["refined"]
    assert (told["model"], told["fit"], told["name"]) == (old.model.hash, old.fit("mixture").hash, "mixture")
    a, b = old.vae.state_dict(), new.vae.state_dict()
    assert any(not torch.equal(a[k], b[k]) for k in a)
    best = new.model.config["history"][new.model.config["epoch"] - 1]["selection"]
    assert best > told["selection"]
    assert new.model_info().elbo == best
    assert refine(parent, epochs=4).folder.model.hash == new.model.hash  # used again
    with pytest.raises(UsageError, match="epochs 4, now 5"):
        refine(parent, epochs=5)


def test_cpu_seconds_are_with_those_of_what_was_before(parent: Path) -> None:
    old, new = Run.open(parent).folder, refine(parent, epochs=4).folder
    before = old.model.measured["seconds"] + old.fit("mixture").measured["seconds"]
    assert old.model_info().seconds == old.model.measured["seconds"] > 0
    whole = new.model_info().seconds
    assert whole == pytest.approx(before + new.model.measured["seconds"])
    (old.model.path / "measured.json").unlink()  # as versions before this one left it
    unknown = refine(parent, name="unknown", epochs=1).folder.model_info()
    assert unknown.seconds is None


def test_it_begins_where_the_training_ended_which_counts_as_epoch_0(parent: Path) -> None:
    old = Run.open(parent).folder
    begun = vae.load(old.model.path)
    assert not begun.fresh  # else the decoder would begin at the mean of the rows again
    begun.prior = old.distribution("mixture")
    start = evaluate(begun, old.rows["selection"], seed=0)
    worse = refine(parent, name="worse", epochs=1, lr=0.3).folder
    assert worse.model.config["refined"]["selection"] == pytest.approx(start, abs=1e-9)
    assert worse.model.config["epoch"] == 0
    assert len(worse.model.config["history"]) == 1
    assert worse.model_info().elbo == worse.model.config["refined"]["selection"]
    a, b = old.vae.state_dict(), worse.vae.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(e["selection"] < start for e in worse.model.config["history"])


@pytest.mark.parametrize(("kind", "moves"), [("mixture", True), ("aggregated", True)])
def test_what_takes_the_priors_place_can_be_trained_too(kind: str, moves: bool, parent: Path) -> None:  # noqa: FBT001
    job = refine(parent, kind, name=f"{kind}-learned", learn=True, epochs=3)
    old, new = Run.open(parent).folder.distribution(kind), job.folder.prior
    assert new.kind == kind
    assert torch.equal(old.tensors()["mean"], new.tensors()["mean"]) != moves
    assert job.folder.model.config["learned"]["kind"] == kind
    assert "which was trained too" in job.folder.of_model.says[0]


def test_interrupted_it_goes_on_to_the_same_artefact(parent: Path) -> None:
    whole = refine(parent, name="whole", epochs=4, learn=True)

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(parent, name="part", epochs=4, learn=True, progress=progress)
    assert (parent / "refined" / "part" / "checkpoint").exists()
    seen: list[int] = []
    part = refine(
        parent,
        name="part",
        epochs=4,
        learn=True,
        progress=lambda what, done, total: seen.append(done) if what == "train" else None,
    )
    assert seen[0] == 2
    assert part.folder.model.hash == whole.folder.model.hash


@pytest.mark.parametrize("learn", [False, True])
def test_interrupted_before_any_epoch_is_better_it_goes_on_to_the_same_artefact(learn: bool, parent: Path) -> None:  # noqa: FBT001
    how = {"epochs": 3, "lr": 0.3, "learn": learn}
    whole = refine(parent, name=f"whole-0-{learn}", **how)
    assert whole.folder.model.config["epoch"] == 0

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done == 2:
            raise KeyboardInterrupt

    name = f"part-0-{learn}"
    with pytest.raises(KeyboardInterrupt):
        refine(parent, name=name, progress=progress, **how)
    saved = artifact.read(parent / "refined" / name / "checkpoint").config
    assert (saved["epoch"], saved["best_epoch"]) == (2, 0)
    assert refine(parent, name=name, **how).folder.model.hash == whole.folder.model.hash


def test_from_the_command_line_to_an_audit_that_says_what_was_refined(
    parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("refine", parent, "--with", "gaussian", "--epochs", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    run = Path(found["run"])
    assert run == parent / "refined" / "gaussian"
    assert found["elbo"] >= found["before"]
    assert call("fit", run, "--kinds", "mixture", "--set", "mixture.components=2", "--quiet") == 0
    audit = Run.open(run).audit(FEW, seed=0)
    assert audit.prior.startswith("gaussian")
    assert "was trained on with gaussian in place of its prior, which stayed as it was" in audit.warnings[0]
    assert "CPU seconds) was kept" in audit.warnings[0]
    assert audit.samples is not None
    assert {e.name for e in audit.samples.entries if e.copying is not None} >= {"prior"}  # the gate watches it
    assert f"zprime refine {OUT} --with gaussian --epochs 3" in audit.command
    assert call("verify", run, "--quiet") == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--with", "flow"],
            "expected something that was fitted in this run (gaussian, mixture, aggregated, exemplars, vamp)",
        ),
        (["--with", "prior"], "expected something that was fitted in this run"),
        (["--with", "gaussian", "--learn-prior"], "which can be learned, got 'gaussian'"),
        (["--with", "vamp", "--learn-prior"], "keeps no pseudo-inputs"),
        (["--with", "aggregated"], "log N nats; give --learn-prior, with which a row leaves its own component out"),
        (["--with", "aggregated+p5", "--name", "a"], "log N nats; give a mixture or a flow"),
        (["--with", "exemplars"], "log N nats; give a mixture or a flow"),
        (["--with", "exemplars", "--learn-prior"], "cannot be learned on from where it is; take a mixture or a flow"),
        (["--lr", "-1"], "lr: expected a number above 0, got -1"),
        (["--name", "a/b"], "name: expected 1 to 64 letters"),
        (["--with", "mixture+p5"], "got 'mixture+p5', which is what takes the prior's place; give --name"),
    ],
)
def test_what_cannot_be_refined_is_refused_before_anything_is_made(
    words: list[str], text: str, parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = set((parent / "refined").iterdir()) if (parent / "refined").exists() else set()
    assert call("refine", parent, *words) == 2
    assert text in " ".join(capsys.readouterr().err.split())
    assert (set((parent / "refined").iterdir()) if (parent / "refined").exists() else set()) == there


def test_a_share_of_the_prior_may_go_with_it_under_a_name_of_its_own(parent: Path) -> None:
    job = refine(parent, "mixture+p5", name="mixed", epochs=1)
    assert job.folder.prior.kind == "defensive"


def test_a_model_of_the_users_own_is_not_trained(tmp_path: Path) -> None:
    place = own_code.folder(tmp_path / "own")
    own = OwnModel(*(model(place)[1::2]))
    Run.create(tmp_path / "run", own=own).bring(DataSettings(str(place / "rows.npz")), seed=0)
    with pytest.raises(UsageError, match="is your own, and zprime cannot train it"):
        refine(tmp_path / "run")
    assert not (tmp_path / "run" / "refined").exists()


def test_refining_fills_the_hole_of_a_ring(tmp_path: Path) -> None:
    """Of draws that are decoded to where no data are, fewer are left with r, and still fewer after refining with it."""
    x = torch.cat([ring(900, "train").x, ring(300, "more").x])
    np.save(tmp_path / "ring.npy", x.numpy())
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(tmp_path / "ring.npy")), RING, TrainSettings(epochs=40, batch=64, patience=0), seed=0)
    job.encode()
    job.fit([MixtureSettings(components=6)], seed=0)
    plain = vae.load(tmp_path / "run" / "model")
    refined = refine(tmp_path / "run", epochs=30).folder
    post_hoc = vae.load(tmp_path / "run" / "model")
    post_hoc.prior = job.folder.distribution("mixture")
    before, between, after = in_the_hole(plain), in_the_hole(post_hoc), in_the_hole(vae.load(refined.model.path))
    heldout = refined.rows["heldout"]
    elbo = [evaluate(v, heldout, seed=0) for v in (plain, post_hoc, vae.load(refined.model.path))]
    assert before > 0.02
    assert after < before / 4
    assert after <= between
    assert elbo[0] + 0.02 < elbo[1] < elbo[2]
