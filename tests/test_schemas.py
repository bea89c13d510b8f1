"""Whoever alters an artefact can compute its hashes again: then values alone are what a loader can go by.

Every setting is dropped and replaced, every tensor dropped and altered, one at a time. What is then loaded is refused
by an `ArtifactError`, or it works: no other exception, and nothing allocated that was not stored.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import small
import tampering
import zoo
from tampering import Count
from zprime import artifact, fitting, latent, loading, sampling, training, vae
from zprime.artifact import TENSORS, Manifest
from zprime.cli import main
from zprime.data import DataSettings, Rows
from zprime.distribution import REGISTRY, LatentDistribution
from zprime.errors import ArtifactError
from zprime.posteriors import MemoryPosteriors, ShardedPosteriors
from zprime.results import drift, seeds
from zprime.results.audit import load as load_audit
from zprime.results.drift import Drift, Shift
from zprime.results.names import Gain
from zprime.results.seeds import CandidateOverSeeds, Seeds, VerdictOverSeeds
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.running import Run
from zprime.statistics.estimate import Estimate
from zprime.training import TrainSettings
from zprime.vae import VAE, VAESettings

EVERY = int(os.environ.get("ZPRIME_EVERY", "7"))
"""Of the changes to large artefacts, so many are one that is tried; 1 tries all."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small artefacts are written: none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def usable(r: LatentDistribution) -> None:
    """Density and draws are finite."""
    z = r.sample(5, rng=stream(0))
    assert z.shape == (5, r.d)
    assert bool(z.isfinite().all())
    if r.density != "none":
        assert bool(r.log_prob(torch.zeros(2, r.d, dtype=z.dtype)).isfinite().all())


def finish(count: Count, least: int) -> None:
    """Record the count where it was asked for, and fail with the first faults."""
    if "ZPRIME_COUNTS" in os.environ:
        with Path(os.environ["ZPRIME_COUNTS"]).open("a") as out:
            out.write(f"{count.loads} {count.refused} {count.harmless} {len(count.bad)}\n")
    assert not count.bad, f"{len(count.bad)} of {count.loads}:\n" + "\n".join(count.bad[:20])
    assert count.refused >= least


def tamper(path: Path, load: Callable[[], object], file: str = TENSORS, *, step: int = 1) -> Count:
    """Load an artefact with every change to its settings, then to one of its files; or every `step`-th change."""
    count, whole = Count(), path.with_name("whole")
    shutil.copytree(path, whole)
    load()
    found = artifact.read(path)
    for what, config in [*tampering.configs(found.config)][::step]:
        tampering.rewrite(path, config=config)
        count.of(what, load)
    shutil.rmtree(path)
    shutil.copytree(whole, path)
    changes = [*tampering.tensor_sets(found.tensors(file))] if file in found.files else []
    for what, tensors in changes[::step]:
        tampering.rewrite(path, tensors=tensors, file=file)
        count.of(what, load)
    shutil.rmtree(path)
    whole.rename(path)
    return count


@pytest.mark.parametrize("name", zoo.ZOO)
def test_latent_distributions(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r"
    zoo.ZOO[name](2, torch.float32).save(path)
    finish(tamper(path, lambda: usable(latent.load(path))), 10)


def test_every_kind_says_what_it_holds() -> None:
    """A kind without a schema of its own is checked for finite numbers only."""
    for kind, cls in REGISTRY.items():
        if cls.__module__.startswith("zprime.") and kind not in ("aggregated-on-demand", "torch"):
            assert cls.schema is not LatentDistribution.schema, kind


# -- the artefacts of a run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas") / "run"
    job = Run.create(folder)
    job.train(DataSettings(str(small.table(folder.parent / "table.npz"))), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["gaussian"], seed=0)
    job.audit(small.AUDIT, seed=0)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def alone(run: Path, name: str) -> Path:
    """An artefact outside of its run, where no chain protects it."""
    path = run.parent / "alone" / Path(name).name
    shutil.copytree(run / name, path)
    return path


def reseal(run: Path) -> None:
    """Compute the hashes of a run again, in the order in which its artefacts were made."""
    listed = [p.relative_to(run).as_posix() for p in run.rglob("*") if (p / "manifest.json").is_file()]
    order = ("data", "model", "posteriors", "latent", "audit", "drift", "generator")
    for name in sorted(listed, key=lambda n: order.index(n.split("/")[0])):
        a = artifact.read(run / name)
        inputs = {source: artifact.read(run / source).hash for source in a.inputs}
        artifact.seal(a.path, Manifest(a.kind, a.config, a.key, a.seed, inputs, a.measured), files=a.files)
    artifacts = {name: [artifact.read(run / name).sha256] for name in listed}
    artifact.seal(run, Manifest("run", {"artifacts": artifacts, "dropped": {}}), files={})


def test_models(run: Path) -> None:
    path = alone(run, "model")

    def load() -> None:
        model = vae.load(path)
        mean, scale = model.encode(torch.zeros(2, *model.shape or ()))
        assert bool(torch.cat([mean, scale]).isfinite().all())
        assert bool(model.decode(mean).mean.isfinite().all())

    finish(tamper(path, load, step=EVERY), 10)


@pytest.mark.parametrize("file", ["index.safetensors", "shard-00000.safetensors"])
def test_posteriors(run: Path, file: str) -> None:
    path = alone(run, "posteriors/train")

    def load() -> None:
        found = ShardedPosteriors(path)
        assert bool(found.log_prob(found.gather().mean[:3], leave_out=found.row_ids[:3]).isfinite().all())

    finish(tamper(path, load, file), 50)


@pytest.mark.parametrize("file", ["index.safetensors", "shard-00000.safetensors"])
@pytest.mark.parametrize("scale", [None, torch.ones(4, 2)], ids=["draws", "components"])
def test_posteriors_of_other_forms(tmp_path: Path, scale: Tensor | None, file: str) -> None:
    path, mean, ids = tmp_path / "p", torch.randn(4, 2, generator=stream(0)), torch.tensor([5, 5, 7, 7])
    log_q = torch.zeros(4) if scale is None else None
    MemoryPosteriors(mean, scale, row_ids=ids, log_q=log_q, labels=ids).save(path)

    def load() -> None:
        found = ShardedPosteriors(path)
        values = [found.gather().draw(rng=stream(0)), found.draw(rng=stream(0)), found.by_datum(torch.zeros(4))]
        values += [] if found.form == "points" else [found.log_prob(torch.zeros(1, 2), leave_out=found.row_ids[:1])]
        assert all(bool(v.isfinite().all()) for v in values)
        assert found.data == 2

    finish(tamper(path, load, file), 50)


def test_generators(run: Path) -> None:
    path = alone(run, "generator")

    def load() -> None:
        z, x = sampling.sample(loading.load(path), 5, allow_copies=True, allow_rows=True)
        assert bool(torch.cat([z, x], 1).isfinite().all())

    finish(tamper(path, load, step=EVERY), 10)


def test_what_is_told_of_a_fit(run: Path) -> None:
    path = alone(run, "latent/gaussian")

    def load() -> None:
        found = fitting.load_fit(path)
        usable(found.distribution)
        found._repr_html_()

    finish(tamper(path, load), 100)


@pytest.mark.parametrize("name", ["data", "model"])
def test_settings_in_a_run(run: Path, name: str) -> None:
    """What a run reads of them, where the hashes of the whole run were made again."""

    def load() -> None:
        reseal(run)
        folder = RunFolder.open(run)
        folder.model_info()
        model = folder.generative("gaussian")
        assert bool(model.restore(model.sample(3, rng=stream(0))[1]).isfinite().all())

    count, found = Count(), artifact.read(run / name)
    load()
    every = [*tampering.configs(found.config)][:: 3 if name == "data" else 7]
    changes = [(what, {"config": config}) for what, config in every]
    changes += [(what, {"tensors": t}) for what, t in [*tampering.tensor_sets(found.tensors())][::4]]
    shutil.copytree(run / name, run.parent / "whole")
    for what, change in changes:
        tampering.rewrite(run / name, **change)
        count.of(what, load)
        shutil.rmtree(run / name)
        shutil.copytree(run.parent / "whole", run / name)
    finish(count, 50)


def test_lists_of_a_run(run: Path) -> None:
    config = artifact.read(run).config

    def load() -> None:
        folder = RunFolder.open(run)
        if folder.fitted and folder.has("model"):
            folder.generative("prior")

    count = Count()
    for what, changed in tampering.configs(config):
        artifact.seal(run, Manifest("run", changed), files={})
        count.of(what, load)
    finish(count, 100)


def test_checkpoints(tmp_path: Path) -> None:
    path, settings = tmp_path / "checkpoint", TrainSettings(epochs=2, batch=8)
    x = torch.rand(16, 3, generator=stream(0))
    rows, selection = Rows("train", x[:8], torch.arange(8)), Rows("selection", x[8:], torch.arange(8, 16))

    def load() -> None:
        model = VAE.build((3,), VAESettings(latents=2, hidden=(3,)), seed=0)
        found = training.train(model, rows, selection, settings, checkpoint=path)
        assert len(found.history) == 2

    load()
    finish(tamper(path, load, step=EVERY), 10)


def contents(path: Path, file: str, load: Callable[[], object], step: int) -> Count:
    """Load with changes of a JSON file."""
    count, whole = Count(), json.loads((path / file).read_text())
    load()
    for what, changed in [*tampering.configs(whole)][::step]:
        text = json.dumps(changed).encode()
        tampering.rewrite(path, **{file.replace(".", "__"): text})
        count.of(what, load)
    return count


def test_audits(run: Path) -> None:
    path = alone(run, "audit")
    finish(contents(path, "audit.json", lambda: str(load_audit(path)), 60 * EVERY), 5)


ESTIMATE = Estimate(1.0, 0.1, 0.8, 1.2, 20, "nats", "heldout", 0)


def test_drift(tmp_path: Path) -> None:
    shifts = [Shift(0, 0.1, 0.5)]
    found = Drift("gaussian", 20, 20, ESTIMATE, 0.5, ESTIMATE, 0.5, shifts, ESTIMATE, ESTIMATE, 0.5, False, "No.")
    found.save(tmp_path / "drift", key="k", seed=0, inputs={"audit": "h"})

    def load() -> None:
        assert drift.of_run(tmp_path, audit="h") is not None

    finish(contents(tmp_path / "drift", "drift.json", load, EVERY), 40)


def test_seeds(tmp_path: Path) -> None:
    verdict = VerdictOverSeeds(["leave the prior"], ["gaussian"])
    candidates = [CandidateOverSeeds("gaussian", ["gaussian"], [ESTIMATE], None, None, 0.1)]
    found = Seeds([0], Gain.ELBO, candidates, verdict, None, ["gaussian"])
    path = tmp_path / seeds.PLACE
    found.save(path, key="k", audits={0: "k"}, inputs={})
    finish(contents(path, "seeds.json", lambda: seeds.of_run(tmp_path, seed=0, audit="k"), EVERY), 20)
    count = Count()
    for what, config in tampering.configs({"audits": {"0": "k"}}):
        tampering.rewrite(path, config=config)
        count.of(what, lambda: seeds.of_run(tmp_path, seed=0, audit="k"))
    finish(count, 5)


HUGE = """
import resource, sys
from pathlib import Path
import torch
from zprime import latent, loading, vae
from zprime.errors import ArtifactError
from zprime.posteriors import ShardedPosteriors
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loads = {"latent": latent.load, "model": vae.load, "generator": loading.load, "posteriors": ShardedPosteriors}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        loads[path.name.split("-")[0]](path)
    except ArtifactError:
        print("refused", path.name)
print("MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024)
"""


def test_nothing_is_allocated_that_was_not_stored(run: Path, tmp_path: Path) -> None:
    """Settings that ask for gigabytes, in a process of its own, whose memory is looked at."""
    folder = tmp_path / "huge"
    asks: dict[str, tuple[str, dict[str, object]]] = {
        "model": ("model", {"vae": {"settings": {"latents": 60_000, "hidden": [100_000, 100_000]}}}),
        "model-conv": ("model", {"vae": {"shape": [1, 28, 28], "settings": {"network": "conv", "width": 30_000}}}),
        "model-shape": ("model", {"vae": {"shape": [16_000_000, 1000, 1000, 1000]}}),
        "generator": ("generator", {"vae": {"settings": {"hidden": [100_000, 100_000]}}}),
        "posteriors": ("posteriors/train", {"n": 10**9, "sizes": [10**9]}),
    }
    for name, (source, change) in asks.items():
        shutil.copytree(run / source, folder / name)
        config = artifact.read(folder / name).config
        for key, value in change.items():
            merge(config, key, value)
        tampering.rewrite(folder / name, config=config)
    networks = {"flow": "flow", "resampled-rejection": "resampled", "two-stage": "two-stage"}
    for name in networks:
        zoo.ZOO[name](2, torch.float32).save(folder / f"latent-{name}")
        config = {**artifact.read(folder / f"latent-{name}").config, "hidden": [1 << 20, 1 << 20]}
        tampering.rewrite(folder / f"latent-{name}", config=config)
    found = subprocess.run(
        [sys.executable, "-c", HUGE, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    said = found.stdout.splitlines()
    assert said[:-1] == [f"refused {p.name}" for p in sorted(folder.iterdir())]
    assert int(said[-1].split()[1]) < 100


def merge(config: dict[str, object], key: str, value: object) -> None:
    inner = config[key]
    if isinstance(value, dict) and isinstance(inner, dict):
        for name, part in value.items():
            merge(inner, name, part)
    else:
        config[key] = value


def test_wrappers_are_not_nested_without_end(tmp_path: Path) -> None:
    config: dict[str, object] = {"kind": "prior", "config": {"dim": 2, "tau": 1.0}}
    for depth in range(1, 300):
        if depth in (5, 9, 100, 299):
            artifact.write(
                tmp_path / f"{depth}", Manifest("latent/defensive", {"epsilon": 0.1, "base": config}), tensors={}
            )
        config = {"kind": "defensive", "config": {"epsilon": 0.1, "base": config}}
    usable(latent.load(tmp_path / "5"))
    for depth in (9, 100, 299):
        with pytest.raises(ArtifactError, match="at most 8 distributions inside each other|not a readable"):
            latent.load(tmp_path / f"{depth}")


def test_a_header_that_declares_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    zoo.ZOO["gaussian"](2, torch.float32).save(path)
    header = {"mean": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    for size in (len(text), 1 << 62, 0):
        tampering.rewrite(path, tensors__safetensors=size.to_bytes(8, "little") + text + bytes(16))
        with pytest.raises(ArtifactError, match="not a readable safetensors file"):
            latent.load(path)


def call(*argv: str | Path) -> None:
    """A command, which may end in an error of ours; any other exception is a fault."""
    with pytest.raises(SystemExit):
        main([*map(str, argv), "--quiet"])


@pytest.mark.parametrize("name", ["data", "model", "posteriors/train", "latent/gaussian", "audit", "generator"])
def test_commands_end_without_a_traceback(run: Path, name: str) -> None:
    count, whole = Count(), run.with_name("whole")
    found = artifact.read(run / name)
    every = [*tampering.configs(found.config)]
    shutil.copytree(run, whole)
    for i, (what, config) in enumerate(every[:: len(every) // 8]):
        tampering.rewrite(run / name, config=config)
        reseal(run)
        verbs = [["sample", run, "--n", "2", "--from", "gaussian", "--allow-copies"], ["explain", run], ["report", run]]
        for verb in verbs + ([["fit", run, "--kinds", "barycentre"]] if i % 4 == 0 else []):
            count.of(f"{verb[0]}: {what}", lambda verb=verb: call(*verb))
        shutil.rmtree(run)
        shutil.copytree(whole, run)
    finish(count, 0)
