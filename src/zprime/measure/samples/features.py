"""Named feature spaces in which rows are compared; the networks behind two of them are trained here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zprime.arrays import blocks, check_finite, count_columns
from zprime.data import Rows
from zprime.data.blocks import as_matrix
from zprime.descent import Cycle
from zprime.errors import ArrayError, UsageError
from zprime.measure.study import Space
from zprime.networks import ConvEncoder, MLPEncoder
from zprime.progress import Progress, silent
from zprime.results.settings import SPACES
from zprime.rng import stream
from zprime.statistics.estimate import Estimate, proportion
from zprime.vae import Encoder

TABLE = 2  # dimensions of rows without further shape
WIDTH = 32
STEPS = 800
EPOCHS = 40
BATCH = 96
RATE = 1.2e-2
TOLD = 50  # steps between two reports of progress
APPLY = 512
MOMENTS = 5000  # rows that tell mean and standard deviation of an image's entries


@dataclass(frozen=True)
class Features:
    """A feature space.

    Attributes:
        name: `pixels`, `log-counts`, `codes`, `classifier`, `selfsupervised`, or `own`.
        says: how it was made, in words.
        apply: rows -> features.
    """

    name: str
    says: str
    apply: Space

    @torch.no_grad()
    def of(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n f"]:
        """Features of rows, float64, some rows at a time.

        Raises:
            ArrayError: the space gave something else than one finite vector a row.
        """
        values = torch.cat([self.apply(x[part]) for part in blocks(len(x), APPLY)])
        if values.ndim != 2 or len(values) != len(x):
            raise ArrayError(
                f"features {self.name}: expected [{len(x)}, f] for {len(x)} rows, got {list(values.shape)}"
            )
        check_finite(f"features {self.name}", values)
        return values.double()


class Classifier(nn.Module):
    """A small network: its last hidden layer is a feature space, its output labels rows.

    Attributes:
        classes: the labels, in the order of the output.
        centre: subtracted from every entry of an image; 0 of a table.
        unit: that images are divided by then: with both it learns in half the steps.
    """

    def __init__(self, x: Float[Tensor, "n *datum"], classes: Int[Tensor, " c"]) -> None:
        super().__init__()
        shape = tuple(x.shape[1:])
        self.image = len(shape) == 3 and min(shape[1:]) >= 8
        self.classes: Tensor
        self.register_buffer("classes", classes)
        some = x[:MOMENTS].float()
        self.centre, self.unit = (float(some.mean()), float(some.std())) if self.image else (0.0, 1.0)
        self.unit = self.unit or 1.0
        if self.image:
            body = ConvEncoder(shape, 1, 16, WIDTH)
            self.trunk = nn.Sequential(body.conv, nn.Flatten(), body.dense).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            self.trunk = nn.Sequential(nn.Flatten(), MLPEncoder(shape, 1, (64, WIDTH)).body)
        self.head = nn.Linear(WIDTH, len(classes))

    def features(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n f"]:
        """The last hidden layer."""
        x = (x.float() - self.centre) / self.unit if self.image else x.float()
        hidden: Tensor = self.trunk(x.contiguous(memory_format=torch.channels_last) if self.image else x)
        return hidden

    def forward(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n c"]:
        """Logits."""
        logits: Tensor = self.head(self.features(x))
        return logits

    @torch.no_grad()
    def label(self, x: Float[Tensor, "n *datum"]) -> Int[Tensor, " n"]:
        """The likeliest label of every row."""
        at = torch.cat([self(x[part]).argmax(1) for part in blocks(len(x), APPLY)])
        return self.classes[at]

    def accuracy(self, rows: Rows, *, seed: int) -> Estimate:
        """Proportion of labelled rows that it labels rightly.

        Raises:
            ArrayError: the rows have no labels.
        """
        if rows.labels is None:
            raise ArrayError(f"{rows.name}: expected labels, got none")
        hits = int((self.label(rows.x) == rows.labels).sum())
        return proportion(hits, len(rows), unit="proportion of rows", split=rows.name, seed=seed)


def train_classifier(rows: Rows, *, seed: int, progress: Progress = silent) -> Classifier | None:
    """Train a small classifier on labelled rows; None where there are no labels, or one only."""
    if rows.labels is None:
        return None
    classes, y = torch.unique(rows.labels, return_inverse=True)
    if len(classes) < 2:
        return None
    x = rows.x

    def batch(index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return x[index], y[index]

    return _train(classes, x, batch, stream(seed, "classifier"), "classifier", progress)


def train_rotations(rows: Rows, *, seed: int, progress: Progress = silent) -> Classifier:
    """Train a network to tell by how many quarter turns an image was rotated (Gidaris et al. 2018): no labels needed.

    Raises:
        UsageError: the rows are no square images of at least 8 x 8.
    """
    x = rows.x
    if not square(tuple(x.shape[1:])):
        raise UsageError(
            f"features: selfsupervised needs square images of at least 8 x 8 (it learns to tell quarter turns apart), "
            f"got {list(x.shape[1:])}; use pixels or codes"
        )

    def batch(index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        turns = torch.randint(4, (len(index),), generator=rng)
        turned = x[index].clone()
        for k in (1, 2, 3):
            turned[turns == k] = torch.rot90(turned[turns == k], k, (2, 3))
        return turned, turns

    return _train(torch.arange(4), x, batch, stream(seed, "rotations"), "rotations", progress)


def square(shape: tuple[int, ...]) -> bool:
    """Whether rows are square images of at least 8 x 8."""
    return len(shape) == 3 and shape[1] == shape[2] >= 8


@dataclass(frozen=True)
class Entries:
    """How rows are compared entry by entry: as they are; counts in a table by log(1 + count).

    Without the logarithm a few large columns would decide the comparison.

    Attributes:
        counts: which columns hold counts; None if the rows are no table of counts.
    """

    counts: Bool[Tensor, " c"] | None = None

    @classmethod
    def fitting(cls, x: Float[Tensor, "n *datum"]) -> "Entries":
        """For these rows and others of their kind."""
        return cls(count_columns(x))

    def of(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n f"]:
        """Rows as they are compared, float32."""
        flat = x.flatten(1).float()
        return flat if self.counts is None else torch.where(self.counts, flat.clamp(min=0).log1p(), flat)

    def whole(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n f"]:
        """The same of all rows of a split, in a file where they are large; no copy of float32 rows as they are."""
        return as_matrix(x, None if self.counts is None else self.of)

    def back(self, y: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """The rows that are compared as `y`; counts among them need not be whole numbers."""
        return y if self.counts is None else torch.where(self.counts, y.expm1(), y)


def entrywise(rows: Rows) -> str:
    """Name of the space that compares such rows entry by entry."""
    return _as_they_are(rows) if Entries.fitting(rows.x).counts is None else "log-counts"


def _as_they_are(rows: Rows) -> str:
    """What entries are called: of a table they are its columns."""
    return "columns" if rows.x.ndim == TABLE else "pixels"


def build_features(
    wanted: str | Space,
    rows: Rows,
    *,
    encoder: Encoder | None,
    classifier: Classifier | None,
    seed: int,
    progress: Progress = silent,
) -> Features:
    """Make the feature space called `wanted`, or wrap a function.

    `auto` takes `classifier` where there are labels: they say which differences matter. Without labels it takes
    `selfsupervised` for square images, `log-counts` for tables of counts, whose large columns would otherwise decide
    the comparison, and otherwise `pixels`, which for tables are called `columns`. It never takes `codes`: a VAE's own
    encoder leaves out most of what its decoder cannot generate.

    Raises:
        UsageError: unknown name, or what it needs is not there.
    """
    if not isinstance(wanted, str):
        return Features("own", "a feature space of your own", wanted)
    shape = tuple(rows.x.shape[1:])
    name = wanted
    if name == "auto":
        name = "classifier" if classifier is not None else "selfsupervised" if square(shape) else entrywise(rows)
    if name in ("pixels", "columns"):
        size = int(torch.Size(shape).numel())
        return Features(_as_they_are(rows), f"the {size} entries of a row as they are", lambda x: x.flatten(1))
    if name == "log-counts":
        entries = Entries.fitting(rows.x)
        if entries.counts is None:
            raise UsageError("features: log-counts need a table whose columns are counts, got other data; use pixels")
        says = f"log(1 + count) of {int(entries.counts.sum())} columns of counts"
        return Features(name, says, entries.of)
    if name == "codes":
        if encoder is None:
            raise UsageError("features: codes need the model's encoder, got none; use pixels")
        return Features("codes", "posterior means of the VAE's own encoder", lambda x: encoder.encode(x)[0])
    if name == "classifier":
        if classifier is None:
            raise UsageError("features: classifier needs training rows with two labels or more, got none; use pixels")
        says = f"last hidden layer ({WIDTH}) of a classifier trained on the labels of {len(rows)} training rows"
        return Features("classifier", says, classifier.features)
    if name == "selfsupervised":
        net = train_rotations(rows, seed=seed, progress=progress)
        says = f"last hidden layer ({WIDTH}) of a network trained to tell quarter turns of {len(rows)} training rows"
        return Features("selfsupervised", says, net.features)
    raise UsageError(f"features: expected auto, {', '.join(SPACES)}, or a function, got {wanted!r}")


def _train(
    classes: Tensor,
    x: Tensor,
    batch: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]],
    rng: torch.Generator,
    what: str,
    progress: Progress,
) -> Classifier:
    """Adam along one cycle of the learning rate (Smith & Topin 2019), for at most 40 epochs and 800 steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.initial_seed())
        net = Classifier(x, classes)
    steps = min(STEPS, EPOCHS * -(-len(x) // BATCH))
    cycle = Cycle(net.parameters(), RATE, steps)
    for step, rows in enumerate(islice(_batches(len(x), rng), steps)):
        if step % TOLD == 0:
            progress(f"features: {what}", step, steps)
        inputs, targets = batch(rows, rng)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(net(inputs), targets)
            cycle.step(loss)
    progress(f"features: {what}", steps, steps)
    return net.eval().requires_grad_(requires_grad=False)


def _batches(n: int, rng: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Batches of row numbers without end, every row once an epoch."""
    while True:
        order = torch.randperm(n, generator=rng)
        yield from (order[part] for part in blocks(n, BATCH))
