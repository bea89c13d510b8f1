"""Feature spaces: what `auto` takes, what the networks learn, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from zprime.data import Rows
from zprime.descent import Cycle
from zprime.errors import ArrayError, UsageError
from zprime.measure.samples.features import WIDTH, build_features, train_classifier, train_rotations
from zprime.networks import gradient_step
from zprime.rng import stream


def pictures(n: int = 240, *, labels: bool = True, seed: int = 0) -> Rows:
    """8 x 8 images with a bright bar: on top (label 3) or on the left (label 7), and a dot that marks the corner."""
    rng = stream(seed, "pictures")
    y = torch.randint(2, (n,), generator=rng)
    x = 0.1 * torch.rand(n, 1, 8, 8, generator=rng)
    x[y == 0, :, 1, 1:7] = 1
    x[y == 1, :, 1:7, 1] = 1
    x[:, :, 6, 2:5] = 0.7
    x[:, :, 0, 7] = 1
    return Rows("train", x, torch.arange(n), 3 + 4 * y if labels else None)


def columns(n: int = 60, *, labels: bool = False) -> Rows:
    x = torch.randn(n, 5, generator=stream(0, "columns"))
    return Rows("train", x, torch.arange(n), (x[:, 0] > 0).long() if labels else None)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 12)


def test_a_classifier_learns_and_keeps_the_labels_names() -> None:
    net = train_classifier(pictures(), seed=0)
    assert net is not None
    found = net.accuracy(pictures(100, seed=1), seed=0)
    assert found.value > 0.95
    assert set(net.label(pictures(50, seed=2).x).tolist()) == {3, 7}
    assert net.features(pictures(10).x).shape == (10, WIDTH)
    with pytest.raises(ArrayError, match="train: expected labels, got none"):
        net.accuracy(pictures(10, labels=False), seed=0)


def test_no_labels_or_one_only_train_no_classifier() -> None:
    assert train_classifier(pictures(labels=False), seed=0) is None
    rows = pictures(20)
    assert train_classifier(Rows("train", rows.x, rows.ids, torch.zeros(20, dtype=torch.long)), seed=0) is None


def test_rotations_are_learned_without_labels() -> None:
    net = train_rotations(pictures(1000, labels=False), seed=0)
    x = pictures(40, seed=3).x
    turned = [net.label(torch.rot90(x, k, (2, 3))) == k for k in range(4)]
    assert float(torch.stack(turned).double().mean()) > 0.7  # one in four by chance


def test_auto_takes_what_the_data_allow() -> None:
    def name(rows: Rows) -> str:
        classifier = train_classifier(rows, seed=0)
        return build_features("auto", rows, encoder=None, classifier=classifier, seed=0).name

    assert name(pictures()) == "classifier"
    assert name(pictures(labels=False)) == "selfsupervised"
    assert name(columns()) == "columns"  # of four columns nobody says that they are pixels
    assert name(replace(columns(), x=columns().x.mul(5).exp().floor())) == "log-counts"
    assert name(columns(labels=True)) == "classifier"


def test_counts_are_compared_by_their_logarithms() -> None:
    rows = columns()
    rows = replace(rows, x=rows.x.mul(5).exp().floor())
    about = {"encoder": None, "classifier": None, "seed": 0}
    space = build_features("log-counts", rows, **about)
    torch.testing.assert_close(space.of(rows.x), rows.x.log1p().double())
    assert str(rows.x.shape[1]) in space.says
    with pytest.raises(UsageError, match="log-counts"):
        build_features("log-counts", columns(), **about)


def test_pixels_codes_and_your_own() -> None:
    class Halve:
        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :2] / 2, torch.ones(len(x), 2)

    rows = columns()
    about = {"encoder": Halve(), "classifier": None, "seed": 0}
    torch.testing.assert_close(build_features("pixels", rows, **about).of(rows.x), rows.x.double())
    torch.testing.assert_close(build_features("codes", rows, **about).of(rows.x), rows.x[:, :2].double() / 2)
    own = build_features(lambda x: x.square(), rows, **about)
    assert own.name == "own"
    torch.testing.assert_close(own.of(rows.x), rows.x.square().double())


def test_the_same_seed_gives_the_same_features_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pictures(60)
    nets = [train_classifier(rows, seed=s) for s in (0, 0, 1)]
    a, b, c = (n.features(rows.x) for n in nets if n is not None)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    whole = build_features("classifier", rows, encoder=None, classifier=nets[0], seed=0).of(rows.x)
    monkeypatch.setattr("zprime.measure.samples.features.APPLY", 7)
    again = build_features("classifier", rows, encoder=None, classifier=nets[0], seed=0).of(rows.x)
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-5)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(36, 3))
    return image.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
def test_a_cycle_is_torchs_to_the_bit(steps: int) -> None:
    ours, theirs = network(), network()
    cycle = Cycle(ours.parameters(), 0.1, steps)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=steps)
    rng = stream(0, "cycle")
    for done in range(steps):
        x, y = torch.rand(9, 1, 8, 8, generator=rng), torch.randint(3, (9,), generator=rng)
        group = adam.param_groups[0]
        assert cycle.rates(done) == (group["lr"], group["betas"][0])
        gradient_step(adam, nn.functional.cross_entropy(theirs(x), y))
        cycle.step(nn.functional.cross_entropy(ours(x), y))
        schedule.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    with pytest.raises(ValueError, match=f"cycle: expected at most {steps} steps, got one more"):
        cycle.step(ours(torch.rand(1, 1, 8, 8)).sum())


def test_training_a_classifier_does_not_load_torchs_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from zprime.data import Rows\n"
        "from zprime.measure.samples.features import train_classifier\n"
        "rows = Rows('train', torch.rand(20, 1, 8, 8), torch.arange(20), torch.arange(20) % 2)\n"
        "train_classifier(rows, seed=0)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_refusals(unchecked: None) -> None:
    rows = columns()
    for wanted, sentence in (
        (
            "inception",
            "features: expected auto, pixels, columns, log-counts, codes, classifier, selfsupervised, or a function",
        ),
        ("classifier", "features: classifier needs training rows with two labels or more"),
        ("selfsupervised", r"features: selfsupervised needs square images of at least 8 x 8 .*, got \[5\]"),
        ("codes", "features: codes need the model's encoder"),
    ):
        with pytest.raises(UsageError, match=sentence):
            build_features(wanted, rows, encoder=None, classifier=None, seed=0)
    with pytest.raises(ArrayError, match=r"features own: expected \[60, f\] for 60 rows, got \[1, 60, 5\]"):
        build_features(lambda x: x[None], rows, encoder=None, classifier=None, seed=0).of(rows.x)
    with pytest.raises(ArrayError, match="features own: expected finite numbers, got nan"):
        build_features(lambda x: x / 0 * 0, rows, encoder=None, classifier=None, seed=0).of(rows.x)


def test_auto_never_takes_the_codes_of_the_vae_itself() -> None:
    class Own:
        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            raise AssertionError("auto asked the encoder")

    counts = Rows("train", torch.poisson(torch.full((60, 4), 3.0), generator=stream(0, "counts")), torch.arange(60))
    for rows, name in ((columns(), "columns"), (counts, "log-counts"), (pictures(labels=False), "selfsupervised")):
        found = build_features("auto", rows, encoder=Own(), classifier=None, seed=0)
        assert found.name == name
        assert torch.isfinite(found.of(rows.x)).all()
    net = train_classifier(columns(labels=True), seed=0)
    assert build_features("auto", columns(labels=True), encoder=Own(), classifier=net, seed=0).name == "classifier"
