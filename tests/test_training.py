"""The training loop: interrupted anywhere it ends with the same bits; a bad number stops it with the good part kept."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles import linear_gaussian, maximum_likelihood
from zprime import artifact, training
from zprime.data import DataSettings, Rows
from zprime.data import load as load_data
from zprime.descent import Descent
from zprime.errors import ArrayError, ArtifactError, NumericalError, UsageError
from zprime.rng import stream
from zprime.training import Trained, TrainSettings, evaluate, train
from zprime.vae import VAE, VAESettings

FAST = TrainSettings(epochs=6, batch=16, warmup=0.3, patience=0, checkpoint=0.0)
NETS = {
    "mlp": ((6,), VAESettings(latents=2, hidden=(12,))),
    "conv": ((1, 16, 16), VAESettings(latents=2, width=3)),
    "binarised": ((1, 8, 8), VAESettings(latents=2, hidden=(12,), likelihood="bernoulli")),
}


def data(shape: tuple[int, ...], n: int = 50, *, grey: bool = False) -> tuple[Rows, Rows]:
    rng = stream(0, "rows", n)
    x = torch.rand(n + 20, *shape, generator=rng)
    drawn = torch.bernoulli(x, generator=rng) if grey else x
    ids = torch.arange(n + 20)
    parts = []
    for name, cut in (("train", slice(0, n)), ("selection", slice(n, n + 20))):
        parts.append(Rows(name, drawn[cut], ids[cut], grey=x[cut] if grey else None))
    return parts[0], parts[1]


def run(net: str = "mlp", settings: TrainSettings = FAST, *, seed: int = 0, weights: int = 0, **more) -> Trained:
    shape, architecture = NETS[net]
    return train(
        VAE.build(shape, architecture, seed=weights), *data(shape, grey=net == "binarised"), settings, seed=seed, **more
    )


def same(a: Trained, b: Trained) -> bool:
    x, y = a.vae.state_dict(), b.vae.state_dict()
    return (
        x.keys() == y.keys()
        and all(torch.equal(x[k], y[k]) for k in x)
        and a.history == b.history
        and a.epoch == b.epoch
    )


def interrupt(at: int, error: type[BaseException] = KeyboardInterrupt):
    """A progress callback that raises once epoch `at` is done."""

    def progress(what: str, done: int, total: int) -> None:
        if done == at:
            raise error

    return progress


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("net", NETS)
def test_interrupted_and_started_again_it_ends_with_the_same_bits(net: str, at: int, tmp_path: Path) -> None:
    whole = run(net)
    with pytest.raises(KeyboardInterrupt):
        run(net, checkpoint=tmp_path / "c", progress=interrupt(at))
    assert artifact.read(tmp_path / "c").config["epoch"] == at
    seen: list[int] = []
    again = run(net, checkpoint=tmp_path / "c", progress=lambda what, done, total: seen.append(done))
    assert seen == list(range(at, 7))  # nothing is done twice
    assert same(again, whole)
    assert again.stopped == whole.stopped == "all 6 epochs done"


class Killed(BaseException):
    """Stands for a signal that nothing can catch: no farewell checkpoint is written."""


def test_killed_it_goes_on_from_the_last_checkpoint_on_the_clock(tmp_path: Path) -> None:
    whole = run()
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "c", progress=interrupt(4, Killed))
    assert artifact.read(tmp_path / "c").config["epoch"] == 3
    assert same(run(checkpoint=tmp_path / "c"), whole)
    with pytest.raises(Killed):
        run(settings=replace(FAST, checkpoint=1e6), checkpoint=tmp_path / "late", progress=interrupt(4, Killed))
    assert not (tmp_path / "late").exists()


def test_every_epoch_takes_every_row_once_in_an_order_and_with_noise_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, taken, noise = VAE.elbo_terms, [], []

    def watched(self: VAE, x: torch.Tensor, *, rng: torch.Generator, rows: torch.Tensor | None = None):
        if self.training:
            taken.append(x)
            noise.append(rng.get_state())
        return real(self, x, rng=rng)

    monkeypatch.setattr(VAE, "elbo_terms", watched)
    run(settings=replace(FAST, epochs=3))
    epochs = torch.cat(taken).split(50)
    for x in epochs:
        torch.testing.assert_close(x.sort(0).values, data((6,))[0].x.sort(0).values, rtol=0, atol=0)
    assert not any(torch.equal(a, b) for i, a in enumerate(epochs) for b in epochs[:i])
    assert not any(torch.equal(a, b) for i, a in enumerate(noise) for b in noise[:i])


def test_binarised_rows_are_drawn_afresh_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = training._batches, []
    monkeypatch.setattr(training, "_batches", lambda *a: [taken.append(x[1]) or x for x in real(*a)])
    run("binarised", settings=replace(FAST, epochs=2, batch=50))
    counts = [x.sum().item() for x in taken]
    grey = data((1, 8, 8), grey=True)[0].grey
    assert counts[0] != counts[1]
    assert all(abs(c - float(grey.sum())) < 5 * float((grey * (1 - grey)).sum()) ** 0.5 for c in counts)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(checkpoint=tmp_path / "c")
    monkeypatch.setattr(training, "_epoch", None)
    assert same(run(checkpoint=tmp_path / "c"), whole)


def test_the_run_is_decided_by_its_seed_and_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c, d = run(seed=1), run(seed=1), run(seed=2), run(seed=1, weights=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a, b)
    assert not same(a, c)
    assert not same(a, d)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(FAST, lr=2e-3)},
        {"seed": 1},
        {"weights": 1},
    ],
    ids=["settings", "seed", "initial weights"],
)
def test_a_checkpoint_of_another_run_is_not_used(tmp_path: Path, change) -> None:
    run(checkpoint=tmp_path / "c", **change)
    assert same(run(checkpoint=tmp_path / "c"), run())


def test_a_checkpoint_of_other_rows_or_another_fixed_scale_is_not_used(tmp_path: Path) -> None:
    """Rows in another order have the same sum; a fixed scale is a buffer that no printed module shows."""
    rows, selection = data((6,))
    turned = replace(rows, x=rows.x.flip(1))

    def fit(x: Rows, scale: float, checkpoint: Path | None) -> Trained:
        return train(VAE.build((6,), replace(NETS["mlp"][1], scale=scale)), x, selection, FAST, checkpoint=checkpoint)

    expected = fit(rows, 0.5, None)
    for i, (x, scale) in enumerate([(turned, 0.5), (rows, 0.4)]):
        fit(x, scale, tmp_path / str(i))
        assert same(fit(rows, 0.5, tmp_path / str(i)), expected)
    assert expected.vae.likelihood.log_scale.item() == pytest.approx(math.log(0.5))


def test_a_damaged_checkpoint_or_someone_elses_folder_is_refused(tmp_path: Path) -> None:
    run(checkpoint=tmp_path / "c")
    file = tmp_path / "c" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="its SHA-256 is not the one in manifest.json"):
        run(checkpoint=tmp_path / "c")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    with pytest.raises(UsageError, match="this folder holds files that zprime did not write"):
        run(checkpoint=tmp_path / "mine")


def test_a_loss_that_is_not_finite_is_an_error_and_the_last_good_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FAST, checkpoint=1e6)
    good = run(settings=settings)
    real = VAE.elbo_terms

    def poisoned(self: VAE, x: torch.Tensor, *, rng: torch.Generator, rows: torch.Tensor | None = None):
        a, b = real(self, x, rng=rng)
        poisoned.calls += self.training
        # 4 steps an epoch: the second step of epoch 4
        return (a * math.nan, b) if poisoned.calls == 14 else (a, b)

    poisoned.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(VAE, "elbo_terms", poisoned)
        text = r"training: the loss became nan at epoch 4, step 2; lower the learning rate \(now 0.003\) and run again"
        with pytest.raises(NumericalError, match=text):
            run(settings=settings, checkpoint=tmp_path / "c")
    found = artifact.read(tmp_path / "c")
    assert found.config["epoch"] == 3
    assert all(torch.isfinite(t).all() for t in found.tensors().values())
    assert same(run(settings=settings, checkpoint=tmp_path / "c"), good)


def test_an_absurd_learning_rate_ends_in_an_error_with_a_number_and_advice() -> None:
    with pytest.raises(
        NumericalError,
        match=r"training: the .* became (-inf|inf|nan) at epoch \d.*; lower the learning rate \(now 1e\+06\)",
    ):
        run(settings=replace(FAST, lr=1e6))


def test_a_selection_row_that_overflows_is_an_error_too() -> None:
    rows, selection = data((6,))
    far = replace(selection, x=selection.x.clone())
    far.x[3] = 3e38
    with pytest.raises(
        NumericalError,
        match=r"the ELBO on the selection split became (-inf|nan) at epoch 1; .* or look for rows far from all others",
    ):
        train(VAE.build((6,), NETS["mlp"][1]), rows, far, FAST)


def scripted(monkeypatch: pytest.MonkeyPatch, elbos: list[float]) -> None:
    """Make the selection split's ELBO follow a script, whatever is trained."""
    state = {"epoch": 0}
    real = training._epoch

    def epoch(*args):
        state["epoch"] = args[4].epoch
        return real(*args)

    monkeypatch.setattr(training, "_epoch", epoch)
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: elbos[state["epoch"] - 1])


ELBOS = [1.0, 3.0, 2.0, 4.0, 3.5, 3.9, 3.8, 9.0, 9.0, 9.0]


def test_it_stops_after_patience_and_keeps_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    until_best = run(settings=replace(FAST, epochs=10, warmup=0.0))
    scripted(monkeypatch, ELBOS)
    snapshots = {}
    real = training.snapshot

    def snapshot(vae, descent, epoch, *rest):
        with descent.averaged():
            snapshots[epoch] = {k: v.clone() for k, v in vae.state_dict().items()}
        return real(vae, descent, epoch, *rest)

    monkeypatch.setattr(training, "snapshot", snapshot)
    found = run(settings=replace(FAST, epochs=10, warmup=0.0, patience=3))
    assert found.epoch == 4
    assert [h["selection"] for h in found.history] == ELBOS[:7]
    assert found.stopped == "no better ELBO on the selection split for 3 epochs"
    assert all(torch.equal(v, snapshots[4][k]) for k, v in found.vae.state_dict().items())
    assert not all(torch.equal(v, snapshots[7][k]) for k, v in found.vae.state_dict().items())
    assert len(until_best.history) == 10


@pytest.mark.parametrize("at", [5, 7])
def test_stopped_early_and_started_again_it_stays_stopped(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 8 would be better: a run that went on past its end would take it."""
    settings = replace(FAST, epochs=10, warmup=0.0, patience=3)
    scripted(monkeypatch, ELBOS)
    whole = run(settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run(settings=settings, checkpoint=tmp_path / "c", progress=interrupt(at))
    for _ in range(2):
        again = run(settings=settings, checkpoint=tmp_path / "c")
        assert same(again, whole)
        assert again.stopped == whole.stopped


def test_patience_counts_from_the_end_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [9.0] + [1.0] * 9)
    found = run(settings=replace(FAST, epochs=10, warmup=0.5, patience=2))
    assert len(found.history) == 7
    assert found.epoch == 1


def test_the_weight_of_the_kl_term_warms_up_to_beta() -> None:
    found = run(settings=replace(FAST, epochs=10, warmup=0.4, beta=2.0))
    assert [h["beta"] for h in found.history] == pytest.approx([0.4, 0.8, 1.2, 1.6] + [2.0] * 6)
    assert run(settings=replace(FAST, epochs=2, warmup=0.0)).history[0]["beta"] == 1.0


def test_evaluate_is_the_mean_elbo_and_the_same_at_every_call() -> None:
    shape, settings = NETS["mlp"]
    model, (rows, _) = VAE.build(shape, settings).eval(), data(shape)
    with torch.no_grad():
        terms = [model.elbo_terms(rows.x, rng=stream(s)) for s in range(200)]
    mean = torch.stack([(a - 2 * b).mean() for a, b in terms])
    found = evaluate(model, rows, beta=2.0)
    assert found == evaluate(model, rows, beta=2.0)
    assert found == pytest.approx(float(mean.mean()), abs=5 * float(mean.std()))
    assert evaluate(model, rows, seed=1, beta=2.0) != found


def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca() -> None:
    """Affine encoder and decoder, learned scale: the optimum is known exactly (docs/theory.md, section 4)."""
    x, _ = linear_gaussian(6, 2).sample(300)
    model, _ = maximum_likelihood(x, 2)
    best = float(model.log_evidence(x).mean())
    rows = Rows("train", x.float(), torch.arange(300))
    settings = TrainSettings(epochs=100, batch=100, lr=0.1, warmup=0.0, patience=0)
    linear = VAE.build((6,), VAESettings(latents=2, hidden=()))
    found = train(linear, rows, rows, settings).vae
    terms = [found.elbo_terms(rows.x, rng=stream(s)) for s in range(50)]
    elbo = torch.stack([a - b for a, b in terms]).mean()
    assert best - 0.05 < float(elbo) < best + 0.02
    assert found.likelihood.log_scale.exp().item() ** 2 == pytest.approx(model.var, rel=0.1)


def test_a_trained_vae_can_be_trained_on() -> None:
    first = run()
    assert not any(p.requires_grad for p in first.vae.parameters())
    rows, selection = data((6,))
    before = {k: v.clone() for k, v in first.vae.state_dict().items()}
    second = train(first.vae, rows, selection, FAST)
    assert any(not torch.equal(v, before[k]) for k, v in second.vae.state_dict().items())


@pytest.mark.parametrize("split", ["train", "selection"])
def test_grey_data_and_the_bernoulli_likelihood_are_refused(split: str) -> None:
    shape, settings = NETS["binarised"]
    rows, selection = data(shape, grey=True)
    bad = rows if split == "train" else selection
    bad.x[4, 0, 2, 3] = 0.25
    text = r"likelihood bernoulli: expected 0 and 1 only, got 0.25 in row 4; use binarise for grey images, or"
    with pytest.raises(ArrayError, match=text):
        train(VAE.build(shape, settings), rows, selection, FAST)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": -1}, "epochs: expected 0 or more, got -1"),
        ({"patience": -2}, "patience: expected 0 or more, got -2"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"lr": math.inf}, "lr: expected a number above 0, got inf"),
        ({"beta": math.nan}, "beta: expected a number above 0, got nan"),
        ({"warmup": 1.0}, "warmup: expected a proportion from 0 to below 1, got 1.0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run(settings=replace(FAST, **changes))


@pytest.mark.parametrize(("n", "epochs"), [(128, 600), (1200, 600), (12_800, 60), (60_000, 12), (10**6, 10)])
def test_epochs_left_to_the_size_of_the_data_make_about_6000_steps(n: int, epochs: int) -> None:
    assert TrainSettings().plan(n) == epochs
    assert TrainSettings(epochs=7).plan(n) == 7


def test_the_best_epoch_is_the_best_by_the_objective_that_is_trained() -> None:
    """With beta 4 the selection split is scored with beta 4, at full weight from the first epoch on."""
    found = run(settings=replace(FAST, beta=4.0))
    _, selection = data(NETS["mlp"][0])
    scores = [h["selection"] for h in found.history]
    assert found.epoch == 1 + scores.index(max(scores))
    assert scores[found.epoch - 1] == pytest.approx(evaluate(found.vae, selection, seed=0, beta=4.0), rel=1e-5)
    assert abs(scores[found.epoch - 1] - evaluate(found.vae, selection, seed=0)) > 1e-3


def watched_steps(monkeypatch: pytest.MonkeyPatch, settings: TrainSettings) -> tuple[Trained, list[list[float]]]:
    """A training, and the learning rates of every step: of all parameters but the scale, and of the scale."""
    rates: list[list[float]] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", noted)
        found = run(settings=settings)
    return found, rates


def test_beta_rises_over_the_warm_up_and_the_rate_falls_along_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rates = watched_steps(monkeypatch, replace(FAST, epochs=10, lr=0.01, beta=2.0, warmup=0.3))
    assert [h["beta"] for h in found.history] == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 7])
    steps = len(rates) // 10
    floor = 0.2
    assert [rate for rate, _ in rates] == pytest.approx(
        [0.01 * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * e / 10))) for e in range(10) for _ in range(steps)]
    )


@pytest.mark.parametrize(("lr", "scale"), [(1e-4, 1e-3), (3e-3, 0.03), (0.01, 0.03), (0.1, 0.1)])
def test_the_scale_learns_ten_times_as_fast_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, lr: float, scale: float
) -> None:
    _, rates = watched_steps(monkeypatch, replace(FAST, epochs=1, lr=lr))
    assert rates[0] == pytest.approx([lr, scale])


def test_a_scale_that_starts_far_off_is_found_within_a_hundred_steps() -> None:
    """Of 0.02, where learning starts at 0.3: as one parameter among others it would be at 0.22 yet."""
    x = 0.02 * torch.randn(400, 6, generator=stream(0))
    rows = Rows("train", x, torch.arange(400))
    found = train(VAE.build((6,), NETS["mlp"][1]), rows, rows, TrainSettings(epochs=100, batch=200, warmup=0.0))
    assert found.vae.likelihood.log_scale.exp().item() < 0.03


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_the_average_follows_its_recursion_and_leaves_the_parameters_alone(net: str) -> None:
    """The weight of the newest step is 10 / (t + 9): the first step whole, the last tenth later on."""
    shape, architecture = NETS[net]
    model, (rows, _) = VAE.build(shape, architecture), data(shape)
    descent = Descent(model, 1e-2)
    mean = [p.detach().double() for p in model.parameters()]
    for step in range(1, 41):
        a, b = model.elbo_terms(rows.x, rng=stream(step))
        descent.step((b - a).mean())
        last = [p.detach().double() for p in model.parameters()]
        mean = [m + 10 / (step + 9) * (p - m) for m, p in zip(mean, last, strict=True)]
    with descent.averaged():
        for p, m in zip(model.parameters(), mean, strict=True):
            torch.testing.assert_close(p.detach().double(), m, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(p.detach().double(), q) for p, q in zip(model.parameters(), last, strict=True))


def test_an_old_step_has_lost_its_weight_in_the_average() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    descent = Descent(model, 1e-9)
    for value, steps in ((5.0, 6000), (1.0, 500), (1.0, 2500)):
        torch.nn.init.constant_(model.weight, value)
        for _ in range(steps):
            descent.step(0.0 * model.weight.sum())
        with descent.averaged():
            if steps == 500:  # as many steps as the average is over: e times less is left of what was before
                assert model.weight.item() == pytest.approx(1 + 4 * math.exp(-1), rel=0.01)
    with descent.averaged():
        assert model.weight.item() == pytest.approx(1 + 4 * math.exp(-6), rel=0.01)


def test_the_kept_model_and_its_scores_are_those_of_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, last = {}, {}
    real = training.snapshot

    def snapshot(vae, descent, epoch, *rest):
        last[epoch] = evaluate(vae, data((6,))[1])
        with descent.averaged():
            kept[epoch] = evaluate(vae, data((6,))[1])
        return real(vae, descent, epoch, *rest)

    monkeypatch.setattr(training, "snapshot", snapshot)
    found = run()
    scores = [h["selection"] for h in found.history]
    assert scores == [kept[e] for e in range(1, 7)]
    assert scores != [last[e] for e in range(1, 7)]
    assert evaluate(found.vae, data((6,))[1]) == scores[found.epoch - 1]


def test_cpu_seconds_go_on_from_the_checkpoint_and_change_no_hash(tmp_path: Path) -> None:
    whole = run()
    assert 0 < whole.seconds < 60
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "c", progress=interrupt(3))
    saved = artifact.read(tmp_path / "c")
    assert saved.measured["seconds"] > 0
    artifact.note(tmp_path / "c", {"seconds": 1000.0})
    assert artifact.read(tmp_path / "c").hash == saved.hash
    again = run(checkpoint=tmp_path / "c")
    assert 1000 < again.seconds < 1060
    assert same(again, whole)
    (tmp_path / "c" / "measured.json").unlink()  # as versions before this one left it
    assert same(run(checkpoint=tmp_path / "c"), whole)


def test_a_checkpoint_of_another_selection_split_is_not_gone_on_from(tmp_path: Path) -> None:
    shape, architecture = NETS["mlp"]
    run(checkpoint=tmp_path / "c")
    rows, selection = data(shape)
    for other, first in ((selection, FAST.epochs), (replace(selection, x=1 - selection.x), 0)):
        seen: list[int] = []
        model = VAE.build(shape, architecture)
        train(
            model,
            rows,
            other,
            FAST,
            checkpoint=tmp_path / "c",
            progress=lambda _, done, n, seen=seen: seen.append(done),
        )
        assert seen[0] == first


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_decoder_begins_at_the_mean_of_the_training_rows(tmp_path: Path, network: str) -> None:
    rng = stream(0)
    x = 0.05 * torch.rand(60, 1, 8, 8, generator=rng) + torch.linspace(0, 3, 8)
    np.savez(tmp_path / "x.npz", x=x.numpy())
    data = load_data(DataSettings(str(tmp_path / "x.npz")))
    rows = data.rows("train")
    model, plain = (VAE.build(data.shape, VAESettings(latents=2, network=network, width=4), seed=0) for _ in range(2))
    begun(model, rows)
    wanted = rows.x.mean(0) if network == "mlp" else rows.x.mean().expand(1, 8, 8)
    with torch.no_grad():
        z = torch.zeros(1, 2)
        bias = plain.decoder.out.bias.view(1, 8, 8) if network == "mlp" else plain.decoder.conv[-1].bias
        torch.testing.assert_close(model.decoder(z)[0], plain.decoder(z)[0] - bias + wanted, atol=1e-4, rtol=1e-4)


def begun(vae: VAE, rows: Rows) -> None:
    """Train with so small a rate that hardly anything but the first bias changes."""
    train(vae, rows, rows, replace(FAST, epochs=1, lr=1e-9), seed=0)


def test_what_was_trained_goes_on_from_where_it_is() -> None:
    rows, selection = data((6,))
    vae = run(settings=replace(FAST, epochs=1)).vae
    assert not vae.fresh
    before = vae.decoder.out.bias.detach().clone()
    begun(vae, rows)
    torch.testing.assert_close(vae.decoder.out.bias, before, atol=1e-5, rtol=0)
    other = VAE(vae.encoder, vae.decoder, vae.likelihood, latents=vae.latents)  # of one's own networks
    begun(other, selection)
    torch.testing.assert_close(vae.decoder.out.bias, before, atol=1e-5, rtol=0)


def test_a_decoder_of_ones_and_zeros_begins_at_the_logit_of_their_proportion(tmp_path: Path) -> None:
    x = torch.zeros(60, 1, 8, 8)
    x[::2, :, 4:] = 1.0
    np.savez(tmp_path / "x.npz", x=x.numpy())
    found = load_data(DataSettings(str(tmp_path / "x.npz"), binarise=True, keep_duplicates=True))
    vae = VAE.build(found.shape, VAESettings(latents=2, network="mlp", likelihood="bernoulli"), seed=0)
    begun(vae, found.rows("train"))
    bias = vae.decoder.out.bias.sigmoid().view(8, 8)
    share = found.rows("train").x.mean(0)[0]
    torch.testing.assert_close(bias[:4], torch.full((4, 8), 0.01), atol=1e-4, rtol=0)  # rare, not impossible
    torch.testing.assert_close(bias[4:], share[4:], atol=1e-4, rtol=0)
