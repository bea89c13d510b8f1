"""A trained VAE and its data, in the form that `fit`, `audit` and `sample` take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.data import Rows
from zprime.distribution import LatentDistribution, is_standard
from zprime.encoding import encode
from zprime.errors import ArrayError, UsageError
from zprime.latent.kind import Context
from zprime.posteriors import Posteriors
from zprime.sampling import GenerativeModel, check_rows
from zprime.vae import Model

LOOK = 2  # rows that are decoded to see whether the shapes fit


@dataclass(frozen=True)
class Brought:
    """What an adapter returns: encoder and decoder, prior, data, conditions; and what q(z|x) stands for.

    Attributes:
        posteriors: of the train, selection and held-out rows.
        model: encoder and decoder, or None for bare arrays. Conditions, where the decoder takes any, are entries of a
            row, and p(x|z) is then p(x|z, conditions of x).
        rows: the rows themselves, or None.
        prior: what the VAE was trained with; None stands for N(0, I). A learned one (pythae's VAMP) is a candidate like
            any other, and gains are over N(0, I).
        says: what to know of this model before reading an audit: sentences.
        groups: split -> integers, where rows come in groups, for `audit(..., groups=...)`; None where they do not.
    """

    posteriors: Mapping[str, Posteriors]
    model: Model | None = None
    rows: Mapping[str, Rows] | None = None
    prior: LatentDistribution | None = None
    says: tuple[str, ...] = ()
    groups: Mapping[str, Int[Tensor, " n"]] | None = None

    @property
    def splits(self) -> dict[str, Any]:
        """What `fit` takes after the kind: `fit(kind, **splits)`."""
        return {
            "train": self.posteriors["train"],
            "selection": self.posteriors["selection"],
            "context": self.context,
        }

    @property
    def context(self) -> Context | None:
        """Model and rows, for kinds that ask for them."""
        if self.model is None or self.rows is None:
            return None
        return Context(self.model, self.rows["train"], self.rows["selection"])

    def generator(
        self, latent: LatentDistribution, *, copying: str = "untested", allow_rows: bool = False
    ) -> GenerativeModel:
        """The decoder with another latent distribution: what `sample` takes. x' is in the units of the rows.

        Args:
            latent: where z' is drawn from.
            copying: what `audit.copying(name)` says of it.
            allow_rows: take it even if it stores functions of single training rows.

        Raises:
            UsageError: there is no decoder, or `latent` stores rows and that is not allowed.
        """
        check_rows(latent, allow_rows=allow_rows)
        if self.model is None:
            raise UsageError("generator: bare arrays have no decoder; draw z' by latent.sample(n, rng=...)")
        return GenerativeModel(latent, self.model, torch.zeros(()), torch.ones(()), copying=copying)


def check_prior(prior: LatentDistribution | None, d: int) -> None:
    """Accept a prior that is N(0, I), which None stands for.

    Raises:
        UsageError: another prior.
    """
    if prior is None or (is_standard(prior) and prior.d == d):
        return
    raise UsageError(
        f"prior: expected None or Prior({d}), which is N(0, I) in {d} dimensions, got {prior.label} in {prior.d}; "
        "other priors are not supported yet"
    )


def bring(
    model: Model, rows: Mapping[str, Rows], *, prior: LatentDistribution | None = None, says: tuple[str, ...] = ()
) -> Brought:
    """Encode all rows, after a check that encoder, decoder and rows belong together.

    Raises:
        ArrayError: see `look`.
        NumericalError: the encoder gave NaN, infinity or a scale that is not above 0.
    """
    look(model, rows["train"].x[:LOOK])
    return Brought({s: encode(model, r) for s, r in rows.items()}, model, rows, prior, says, groups_of(rows))


def groups_of(rows: Mapping[str, Rows]) -> dict[str, Int[Tensor, " n"]] | None:
    """The groups of the rows of each split, None where they come in none."""
    return {s: r.groups for s, r in rows.items() if r.groups is not None} or None


@torch.no_grad()
def look(model: Model, x: Float[Tensor, "n *datum"]) -> None:
    """Encode and decode some rows.

    Raises:
        ArrayError: p(x|z) is of data of another shape than the rows are.
    """
    event = model.decode(model.encode(x)[0]).event_shape
    if event != x.shape[1:]:
        raise ArrayError(
            f"decode: expected p(x|z) of data of shape {list(x.shape[1:])}, as the rows are, got {list(event)}; "
            "reshape the rows, or the decoder's answer, so that they agree"
        )
