"""Training with a learned prior: interrupted it ends with the same bits; it fills a planted hole."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learning import RING, SETTINGS, in_the_hole, ring
from test_training import FAST, NETS, Killed, data, interrupt
from zprime import artifact, learned
from zprime.checkpoints import checkpoint_key
from zprime.distribution import LatentDistribution
from zprime.learned import AggregatedPrior, ExemplarsPrior, LearnedPrior
from zprime.training import Trained, TrainSettings, evaluate, train
from zprime.vae import VAE

KINDS = {
    **{kind: s for kind, s in SETTINGS.items() if kind not in ("exemplars", "aggregated")},
    "exemplars": ExemplarsPrior(near=20, again=9),
    "aggregated": AggregatedPrior(0, 0),
}
TRAINING = TrainSettings(epochs=60, batch=64, patience=0)


def run(prior: LearnedPrior | str, *, settings: TrainSettings = FAST, **more) -> Trained:
    shape, architecture = NETS["mlp"]
    return train(VAE.build(shape, architecture, seed=0), *data(shape), settings, prior=prior, **more)


def bits(found: Trained) -> dict[str, torch.Tensor]:
    r = found.vae.prior
    assert isinstance(r, LatentDistribution)
    return {**found.vae.state_dict(), **{f"prior.{k}": v for k, v in r.tensors().items()}}


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_started_again_it_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole = run(KINDS[kind])
    with pytest.raises(KeyboardInterrupt):
        run(KINDS[kind], checkpoint=tmp_path / "c", progress=interrupt(3))
    with pytest.raises(Killed):
        run(KINDS[kind], checkpoint=tmp_path / "c", progress=interrupt(5, Killed))
    assert artifact.read(tmp_path / "c").config["epoch"] == 4
    again = run(KINDS[kind], checkpoint=tmp_path / "c")
    assert again.history == whole.history
    a, b = bits(again), bits(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert whole.vae.prior.kind == KINDS[kind].kind


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_the_prior_of_the_best_epoch_without_anything_to_train(kind: str) -> None:
    found = run(KINDS[kind])
    assert not any(p.requires_grad for p in found.vae.parameters())
    assert not any(name.startswith("prior") for name in found.vae.state_dict())
    r = found.vae.prior
    before = {k: v.clone() for k, v in r.tensors().items()}
    with torch.no_grad():
        for p in found.vae.parameters():
            p.add_(1)
    assert all(torch.equal(before[k], v) for k, v in r.tensors().items())
    # the ELBO of the history is that of what is left, where it is measured in float32
    best = run(KINDS[kind])
    assert evaluate(best.vae, data((6,))[1]) == pytest.approx(best.history[best.epoch - 1]["selection"], abs=1e-3)


def test_a_training_without_a_learned_prior_has_the_key_that_it_had(tmp_path: Path) -> None:
    shape, architecture = NETS["mlp"]
    model, (rows, selection) = VAE.build(shape, architecture, seed=0), data(shape)
    plain = checkpoint_key(model, rows, selection, FAST, seed=0)
    keys = {checkpoint_key(model, rows, selection, FAST, seed=0, prior=s) for s in KINDS.values()}
    assert len(keys | {plain}) == len(KINDS) + 1
    run("vamp", checkpoint=tmp_path / "c")
    told: list[int] = []
    run("mixture", checkpoint=tmp_path / "c", progress=lambda what, done, total: told.append(done))
    assert told[0] == 0  # the checkpoint is of another training


def test_early_stopping_counts_the_elbo_under_the_prior_as_it_is() -> None:
    found = run(ExemplarsPrior(), settings=replace(FAST, epochs=400, patience=3, lr=0.02))
    assert len(found.history) < 400
    assert found.stopped == "no better ELBO on the selection split for 3 epochs"
    assert found.epoch == max(range(len(found.history)), key=lambda e: found.history[e]["selection"]) + 1


def test_a_kind_that_cannot_be_learned_is_refused_before_the_training() -> None:
    with pytest.raises(learned.UsageError, match="which can be learned, got 'gaussian'"):
        run("gaussian")


@pytest.fixture(scope="module")
def plain() -> Trained:
    return train(VAE.build((2,), RING, seed=0), ring(600, "train"), ring(300, "selection"), TRAINING)


@pytest.mark.parametrize("kind", ["vamp", "mixture", "flow", "exemplars", "aggregated", "coreset"])
def test_a_learned_prior_fills_the_hole_of_a_ring(kind: str, plain: Trained) -> None:
    """N(0, I) decodes a share of its draws to where no data are; a prior that is learned decodes fewer."""
    found = train(VAE.build((2,), RING, seed=0), ring(600, "train"), ring(300, "selection"), TRAINING, prior=kind)
    before, after = in_the_hole(plain.vae), in_the_hole(found.vae)
    gain = found.history[found.epoch - 1]["selection"] - plain.history[plain.epoch - 1]["selection"]
    assert before > 0.02
    assert after < before / 2
    assert gain > 0.02
