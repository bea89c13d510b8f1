"""The checkpoint of a training: what it holds, which training it belongs to, and how one goes on from it."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zprime import artifact, model_prior
from zprime.arrays import blocks
from zprime.data import Rows
from zprime.descent import Descent, check_shapes
from zprime.learned import Learned
from zprime.schema import guarded
from zprime.schema.kinds import check
from zprime.serialise import recorded
from zprime.train_settings import TrainSettings
from zprime.vae import VAE
from zprime.vae_settings import VAESettings

log = logging.getLogger("zprime")
BATCH = 512  # rows that are hashed at a time


@dataclass
class State:
    """All that the next epoch depends on.

    Attributes:
        epoch: the last one that was done, from 1; 0 before the first.
        best_epoch: the one that is kept; 0 for the start.
        history: one dictionary an epoch.
        tensors: `now.` and `best.` parameters, and those of the optimiser.
        seconds: CPU time until then, of all processes that went on from each other's checkpoints.
    """

    epoch: int
    best_epoch: int
    history: list[dict[str, float]]
    tensors: dict[str, Tensor]
    seconds: float = 0.0

    def save(self, folder: Path, key: str) -> None:
        """Write the checkpoint; the seconds, which differ from run to run, are no part of its hash."""
        config = {"epoch": self.epoch, "best_epoch": self.best_epoch, "history": self.history}
        artifact.write(
            folder,
            artifact.Manifest("checkpoint", config, key, measured={"seconds": self.seconds}),
            tensors=self.tensors,
        )


def checkpoint_key(
    vae: VAE, rows: Rows, selection: Rows, settings: TrainSettings, *, seed: int, prior: Learned | None = None
) -> str:
    """Hash of all that a training follows from; a checkpoint with the same one is of the same training."""
    parts = [_fingerprint(rows), _fingerprint(selection), repr(vae), _hash(vae.state_dict())]
    told = recorded(settings)
    later = [*model_prior.key(vae.prior), *([prior.key] if prior else []), *_later(vae)]
    return artifact.digest([told, seed, *parts, *later])


def _later(vae: VAE) -> list[dict[str, object]]:
    """Settings of the architecture that came later, where they are not at their defaults; `repr` need not show them."""
    if vae.settings is None:
        return []
    usual = recorded(VAESettings())
    changed = {name: value for name, value in recorded(vae.settings).items() if name not in usual}
    return [changed] if changed else []


def snapshot(
    vae: VAE, descent: Descent, epoch: int, best_epoch: int, history: list[dict[str, float]], best: dict[str, Tensor]
) -> State:
    """Copy everything at the end of an epoch; `best` empty means that this epoch is the best."""
    tensors = {f"now.{k}": v.detach().clone() for k, v in vae.state_dict().items()} | descent.tensors()
    with descent.averaged():
        tensors |= best or {f"best.{k}": v.detach().clone() for k, v in vae.state_dict().items()}
    return State(epoch, best_epoch, history, tensors)


def resume(folder: Path | None, key: str, vae: VAE, descent: Descent, per_epoch: int) -> State | None:
    """Load the checkpoint of the same settings, data and network, if there is one."""
    if folder is None or not artifact.is_artifact(folder):
        return None
    saved = artifact.read(folder, "checkpoint")
    if saved.key != key:
        log.info("checkpoint in %s is of other settings or data: training starts anew", folder)
        return None
    tensors = saved.tensors()
    check(folder, "checkpoint", saved.config, tensors)
    with guarded(folder, "delete it to train anew"):
        network = {name: value for name, value in tensors.items() if not name.startswith(("mean.", "adam."))}
        weights = vae.state_dict()
        check_shapes(network, {f"{which}.{k}": v.shape for which in ("now", "best") for k, v in weights.items()})
        vae.load_state_dict({k.removeprefix("now."): v for k, v in network.items() if k.startswith("now.")})
        descent.load(tensors, per_epoch * saved.config["epoch"])
        history = [{name: float(value) for name, value in epoch.items()} for epoch in saved.config["history"]]
    log.info("training goes on after epoch %d", saved.config["epoch"])
    seconds = saved.measured.get("seconds", 0.0)
    return State(saved.config["epoch"], saved.config["best_epoch"], history, tensors, seconds)


def _fingerprint(rows: Rows) -> str:
    """A hash that changes when rows do; they are looked at block by block."""
    x = rows.x if rows.grey is None else rows.grey
    return artifact.digest([_hash({"ids": rows.ids}), *(_hash({"x": x[b]}) for b in blocks(len(x), BATCH))])


def _hash(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(artifact.pack(tensors)).hexdigest()
