"""The main job in one folder: reused by hash, refused when altered."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small
import zprime
from zprime import artifact, latent, loading, sampling
from zprime.data import SPLITS, DataSettings
from zprime.errors import ArrayError, ArtifactError, NumericalError, UsageError
from zprime.fitting import load_fit
from zprime.results.audit import Audit
from zprime.results.audit import load as load_audit
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.running import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.table(tmp_path_factory.mktemp("data") / "table.npz")


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Audit]:
    return small.run(tmp_path_factory.mktemp("run") / "run", data)


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}


def test_every_box_is_there_with_its_provenance(made: tuple[Run, Audit]) -> None:
    path = made[0].path
    for name in ("data", "model", "audit", "generator", *(f"posteriors/{s}" for s in SPLITS)):
        found = artifact.read(path / name)
        assert found.versions["torch"] == torch.__version__
        assert found.seed == 0 or name == "data"
    model = artifact.read(path / "model")
    assert model.inputs == {"data": artifact.read(path / "data").hash}
    for split in SPLITS:
        assert artifact.read(path / "posteriors" / split).inputs["model"] == model.hash
    mixture = artifact.read(path / "latent" / "mixture")
    assert mixture.inputs["posteriors/train"] == artifact.read(path / "posteriors" / "train").hash
    assert not (path / "checkpoint").exists()
    assert not list(path.rglob(".*"))  # nothing half-written left behind


def test_splits_are_recorded_and_disjoint(made: tuple[Run, Audit]) -> None:
    ids = artifact.read(made[0].path / "data").tensors()
    rows = [set(ids[f"ids.{s}"].tolist()) for s in SPLITS]
    assert set.union(*rows) == set(range(120))
    assert sum(map(len, rows)) == 120


def test_the_same_command_again_does_nothing(made: tuple[Run, Audit], data: Path) -> None:
    before = stamps(made[0].path)
    _, again = small.run(made[0].path, data)
    assert stamps(made[0].path) == before
    assert again.to_json() == made[1].to_json()


def test_a_new_setting_redoes_only_what_follows_from_it(data: Path, tmp_path: Path) -> None:
    job, _ = small.run(tmp_path / "run", data)
    before = stamps(job.path)
    job.audit(replace(small.AUDIT, rows=10), seed=0)
    changed = {k for k, v in stamps(job.path).items() if before.get(k) != v}
    assert changed == {"audit/manifest.json", "generator/manifest.json", "manifest.json"}


OTHER = {
    "training": ({}, {"lr": 2e-3}, 0, "lr 0.003, now 0.002"),
    "network": ({"latents": 3}, {}, 0, "latents 2, now 3"),
    "seed": ({}, {}, 1, "seed 0, now 1"),
}


@pytest.mark.parametrize("why", OTHER)
def test_other_settings_replace_nothing_unless_told(data: Path, tmp_path: Path, why: str) -> None:
    network, training, seed, difference = OTHER[why]
    settings = (replace(small.NETWORK, **network), replace(small.TRAINING, **training))
    job, _ = small.run(tmp_path / "run", data)
    zprime.report(job.path)
    artifact.make_folder(job.path / "samples")
    artifact.write_file(job.path / "samples" / "gaussian.npz", b"of the older run")
    before = everything(job.path)
    replaced = (
        "Going on would replace .*model, .*audit.*, report.html, samples/gaussian.npz. Say --replace .* another folder"
    )
    told = f"made with other settings .{difference}.. {replaced}"
    with pytest.raises(UsageError, match=told):
        Run.create(job.path).train(DataSettings(str(data)), *settings, seed=seed)
    assert everything(job.path) == before
    Run.create(job.path, replace=True).train(DataSettings(str(data)), *settings, seed=seed)
    assert set(everything(job.path)) == {"data", "model", "manifest.json"} | {
        f"{n}/{f}" for n in ("data", "model") for f in ("manifest.json", "measured.json", "tensors.safetensors")
    }
    for verb in (job.fit, job.audit):
        with pytest.raises(ArtifactError, match="not there yet; run `zprime encode"):
            verb(seed=0)


WAY = ("model", "checkpoint", "audit", "latent/gaussian", "latent", "posteriors/train", ".staged", "seeds/1")


@pytest.mark.parametrize("name", WAY)
def test_what_is_in_the_way_is_refused_before_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = Run.create(tmp_path / "run").path
    (path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(path / name)
    monkeypatch.setattr("zprime.train_stage.train", None)
    before = everything(path)
    told = f"{name}: expected a folder, got a pipe; move it elsewhere, then run the same command again"
    with pytest.raises(UsageError, match=told):
        zprime.run(data, path, seeds=2)
    if name not in ("latent/gaussian", "seeds/1"):  # which training by itself does not lead to
        with pytest.raises(UsageError, match=told):
            Run.open(path, replace=True).train(DataSettings(str(data)), seed=0)
    assert everything(path) == before


def test_opening_a_run_clears_nothing_away_behind_a_link(tmp_path: Path) -> None:
    run, elsewhere = Run.create(tmp_path / "run").path, tmp_path / "elsewhere"
    for folder in (elsewhere, elsewhere / "latent"):
        folder.mkdir()
        (folder / ".a.new-0123abcd").mkdir()
        os.utime(folder / ".a.new-0123abcd", (0, 0))
    before = everything(elsewhere)
    for name in ("latent", ".staged"):
        (run / name).symlink_to(elsewhere)
    RunFolder.open(run)
    with pytest.raises(UsageError, match=r"a symbolic link; put the folder itself there"):
        Run.open(run)
    assert everything(elsewhere) == before


def test_a_replacement_that_cannot_begin_leaves_the_older_run_whole(data: Path, tmp_path: Path) -> None:
    job, _ = small.run(tmp_path / "run", data)
    before = stamps(job.path)
    for network, seed in (
        (replace(small.NETWORK, likelihood="bernoulli"), 0),
        (replace(small.NETWORK, network="x"), 1),
    ):
        with pytest.raises((ArrayError, UsageError)):
            Run.open(job.path, replace=True).train(DataSettings(str(data)), network, small.TRAINING, seed=seed)
        assert stamps(job.path) == before


def test_a_replacement_that_diverges_leaves_nothing_mixed(data: Path, tmp_path: Path) -> None:
    """The older run left when the new training began, as was asked for; what is there is the new one's data alone."""
    job, _ = small.run(tmp_path / "run", data)
    with pytest.raises(NumericalError):
        Run.open(job.path, replace=True).train(
            DataSettings(str(data)), small.NETWORK, replace(small.TRAINING, lr=1e30), seed=1
        )
    for refused in (job.encode, lambda: job.folder.model_info(), lambda: job.folder.generative("prior")):
        with pytest.raises(ArtifactError, match="not there yet; run `zprime train"):
            refused()
    with pytest.raises(ArtifactError, match="expected an artefact of kind audit, found no manifest"):
        load_audit(job.path)


def test_a_fit_of_the_same_name_is_replaced_only_when_told(data: Path, tmp_path: Path) -> None:
    job, _ = small.run(tmp_path / "run", data)
    before = everything(job.path)
    fewer = zprime.latent.MixtureSettings(components=2)
    with pytest.raises(
        UsageError, match=r"mixture was fitted with other settings.* replace latent/mixture, audit, gene"
    ):
        job.fit([fewer], seed=0)
    assert everything(job.path) == before
    job.fit([fewer], seed=0, names=["fewer"])  # another name replaces nothing
    assert set(before) < set(everything(job.path))
    Run.open(job.path, replace=True).fit([fewer], seed=0)
    assert not {"audit", "generator"} & set(everything(job.path))
    assert artifact.read(job.path / "latent/mixture").config["fit"]["settings"]["components"] == 2


def test_the_same_seed_gives_the_same_bytes(made: tuple[Run, Audit], data: Path, tmp_path: Path) -> None:
    job, again = small.run(tmp_path / "again", data)
    for name in ("model", "posteriors/heldout", "latent/mixture", "generator"):
        assert artifact.read(job.path / name).files == artifact.read(made[0].path / name).files, name
    assert again.verdict == made[1].verdict
    _, other = small.run(tmp_path / "other", data, seed=1)
    assert other.verdict.chosen.ranking != made[1].verdict.chosen.ranking  # its numbers; the words may be the same


def test_an_altered_artefact_is_refused(data: Path, tmp_path: Path) -> None:
    job, _ = small.run(tmp_path / "run", data)
    file = job.path / "latent" / "mixture" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="mixture/tensors.safetensors: its SHA-256 is not the one in"):
        small.run(job.path, data)
    text = job.path / "audit" / "audit.json"
    text.write_text(text.read_text().replace("nats", "bits"))
    with pytest.raises(ArtifactError, match=r"audit.json: its SHA-256 is not the one in"):
        load_audit(job.path / "audit")


def test_other_rows_in_the_same_file_are_noticed(tmp_path: Path) -> None:
    data = small.table(tmp_path / "t.npz")
    job, _ = small.run(tmp_path / "run", data)
    x = np.load(data)["x"]
    np.savez(data, x=x + 1, y=np.load(data)["y"])
    with pytest.raises(ArtifactError, match="these are not the rows that the run .* was trained on"):
        _ = Run.open(job.path).folder.dataset


def test_someone_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="this folder holds files that zprime did not write"):
        Run.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_stages_out_of_order_say_what_comes_first(tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"model: not there yet; run `zprime train .*` first, or `zprime run`"):
        job.encode()
    with pytest.raises(ArtifactError, match="expected an artefact of kind run, found no manifest.json"):
        Run.open(tmp_path / "none")


def test_the_shipped_generator_is_the_verdicts(made: tuple[Run, Audit]) -> None:
    job, audit = made
    shipped = loading.load(job.path / "generator")
    inside = job.folder.generative(audit.shipped)
    assert torch.equal(sampling.sample(shipped, 8)[1], sampling.sample(inside, 8)[1])
    x = sampling.sample(shipped, 400)[1]
    assert 0 < float(x.mean()) < 200  # in the units of the data, not standardised
    with pytest.raises(UsageError, match="from: expected one of prior, gaussian, mixture, aggregated, or one of"):
        job.folder.generative("flowery")


def test_a_fit_is_kept_with_how_it_went(made: tuple[Run, Audit]) -> None:
    found = load_fit(made[0].path / "latent" / "mixture")
    assert found.chosen.settings["components"] in {p.value for p in found.curve}
    assert len(found.trace["bound"]) > 1
    z = torch.randn(5, 2, generator=stream(0, "z"))
    assert torch.isfinite(found.distribution.log_prob(z)).all()


def test_the_audit_survives_its_file(made: tuple[Run, Audit]) -> None:
    again = load_audit(made[0].path / "audit")
    assert again.to_json() == made[1].to_json()
    assert again.entries == made[1].entries
    assert again.surgery == made[1].surgery
    raw = json.loads((made[0].path / "audit" / "audit.json").read_text())
    for entry in raw["entries"]:
        for rungs in entry["scores"].values():
            for score in rungs.values():  # no bare float is reported
                assert {"value", "stderr", "low", "high", "n", "unit", "split", "seed", "stable"} <= set(score["gain"])


def test_the_aggregated_posterior_can_be_drawn_from_the_data(made: tuple[Run, Audit]) -> None:
    job, audit = made
    kept, again = job.folder.generative("aggregated"), job.folder.generative("aggregated", store="data")
    a, b = (m.latent.sample(30, rng=stream(0, "s")) for m in (kept, again))
    torch.testing.assert_close(a, b)
    assert again.latent.holds_rows
    assert audit.storage.data == 80 * 5 * 4
    assert audit.storage.posteriors == 80 * 2 * 2 * 4
    assert audit.storage.data_draws > 0
    with pytest.raises(UsageError, match="store: only aggregated can be drawn from the data, got from 'mixture'"):
        job.folder.generative("mixture", store="data")
    with pytest.raises(UsageError, match="store: only aggregated can be drawn from the data, got from 'prior'"):
        job.folder.generative("prior", store="data")
    with pytest.raises(UsageError, match="a view of posteriors kept elsewhere"):
        again.latent.tensors()


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


FAILS = {
    "no such data": (DataSettings("nope"), small.NETWORK, small.TRAINING, UsageError),
    "likelihood": (None, replace(small.NETWORK, likelihood="bernoulli"), small.TRAINING, ArrayError),
    "network": (None, replace(small.NETWORK, network="conv"), small.TRAINING, UsageError),
    "diverged": (None, small.NETWORK, replace(small.TRAINING, lr=1e30), NumericalError),
}


@pytest.mark.parametrize("why", FAILS)
def test_a_first_run_that_fails_leaves_nothing_behind(data: Path, tmp_path: Path, why: str) -> None:
    read, network, training, error = FAILS[why]
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new" / "er" / "run", tmp_path / "there"):
        job = Run.create(path)
        with pytest.raises(error):
            job.train(read or DataSettings(str(data)), network, training, seed=0)
        assert everything(tmp_path) == ["there"]
    job.train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=0)  # and can be set right
    assert "model" in [p.name for p in Run.open(job.path).path.iterdir()]


def test_what_was_there_outlives_a_failure(made: tuple[Run, Audit], data: Path) -> None:
    path = made[0].path
    before = everything(path)
    for job in (Run.create(path), made[0]):
        with pytest.raises(UsageError):
            job.train(DataSettings("nope"), small.NETWORK, small.TRAINING, seed=0)
        assert everything(path) == before


@pytest.mark.parametrize("done", [0, 2])
def test_an_interrupted_first_run_is_kept_once_there_is_a_checkpoint(data: Path, tmp_path: Path, done: int) -> None:
    def interrupt(what: str, epoch: int, total: int) -> None:
        if epoch == done:
            raise KeyboardInterrupt

    job = Run.create(tmp_path / "run", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        job.train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=0)
    assert (tmp_path / "run").exists() == bool(done)
    if done:
        assert artifact.read(job.path / "checkpoint").config["epoch"] == done
        Run.create(job.path).train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=0)
        assert artifact.is_artifact(job.path / "model")


def test_a_model_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    """A model of one run copied into another one does not go with the data there."""
    job, _ = small.run(tmp_path / "run", data)
    other = Run.create(tmp_path / "other")
    other.train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=1)
    shutil.rmtree(job.path / "model")
    shutil.copytree(other.path / "model", job.path / "model")
    for refused in (job.encode, lambda: job.folder.model_info(), lambda: job.folder.generative("prior"), audit_of(job)):
        with pytest.raises(ArtifactError, match="model: not the one that .*/run made there .*; put the right one back"):
            refused()


def audit_of(job: Run) -> Callable[[], object]:
    return lambda: load_audit(job.path)


def test_rows_are_those_that_were_read_last(data: Path, tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run", replace=True)
    for n in (120, 60):
        table = small.table(tmp_path / f"{n}.npz", n)
        job.train(DataSettings(str(table)), small.NETWORK, small.TRAINING, seed=0)
        assert sum(len(r) for r in job.folder.rows.values()) == n
        assert sum(p.n for p in job.encode().values()) == n


def test_rows_are_read_again_with_the_seed_that_split_them(data: Path, tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(data)), small.NETWORK, small.TRAINING, seed=1)
    again = Run.open(job.path).folder.rows
    assert all(torch.equal(again[s].ids, job.folder.rows[s].ids) for s in SPLITS)


def test_everything_in_one_call_is_the_stages_one_by_one(
    made: tuple[Run, Audit], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, audit = made
    monkeypatch.chdir(tmp_path)
    once = zprime.run(data, "run", network=small.NETWORK, training=small.TRAINING, auditing=small.AUDIT, seed=0)
    for name in ("model", "posteriors/heldout", "latent/mixture", "audit", "generator"):
        assert artifact.read(Path("run") / name).key == artifact.read(job.path / name).key, name
    assert once.verdict == audit.verdict
    assert "nats" in Path("run/report.html").read_text()
    before = stamps(Path("run"))
    again = zprime.run(str(data), "run", network=small.NETWORK, training=small.TRAINING, auditing=small.AUDIT, seed=0)
    assert stamps(Path("run")) == before
    assert again.to_json() == once.to_json()
    for place in ("run", "run/audit"):
        assert zprime.load_audit(place).to_json() == once.to_json()
        assert zprime.explain(place) == zprime.explain(once)
    assert zprime.explain(once).startswith("# Where z")
    with pytest.raises(ArtifactError, match="expected an artefact of kind audit, found no manifest"):
        zprime.load_audit(tmp_path)


def test_by_label_in_one_call(data: Path, tmp_path: Path) -> None:
    few = replace(small.AUDIT, draws=0, samples=0, simulated=0)
    kinds = ["gaussian", zprime.latent.ConditionalSettings(zprime.latent.MixtureSettings(components=2))]
    audit = zprime.run(
        data, tmp_path, network=small.NETWORK, training=small.TRAINING, kinds=kinds, by="label", auditing=few
    )
    assert [e.name for e in audit.entries if e.eligible] == ["prior", "conditional-gaussian+p1", "conditional+p1"]
    with pytest.raises(UsageError, match="by: expected label, got 'digit'"):
        zprime.run(data, tmp_path / "other", by="digit")
    assert not (tmp_path / "other").exists()


def test_names_are_one_for_each_kind_and_prior_is_the_prior_s(made: tuple[Run, Audit]) -> None:
    with pytest.raises(UsageError, match="names: expected 2, one for each kind, got 1"):
        made[0].fit(["gaussian", "mixture"], seed=0, names=["one"])
    with pytest.raises(UsageError, match="name: prior is the VAE's own, which every audit has"):
        made[0].fit(["mixture"], seed=0, names=["prior"])
    assert made[0].fit(["prior"], seed=0) == {}


@pytest.mark.parametrize("kind", ["gaussian", latent.ConditionalSettings()])
def test_no_fit_is_called_by_the_name_of_another_kind(made: tuple[Run, Audit], kind: str | latent.Settings) -> None:
    before = stamps(made[0].path)
    with pytest.raises(UsageError, match="name: aggregated is another kind than the (gaussian|conditional) that is"):
        made[0].fit([kind], seed=0, names=["aggregated"])
    assert stamps(made[0].path) == before


def test_a_fit_to_weighted_rows_is_not_drawn_from_the_data(tmp_path: Path) -> None:
    data = tmp_path / "table.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(120, 5)), often=rng.uniform(1, 2, 120))
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(data), aside="often"), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["aggregated"], seed=0, names=["mine"])
    job.fit(["aggregated"], seed=0, names=["weighted"], weights="often")
    assert job.folder.generative("mine", store="data").latent.label.startswith("aggregated(80) on demand")
    with pytest.raises(UsageError, match="but 'weighted' was fitted to weighted rows; leave --store out"):
        job.folder.generative("weighted", store="data")


def test_a_fit_that_is_not_there_yet_is_told_with_a_command_that_makes_it(made: tuple[Run, Audit]) -> None:
    path = re.escape(str(made[0].path))
    with pytest.raises(ArtifactError, match=f"run `zprime fit {path} --kinds vamp` first"):
        made[0].folder.fit("vamp")  # --kinds takes all words behind it
    with pytest.raises(ArtifactError, match=f"run `zprime encode {path}` first"):
        made[0].folder.posteriors("none")


@pytest.mark.parametrize(
    "name", ["../model", "a/b", "/model", "a\\b", ".hidden", "a.", "-a", "a b", "ä", "a\n", "a" * 65, ".", ""]
)
def test_a_name_cannot_lead_out_of_the_folder_of_fits(made: tuple[Run, Audit], name: str) -> None:
    before = stamps(made[0].path)
    with pytest.raises(UsageError, match="name: expected 1 to 64 letters"):
        made[0].fit(["gaussian"], seed=0, names=[name])
    assert stamps(made[0].path) == before


def test_what_is_told_of_data_and_model(made: tuple[Run, Audit]) -> None:
    folder = made[0].folder
    info = folder.model_info()
    assert (info.latents, info.epochs, info.beta) == (2, 4, 1.0)
    assert info.settings["hidden"] == [16]
    assert info.training["batch"] == 32
    assert "checkpoint" not in info.training
    history = folder.model.config["history"]
    assert info.elbo == max(h["selection"] for h in history) == history[info.epoch - 1]["selection"]
    data = folder.dataset.info()
    assert (data.name, data.shape, data.bytes) == ("table", [5], 80 * 5 * 4)
    assert data.sizes == {"train": 80, "selection": 20, "heldout": 20}
    assert data.content == folder.data.config["content"]
    assert data.log_scale == pytest.approx(float(folder.data.tensors()["scale"].double().log().sum()))
