"""By label on the command line: fit, sample, and other populations by weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from test_cli import call
from zprime import latent
from zprime.cli.given import Given
from zprime.cli.settings import kinds_with
from zprime.data import DataSettings, load
from zprime.errors import ArrayError, UsageError
from zprime.fitting import load_fit
from zprime.latent import ConditionalSettings, FlowSettings, GaussianSettings, MixtureSettings
from zprime.latent.gaussian import moments
from zprime.running import Run
from zprime.training import TrainSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run on two clumps of rows, 40 and 140, with a column that counts the second only."""
    folder = tmp_path_factory.mktemp("given")
    plain = small.table(folder / "t.npz")
    with np.load(plain) as found:
        x, y = found["x"], found["y"]
    np.savez(plain, x=x, y=y, second=y.astype(float), name=np.full(len(y), "a"), grid=np.zeros((3, 4)))
    job = Run.create(folder / "run")
    job.train(DataSettings(str(plain)), small.NETWORK, TrainSettings(epochs=150, batch=32, lr=3e-3), seed=0)
    job.encode()
    return folder / "run"


def drawn(run: Path, *argv: str) -> np.ndarray:
    assert call("--quiet", "sample", run, "-n", "200", "--out", run / "s", *argv) == 0
    with np.load(run / "s.npz") as found:
        return found["x"]


def test_given_a_label_the_samples_are_of_that_label(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--quiet", "sample", run, "--given", "label=1") == 2
    said = capsys.readouterr().err
    assert "given: expected a conditional latent distribution" in said
    assert call("--quiet", "fit", run, "--kinds", "gaussian", "--by", "label") == 0
    assert latent.load(run / "latent" / "conditional-gaussian")
    low, high = (drawn(run, "--given", g).mean() for g in ("label=0", "y=1"))
    capsys.readouterr()
    assert call("sample", run, "--given", "label=0", "-n", "5", "--out", run / "few") == 0
    r = latent.load(run / "latent" / "conditional-gaussian").given(0)
    said = " ".join(capsys.readouterr().out.split())
    assert f"of label=0 ({r.least_rows:.3g} effective rows behind its smallest part)" in said
    assert low < 75 < 105 < high
    assert call("--quiet", "fit", run, "--kinds", "conditional", "--set", "conditional.base.components=1") == 0
    assert drawn(run, "--given", "label=1", "--from", "conditional").mean() > 105
    for given, text in (("label=7", "label: expected one of 0, 1, got 7"), ("digit=1", "given: expected label=NUMBER")):
        assert call("--quiet", "sample", run, "--given", given) == 2
        assert text in capsys.readouterr().err.replace("\n", " ")
    assert call("--quiet", "fit", run, "--kinds", "gaussian") == 0
    assert call("--quiet", "sample", run, "--given", "label=1", "--from", "gaussian") == 2


def test_a_shipped_generator_can_be_given_a_label(run: Path, tmp_path: Path) -> None:
    assert call("--quiet", "fit", run, "--kinds", "gaussian", "--by", "label") == 0
    Run.open(run).export("conditional-gaussian", tmp_path / "g")
    assert call("--quiet", "sample", tmp_path / "g", "--given", "label=1", "-n", "50") == 0
    with np.load(tmp_path / "samples" / "g-1.npz") as found:
        assert found["x"].mean() > 105


def test_weights_fit_another_population(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ("--quiet", "--json", "fit", run, "--kinds", "gaussian", "--weights", "second", "--name", "second")
    assert call(*fit) == 0
    assert json.loads(capsys.readouterr().out)["second"]["chosen"]["weights"] == "second"
    job = Run.open(run)
    train = job.folder.posteriors("train").gather()
    assert train.labels is not None
    mean, _ = moments(train.take((train.labels == 1).nonzero().flatten()))
    r = load_fit(run / "latent" / "second").distribution
    inner = getattr(r, "base", r)
    torch.testing.assert_close(inner.mean.double(), mean, rtol=1e-4, atol=1e-4)
    assert drawn(run, "--from", "second").mean() > 105
    made = (run / "latent" / "second" / "manifest.json").stat().st_mtime_ns
    assert call(*fit) == 0  # used again
    assert (run / "latent" / "second" / "manifest.json").stat().st_mtime_ns == made
    capsys.readouterr()
    assert call("--quiet", "fit", run, "--weights", "age") == 2
    assert "weights: expected a column of t (name, second), got 'age'" in capsys.readouterr().err.replace("\n", " ")


def column(tmp_path: Path, w: np.ndarray, **more: np.ndarray) -> torch.Tensor:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", x=rng.normal(size=(len(w), 2)), w=w, **more)
    return load(DataSettings(str(tmp_path / "c.npz"))).weights("w", "train")


def test_columns_go_with_their_rows(tmp_path: Path) -> None:
    found = load(DataSettings(str(_split_table(tmp_path))))
    for split in ("train", "selection", "heldout"):
        torch.testing.assert_close(found.weights("w", split), found.rows(split).ids.double())


def _split_table(folder: Path) -> Path:
    """Every row's weight is its number, the test part's too."""
    rng = np.random.default_rng(0)
    np.savez(
        folder / "s.npz",
        x_train=rng.normal(size=(30, 2)),
        x_test=rng.normal(size=(10, 2)),
        w_train=np.arange(30.0),
        w_test=np.arange(30.0, 40.0),
        odd_train=np.arange(7),
    )
    return folder / "s.npz"


@pytest.mark.parametrize(
    ("w", "text"),
    [
        (np.full(30, "a"), "c: expected numbers in column w, got 'a' in row 0"),
        (np.arange(30.0) - 100, r"c: expected weights >= 0 in column w, got -\d+ in row \d+"),
        (np.full(30, np.nan), "c: expected weights >= 0 in column w, got nan in row 0"),
        (np.zeros(30), "c: expected a weight above 0 in column w, got 20 zeros .train."),
    ],
)
def test_columns_that_are_no_weights_are_refused(tmp_path: Path, w: np.ndarray, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        column(tmp_path, w)


def test_settings_of_a_base_can_be_set() -> None:
    assert kinds_with(["conditional"], ["conditional.base=gaussian", "conditional.base.covariance=diagonal"]) == [
        ConditionalSettings(GaussianSettings("diagonal"))
    ]
    wanted = kinds_with(["mixture", "flow", "conditional"], ["mixture.components=3", "flow.hidden=8,8"], "y")
    assert wanted == [
        ConditionalSettings(MixtureSettings(components=3)),
        ConditionalSettings(FlowSettings(hidden=(8, 8))),
        ConditionalSettings(),
    ]
    assert kinds_with(["product-of-experts"], ["product-of-experts.label=3"])[0].label == 3  # type: ignore[attr-defined]
    assert kinds_with(["product-of-experts"], ["product-of-experts.label=none"])[0].label is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "by", "text"),
    [
        (["mixture.components=3"], "digit", "by: expected label, got 'digit'"),
        (["mixture.components.x=3"], "", "set: mixture.components has no fields of its own, got 'x'"),
        (["conditional.base=flowery"], "", "kind: expected one of prior, .*, got 'flowery'"),
        (["conditional.base.tau=3"], "", "set: mixture has .*, got 'tau'"),
        (["product-of-experts.label=three"], "", "set: product-of-experts.label expected int, got 'three'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: list[str], by: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        kinds_with(["mixture", "conditional", "product-of-experts"], changes, by)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("3", "given: expected label=NUMBER"),
        ("label", "given: expected label=NUMBER"),
        ("label=", "given: expected label=NUMBER"),
        ("label=x", "given: expected label=NUMBER"),
        ("label=nan", "given: expected label=NUMBER"),
        ("x=3", "given: expected label=NUMBER, got 'x'"),
        ("label=1.5", "given: expected one whole number as label"),
        ("label=1,2", "given: expected one whole number as label"),
        ("label=1,y=2", "given: expected one whole number as label"),
    ],
)
def test_what_is_given_has_to_be_a_label(given: str, text: str) -> None:
    def label() -> int | None:
        asked = Given.of(given)
        asked.check(())
        return asked.label

    with pytest.raises(UsageError, match=text):
        label()
    assert Given.of("label=-1").label == -1
    assert Given.of("").label is None
