"""What published protocols need of a training, and that what came later changes no key of what was there before."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zprime import artifact
from zprime.checkpoints import checkpoint_key
from zprime.data import DataSettings, Rows
from zprime.descent import Descent
from zprime.errors import UsageError
from zprime.objectives import Elbo
from zprime.rng import stream
from zprime.running import Run
from zprime.serialise import recorded
from zprime.train_settings import TrainSettings, says
from zprime.training import Trained, train
from zprime.vae import VAE, VAESettings, describe

FAST = TrainSettings(epochs=5, batch=16, warmup=0.3, patience=0, checkpoint=0.0)
NETWORK = VAESettings(latents=2, hidden=(8,))
CHANGES = {
    "free bits": {"free_bits": 0.1},
    "iwae": {"objective": "iwae", "iwae_draws": 3},
    "wae-mmd": {"objective": "wae-mmd"},
    "infovae": {"objective": "infovae", "beta": 0.5, "mmd": 5.0},
    "rae": {"objective": "rae"},
    "rae, spectral": {"objective": "rae", "regulariser": "spectral"},
    "rae, gradient": {"objective": "rae", "regulariser": "gradient"},
    "cycles": {"cycles": 2},
    "norms": {"optimiser": "adam-normgrad", "lr_schedule": "constant", "warmup_epochs": 2},
}


def rows() -> tuple[Rows, Rows]:
    x = torch.rand(60, 4, generator=stream(0, "rows"))
    return Rows("train", x[:45], torch.arange(45)), Rows("selection", x[45:], torch.arange(45, 60))


def network(settings: TrainSettings) -> VAESettings:
    return replace(NETWORK, posterior="points") if settings.objective == "rae" else NETWORK


def run(settings: TrainSettings, **more) -> Trained:
    return train(VAE.build((4,), network(settings), seed=0), *rows(), settings, seed=0, **more)


def filled(settings: VAESettings, shape: tuple[int, ...]) -> tuple[VAE, Rows]:
    vae = VAE.build(shape, settings)
    for p in vae.parameters():
        torch.nn.init.constant_(p, 0.5)
    return vae, Rows("train", torch.linspace(0, 1, 6 * math.prod(shape)).reshape(6, *shape), torch.arange(6))


@pytest.mark.parametrize(
    ("settings", "shape", "usual", "other"),
    [
        (
            VAESettings(latents=2, hidden=(4,)),
            (3,),
            "bdf82d283adb86775c856df05fcba12462de833737ef9cea02b06787d4caa0ef",
            "c672bb93ef727ab3d8659b1181a7620087565452070c410848b40023e6d52c4e",
        ),
        (
            VAESettings(latents=2, network="conv", width=2, likelihood="bernoulli"),
            (1, 8, 8),
            "5cf3071499661144f806dcc754c52e0f40eef581428a421dcc0c475a2eddf5e7",
            "0475d82b7a2f6c19c7ff3c82742e189dededf4c9505d5b91c267ded6ae4a2031",
        ),
    ],
)
def test_settings_that_came_later_leave_keys_of_checkpoints_as_they_were(settings, shape, usual, other) -> None:
    """The keys are those of 30 November 2026, before there were other objectives."""
    vae, x = filled(settings, shape)
    assert checkpoint_key(vae, x, x, TrainSettings(), seed=1) == usual
    assert checkpoint_key(vae, x, x, TrainSettings(epochs=3, beta=2.0, warmup=0.5), seed=1) == other


def test_they_are_in_no_manifest_at_their_defaults() -> None:
    first = {"epochs", "batch", "lr", "beta", "warmup", "patience", "checkpoint"}
    assert recorded(TrainSettings()).keys() == first
    assert recorded(VAESettings()).keys() == {"latents", "network", "likelihood", "scale", "hidden", "width"}
    changed = recorded(TrainSettings(free_bits=0.1, cycles=3))
    assert {k: v for k, v in changed.items() if k not in first} == {"free_bits": 0.1, "cycles": 3}
    vae = VAE.build((3,), VAESettings(posterior="full"))
    assert describe(vae)["settings"]["posterior"] == "full"


@pytest.mark.parametrize("change", [{"log_variance": (-6.0, 2.0)}, {"posterior": "full"}])
def test_other_values_have_keys_of_their_own(change: dict) -> None:
    x = filled(NETWORK, (3,))[1]
    keys = {checkpoint_key(filled(s, (3,))[0], x, x, FAST, seed=1) for s in (NETWORK, replace(NETWORK, **change))}
    assert len(keys) == 2


@pytest.mark.parametrize("name", CHANGES)
def test_killed_and_started_again_every_objective_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = replace(FAST, **CHANGES[name])
    whole = run(settings)

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, checkpoint=tmp_path / "c", progress=stop)
    assert artifact.read(tmp_path / "c").config["epoch"] == 3
    again = run(settings, checkpoint=tmp_path / "c")
    assert again.history == whole.history
    assert all(torch.equal(v, whole.vae.state_dict()[k]) for k, v in again.vae.state_dict().items())
    assert not all(torch.equal(v, run(FAST).vae.state_dict().get(k, v)) for k, v in whole.vae.state_dict().items())


@pytest.mark.parametrize("name", ["iwae", "wae-mmd", "infovae", "rae"])
def test_the_best_epoch_is_by_the_objective_where_the_elbo_is_not_what_is_trained(name: str) -> None:
    from zprime import objectives

    settings = replace(FAST, **CHANGES[name])
    found, selection = run(settings), rows()[1]
    objective = objectives.build(settings)
    noise = stream(0, "evaluate", "selection")
    loss = objective.drawn(found.vae, selection.x, noise, beta=settings.beta)
    best = found.history[found.epoch - 1]["selection"]
    assert best == max(h["selection"] for h in found.history)
    assert best == pytest.approx(-float(loss.mean()), rel=1e-5)


def test_with_free_bits_the_best_epoch_is_by_the_elbo() -> None:
    found, selection = run(replace(FAST, free_bits=0.5)), rows()[1]
    loss = Elbo().drawn(found.vae, selection.x, stream(0, "evaluate", "selection"), beta=1.0)
    assert found.history[found.epoch - 1]["selection"] == pytest.approx(-float(loss.mean()), rel=1e-5)


def test_the_weight_of_the_kl_rises_once_in_every_cycle() -> None:
    plan = TrainSettings(cycles=3, warmup=0.5, beta=2.0).schedule(12)  # 4 epochs a cycle, 2 of warm-up
    assert [plan.weight(e) for e in range(1, 13)] == pytest.approx([2 / 3, 4 / 3, 2, 2] * 3)
    assert plan.settled == 10
    once = TrainSettings(warmup=0.5).schedule(12)
    assert [once.weight(e) for e in range(1, 13)] == pytest.approx([(e + 1) / 7 for e in range(6)] + [1.0] * 6)
    assert once.settled == 6
    uneven = TrainSettings(cycles=3, warmup=0.0).schedule(10)
    assert (uneven.period, uneven.settled) == (4, 8)


def test_the_warm_up_may_be_said_in_epochs() -> None:
    found = run(replace(FAST, epochs=6, warmup_epochs=4))
    assert [h["beta"] for h in found.history] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    with pytest.raises(UsageError, match="warmup_epochs: expected fewer than the 4 epochs, got 4; give more --epochs"):
        run(replace(FAST, epochs=4, warmup_epochs=4))
    with pytest.raises(UsageError, match="fewer than the 3 epochs of each of 2 cycles, got 3"):
        run(replace(FAST, epochs=6, warmup_epochs=3, cycles=2))
    with pytest.raises(UsageError, match="cycles: expected at most as many as there are epochs, 5, got 6"):
        run(replace(FAST, cycles=6))


def test_a_constant_learning_rate_does_not_fall() -> None:
    plan = TrainSettings(lr_schedule="constant").schedule(10)
    assert {plan.fallen(e) for e in range(1, 11)} == {0.0}
    assert TrainSettings().schedule(10).fallen(6) == 0.5


def test_two_thousand_epochs_with_early_stopping_are_nothing_special() -> None:
    found = run(replace(FAST, epochs=2000, warmup_epochs=3, patience=2, lr=0.03, lr_schedule="constant"))
    assert 5 < len(found.history) < 2000
    assert found.stopped == "no better ELBO on the selection split for 2 epochs"
    assert TrainSettings(epochs=2000).plan(50_000) == 2000


def test_adam_normgrad_is_adam_of_gradients_divided_by_their_norms() -> None:
    """Two steps by hand, with the constants of Adam and 1e-7 beside the norm."""
    layer = torch.nn.Linear(3, 2).double()
    descent = Descent(layer, 0.01, normed=True)
    x = torch.randn(5, 3, generator=stream(0), dtype=torch.float64)
    p = {name: t.detach().clone() for name, t in layer.named_parameters()}
    m, v = ({name: torch.zeros_like(t) for name, t in p.items()} for _ in range(2))
    for step in (1, 2):
        loss = layer(x).square().sum() * 1e3
        grads = dict(zip(p, torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True), strict=True))
        for name, g in grads.items():
            g = g / (g.norm() + 1e-7)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            up, down = m[name] / (1 - 0.9**step), (v[name] / (1 - 0.999**step)).sqrt() + 1e-8
            p[name] = p[name] - 0.01 * up / down
        descent.step(loss)
        for name, t in layer.named_parameters():
            torch.testing.assert_close(t.detach(), p[name])


def test_a_gradient_of_zeros_stays_one() -> None:
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    Descent(layer, 0.01, normed=True).step(0.0 * layer.weight.sum() + 0.0 * layer.bias.sum())
    assert torch.equal(layer.weight, before)


def test_the_log_variance_is_cut_off_at_its_bounds(tmp_path: Path) -> None:
    vae = VAE.build((4,), replace(NETWORK, log_variance=(-6.0, 2.0)))
    free = VAE.build((4,), NETWORK)
    for v in (vae, free):
        torch.nn.init.constant_(v.encoder.head.log_scale.weight, 50.0)
    x = torch.randn(200, 4, generator=stream(0))
    bounded, plain = vae.encode(x)[1], free.encode(x)[1]
    torch.testing.assert_close(bounded, plain.clamp(math.exp(-3), math.exp(1)))
    assert float(bounded.detach().max()) == pytest.approx(math.exp(1))
    assert float(bounded.detach().min()) == pytest.approx(math.exp(-3))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"objective": "vae"}, "objective: expected one of elbo, iwae, wae-mmd, infovae, rae, got 'vae'"),
        ({"lr_schedule": "linear"}, "lr_schedule: expected one of cosine, constant, got 'linear'"),
        ({"optimiser": "sgd"}, "optimiser: expected one of adam, adam-normgrad, got 'sgd'"),
        ({"regulariser": "l1"}, "regulariser: expected one of l2, spectral, gradient, got 'l1'"),
        ({"iwae_draws": 0}, "iwae_draws: expected at least 1, got 0"),
        ({"cycles": 0}, "cycles: expected at least 1, got 0"),
        ({"warmup_epochs": -1}, "warmup_epochs: expected 0 or more, got -1"),
        ({"mmd": 0.0}, "mmd: expected a number above 0, got 0.0"),
        ({"free_bits": -0.1}, "free_bits: expected a number from 0 on, got -0.1"),
        ({"penalty": math.inf}, "penalty: expected a number from 0 on, got inf"),
        ({"free_bits": 0.1, "objective": "iwae"}, "free_bits: .* the objective is iwae; leave them out"),
        ({"beta": 0.5, "objective": "wae-mmd"}, "beta: wae-mmd has no KL term, got 0.5; .* --objective infovae"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run(replace(FAST, **changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"posterior": "flows"}, "posterior: expected one of diagonal, full, flow, points, got 'flows'"),
        ({"log_variance": (2.0, -6.0)}, "log_variance: expected two numbers from -120 to 120, .* got 2 -6"),
        ({"log_variance": (2.0,)}, "log_variance: expected two numbers"),
        ({"log_variance": (-6.0, 2.0), "posterior": "points"}, "log_variance: codes have none"),
    ],
)
def test_architectures_that_cannot_be_used_are_refused(changes: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        VAE.build((4,), replace(NETWORK, **changes))


@pytest.mark.parametrize(
    ("training", "posterior", "words"),
    [
        ({}, "diagonal", []),
        ({"beta": 2.0}, "diagonal", ["trained with beta = 2: q(z|x) is no approximation", "neither bound nor"]),
        ({"free_bits": 0.2}, "diagonal", ["trained with 0.2 free nats a dimension", "neither bound nor estimate"]),
        ({"objective": "iwae"}, "full", ["the bound of IWAE, 5 draws a row, not the ELBO", "conditional on it"]),
        ({"objective": "wae-mmd"}, "diagonal", ["WAE-MMD, without a KL term", "neither bound nor estimate"]),
        ({"objective": "infovae"}, "diagonal", ["InfoVAE, weight 100 of MMD beside 1 of the KL", "neither"]),
        ({"objective": "rae"}, "points", ["codes without posteriors: no KL term, no surgery"]),
        ({"objective": "wae-mmd"}, "points", ["codes without posteriors"]),
    ],
)
def test_what_an_audit_cannot_say_is_said(training: dict, posterior: str, words: list[str]) -> None:
    found = " ".join(says(training, posterior))
    assert bool(found) == bool(words)
    assert all(w in found for w in words)


def test_a_run_says_so_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    job = Run.create(tmp_path / "run")
    settings = replace(FAST, epochs=2, objective="infovae", beta=0.5)
    job.train(DataSettings(str(tmp_path / "x.npz")), NETWORK, settings, seed=0)
    told = job.folder.of_model
    assert told.says == says({"objective": "infovae", "beta": 0.5})
    assert told.info().elbo is None
    assert told.info().training["objective"] == "infovae"
    assert "iwae_draws" not in told.info().training
