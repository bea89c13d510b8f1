"""Samples of x', decoded once and searched once; every measure uses the same rows."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zprime.measure.samples.copying import Neighbours, TrainingSet
from zprime.measure.samples.features import Classifier, Features
from zprime.measure.study import Study
from zprime.rng import fork

DRAWS = 0.25  # of the rows: whose decoder draws are searched too


@dataclass(frozen=True)
class Sample:
    """Rows in random order, with their features, labels and nearest training rows.

    Attributes:
        x: decoder means or draws, whichever fidelity is measured on, in the model's scaled units.
        shown: the first decoder means, for pictures.
        features: of `x`.
        other: features of the other form, draws beside means or means beside draws; None where there is none.
        labels: of `x`, by the classifier; None without labels.
        means: nearest training rows of the decoder means.
        draws: nearest training rows of decoder draws, for the first quarter of the rows; None for rows that were not
            decoded.
    """

    x: Float[Tensor, "n *datum"]
    shown: Float[Tensor, "g *datum"]
    features: Float[Tensor, "n f"]
    other: Float[Tensor, "n f"] | None
    labels: Int[Tensor, " n"] | None
    means: Neighbours
    draws: Neighbours | None

    def mixed(self, other: "Sample", coin: Bool[Tensor, " n"]) -> "Sample":
        """A sample of a mixture: `other`'s rows where the coin is True, its own elsewhere; nothing is decoded again."""
        return Sample(
            _pick(self.x, other.x, coin),
            _pick(self.shown, other.shown, coin),
            _pick(self.features, other.features, coin),
            None if self.other is None or other.other is None else _pick(self.other, other.other, coin),
            None if self.labels is None or other.labels is None else _pick(self.labels, other.labels, coin),
            _join(self.means, other.means, coin),
            None if self.draws is None or other.draws is None else _join(self.draws, other.draws, coin),
        )


@dataclass(frozen=True)
class Sampler:
    """What turns latents into samples.

    Attributes:
        study: with the decoder, and how many rows of each sample are kept for pictures.
        training: the training set, searched.
        features: the feature space.
        classifier: that labels rows, or None.
        noise: `mean` or `draw`: what fidelity is measured on.
        both: whether the other form is looked at too; not of discrete data, where a mean is no datum.
    """

    study: Study
    training: TrainingSet
    features: Features
    classifier: Classifier | None
    noise: str
    both: bool

    def sample(self, z: Float[Tensor, "n d"], *, rng: torch.Generator) -> Sample:
        """Decode latents; find features, labels and nearest training rows."""
        mean, draw = self.study.decode_both(z, rng=fork(rng, "draw"))
        some = max(1, round(DRAWS * len(z)))
        x, other = (mean, draw) if self.noise == "mean" else (draw, mean)
        # images are shown as decoder means; rows of a table as they are compared
        made = self._look(x, mean if mean.ndim > 2 else x, self.training.neighbours(mean))
        return replace(
            made, other=self.features.of(other) if self.both else None, draws=self.training.neighbours(draw[:some])
        )

    def rows(self, x: Float[Tensor, "n *datum"]) -> Sample:
        """The same of rows that need no decoding."""
        return self._look(x, x, self.training.neighbours(x))

    def _look(self, x: Tensor, shown: Tensor, means: Neighbours) -> Sample:
        shown = shown[: self.study.settings.grid].clone()
        return Sample(x, shown, self.features.of(x), None, self._label(x), means, None)

    def _label(self, x: Tensor) -> Tensor | None:
        return None if self.classifier is None else self.classifier.label(x)


def _pick(a: Tensor, b: Tensor, coin: Tensor) -> Tensor:
    return torch.where(coin[: len(a)].reshape(-1, *[1] * (a.ndim - 1)), b, a)


def _join(a: Neighbours, b: Neighbours, coin: Tensor) -> Neighbours:
    take: Callable[[str], Tensor] = lambda name: _pick(getattr(a, name), getattr(b, name), coin)  # noqa: E731
    return Neighbours(*(take(f.name) for f in fields(Neighbours)))
