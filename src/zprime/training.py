"""Train a VAE by the ELBO, or by another objective.

Every epoch has a random stream of its own. So a training that was interrupted and continues from a checkpoint ends with
the same parameters, bit for bit, as one that was not.
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from zprime import artifact, distributed, likelihoods, memory
from zprime.arrays import blocks
from zprime.checkpoints import checkpoint_key, resume, snapshot
from zprime.data import Rows
from zprime.data_parallel import BatchLoss, check_start, of_first
from zprime.descent import Descent
from zprime.errors import NumericalError
from zprime.learned import Learned, settings_of
from zprime.networks import start_at
from zprime.objectives import Elbo, Objective, build, check_form, check_learned
from zprime.progress import Expectation, Progress, shown
from zprime.rng import stream
from zprime.train_settings import TrainSettings
from zprime.vae import VAE

log = logging.getLogger("zprime")
PIECE = 20  # steps after which it is told about how long the training will take
BATCH = 512  # rows at a time where nothing is trained


@dataclass
class Trained:
    """What `train` returns.

    Attributes:
        vae: with the averaged parameters of the best epoch, in evaluation mode.
        epoch: the best epoch, from 1; 0 where none was better than the start.
        history: one dictionary an epoch: beta, training loss, and on the selection split, with the averaged parameters,
            the ELBO, or the objective where that is another one (less its loss), nats a row.
        stopped: a sentence saying why it ended.
        start: the same on the selection split before the first epoch, where that counts as epoch 0; else None.
        seconds: CPU time of all epochs, also of those before an interruption; in a job, of the first process.
    """

    vae: VAE
    epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""
    start: float | None = None
    seconds: float = 0.0


def train(
    vae: VAE,
    rows: Rows,
    selection: Rows,
    settings: TrainSettings = TrainSettings(),
    *,
    prior: str | Learned | None = None,
    start: bool = False,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = shown,
) -> Trained:
    """Maximise the ELBO on `rows` by Adam; keep the averaged parameters with the best ELBO on `selection`.

    Another objective (`objectives.py`) takes the place of the ELBO, if the settings name one.

    The decoder of a VAE that was just built begins at the mean of `rows`. After every epoch the ELBO is that of an
    average of the parameters over about the last 500 steps (`descent.py`).
    A public facade: its arguments are what users choose.

    Args:
        vae: trained in place.
        rows: the training split.
        selection: the selection split, used for early stopping only.
        settings: see `TrainSettings`.
        prior: a kind that is learned in place of the VAE's p(z), e.g. `vamp`, or its settings (`zprime.learned`);
            afterwards `vae.prior` is what it became. None leaves p(z) as it is.
        start: whether the parameters as they are now count as epoch 0, which is kept if no epoch is better.
        seed: decides row order, noise and binarised rows (the initial weights are those of `vae`).
        checkpoint: a folder to save the state in; the same call continues from there.
        progress: called once an epoch, and after a few steps with about how long all epochs will take. By default
            lines on standard error.

    Raises:
        NumericalError: the loss is not finite; the last good checkpoint is kept.
        ArtifactError: the processes of a job find different checkpoints.
        UsageError: settings that cannot be used, or a network too large for the memory: gradients, the two moments of
            Adam, and the parameters now, averaged and at the best epoch are 24 bytes a weight; or a checkpoint that
            would take the place of something else.
        ArrayError: data that the likelihood cannot take.
    """
    began = time.process_time()
    settings.check()
    learned = None if prior is None else settings_of(prior)
    check_form(settings, vae.form)
    objective = build(settings)
    objective.check(vae)
    if learned is not None:
        check_learned(settings, vae.form, learned.described["kind"])
    check_data(vae, rows)
    check_data(vae, selection)
    if checkpoint is not None:
        artifact.check_replaceable(checkpoint)
    if not any(p.requires_grad for p in vae.parameters()):
        vae.requires_grad_(requires_grad=True)  # it was trained before, and is to be trained on
    epochs = settings.plan(len(rows))
    schedule = settings.schedule(epochs)
    per_epoch = math.ceil(len(rows) / settings.batch)
    weights = sum(p.numel() for p in vae.parameters())
    memory.need(24 * weights, f"training: {weights:,} weights", "lower latents, or hidden (mlp) or width (conv)")
    key = checkpoint_key(vae, rows, selection, settings, seed=seed, prior=learned)
    _begin(vae, rows, learned, seed)

    def score() -> float:
        # all processes of a job decide by the same number, to the last bit, what is better and when to stop
        return of_first(evaluate(vae, selection, seed=seed, beta=settings.beta, objective=objective))

    floor = score() if start else -math.inf
    descent = Descent(vae, settings.lr, normed=settings.optimiser == "adam-normgrad")
    batch_loss = BatchLoss(vae, objective)
    state = resume(checkpoint, key, vae, descent, per_epoch) or snapshot(vae, descent, 0, 0, [], {})
    check_start(checkpoint, {"epoch": state.epoch, "best epoch": state.best_epoch})
    began -= state.seconds
    what = "ELBO" if objective.by_elbo else settings.objective
    saved = time.monotonic()
    stopped = f"all {epochs} epochs done"
    progress("train", state.epoch, epochs)
    expectation = Expectation(progress, f"train, {epochs} epochs at most", pieces=per_epoch * (epochs - state.epoch))
    try:
        for epoch in range(state.epoch + 1, epochs + 1):
            # before the epoch, so that a run that goes on from its last checkpoint stops where it stopped before
            if settings.patience and state.epoch - max(state.best_epoch, schedule.settled) >= settings.patience:
                stopped = f"no better {what} on the selection split for {settings.patience} epochs"
                progress("train", epochs, epochs)
                break
            descent.fall(schedule.fallen(epoch))
            now = _Pass(epoch, schedule.weight(epoch), stream(seed, "epoch", epoch), expectation)
            loss = _epoch(batch_loss, rows, descent, settings, now)
            with descent.averaged():
                value = score()
            if not math.isfinite(value):
                raise NumericalError(
                    f"training: the {what} on the selection split became {value} at epoch {epoch}; "
                    f"lower the learning rate (now {settings.lr:g}), or look for rows far from all others"
                )
            history = [*state.history, {"beta": now.beta, "loss": loss, "selection": value}]
            better = value > (history[state.best_epoch - 1]["selection"] if state.best_epoch else floor)
            best = {} if better else {k: v for k, v in state.tensors.items() if k.startswith("best.")}
            state = snapshot(vae, descent, epoch, epoch if better else state.best_epoch, history, best)
            state.seconds = time.process_time() - began
            progress("train", epoch, epochs)
            expectation.finished(math.ceil(len(rows) / settings.batch))
            if checkpoint is not None and not distributed.rank() and time.monotonic() - saved >= settings.checkpoint:
                state.save(checkpoint, key)
                saved = time.monotonic()
    except (KeyboardInterrupt, NumericalError, RuntimeError):  # which also says that another process is gone
        if checkpoint is not None and not distributed.rank() and state.epoch:
            state.save(checkpoint, key)
            log.info("checkpoint of epoch %d kept in %s", state.epoch, checkpoint)
        raise
    expectation.done()
    if checkpoint is not None and not distributed.rank():
        state.save(checkpoint, key)
    vae.load_state_dict({k.removeprefix("best."): v for k, v in state.tensors.items() if k.startswith("best.")})
    vae.eval().freeze_prior()
    vae.requires_grad_(requires_grad=False)
    return Trained(vae, state.best_epoch, state.history, stopped, floor if start else None, state.seconds)


@torch.no_grad()
def _begin(vae: VAE, rows: Rows, prior: Learned | None, seed: int) -> None:
    """Let a decoder that was just built begin at the mean of the rows, and a prior that is learned at its start."""
    if vae.fresh:
        start_at(vae.decoder, likelihoods.start(vae.likelihood, rows.x.mean(0)))
    vae.fresh = False
    if prior is not None:
        vae.learn(prior.make(vae.latents), rows.x, rng=stream(seed, "prior"))


@dataclass(frozen=True)
class _Pass:
    """One pass over the training rows: its number from 1, the weight of the KL term, its random stream, who is told."""

    epoch: int
    beta: float
    rng: torch.Generator
    expectation: Expectation


def _epoch(batch_loss: BatchLoss, rows: Rows, descent: Descent, settings: TrainSettings, now: _Pass) -> float:
    """One pass; the mean loss in nats a row."""
    batch_loss.vae.refresh_prior()
    batch_loss.vae.train()
    total, start = 0.0, time.monotonic()
    for step, (at, x) in enumerate(_batches(rows, settings.batch, now.rng)):
        loss, value = batch_loss(x, at, beta=now.beta, rng=now.rng)
        if not math.isfinite(value):
            raise NumericalError(
                f"training: the loss became {value} at epoch {now.epoch}, step {step + 1}; "
                f"lower the learning rate (now {settings.lr:g}) and run again"
            )
        descent.step(loss)
        total += value * len(x)
        if step + 1 == PIECE:
            now.expectation.tell((time.monotonic() - start) / PIECE)
    return total / len(rows)


def _batches(rows: Rows, size: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of rows, and the rows."""
    order = torch.randperm(len(rows), generator=rng)
    for block in blocks(len(rows), size):
        if rows.grey is not None:
            yield order[block], torch.bernoulli(rows.grey.index_select(0, order[block]), generator=rng)
        else:
            yield order[block], rows.x.index_select(0, order[block])  # three times as fast as rows.x[...]


@torch.no_grad()
def evaluate(vae: VAE, rows: Rows, *, seed: int = 0, beta: float = 1.0, objective: Objective = Elbo()) -> float:
    """Mean ELBO in nats a row, at one draw z a row from a fixed stream (the same numbers at every call).

    Of an `objective` that is not selected by the ELBO it is that objective, less its loss.
    """
    vae.eval()
    vae.refresh_prior()
    rng = stream(seed, "evaluate", rows.name)
    total, loss = 0.0, Elbo() if objective.by_elbo else objective
    for block in blocks(len(rows), BATCH):
        total -= float(loss.drawn(vae, rows.x[block], rng, beta=beta).double().sum())
    return total / len(rows)


def check_data(vae: VAE, rows: Rows) -> None:
    """Raise `ArrayError` unless the likelihood can take the rows; it names the row and the value."""
    for block in blocks(len(rows), BATCH):
        likelihoods.check_rows(vae.likelihood, rows.x[block], first=block.start)
