"""How far reconstructions miss the rows, beside the standard deviation of p(x|z)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.bring.probe import looks_like

OFF = 3.0  # a scale of p(x|z) this many times off what reconstructions miss by is spoken of


def misfit(p: Distribution, x: Float[Tensor, "n *datum"]) -> "Misfit | None":
    """How far reconstructions miss the rows, and what p(x|z) says of it; None where p(x|z) is discrete or bare.

    `p` is what the decoder answers to the encoder's means of the rows `x`, as `probe` returns it.
    """
    try:
        if p.support is None or p.support.is_discrete:
            return None
        missed, scale = float((x - p.mean).square().mean().sqrt()), float(p.variance.mean().sqrt())
    except NotImplementedError:  # some distributions have no moments, or no support
        return None
    return Misfit(len(x), missed, scale, looks_like(p.mean.double().flatten(1), x.double().flatten(1)))


@dataclass(frozen=True)
class Misfit:
    """Errors of reconstructions beside the standard deviation of p(x|z).

    Attributes:
        rows: how many were looked at.
        missed: root mean square error of reconstructions.
        scale: root mean variance of p(x|z).
        like: the scaling of the rows that reconstructions look like, if they do not look like the rows.
    """

    rows: int
    missed: float
    scale: float
    like: str | None

    @property
    def tempering(self) -> float:
        """What log p(x|z) counts, up to a constant, under the standard deviation that reconstructions miss by."""
        return (self.scale / self.missed) ** 2 if self.missed > 0 else 1.0

    def says(self) -> tuple[str, ...]:
        """What to know of it: gains and verdict depend on the standard deviation."""
        if self.like:
            return (
                f"reconstructions look like {self.like} of the rows x: they miss x by {self.missed:.3g} (root mean "
                f"square), and {self.like} by a third of that or less; were the networks trained on {self.like}? Give "
                "the rows so",
            )
        if not self.missed > 0 or 1 / OFF <= self.missed / self.scale <= OFF:
            return ()
        return (
            f"reconstructions of {self.rows} training rows miss by {self.missed:.3g} (root mean square), and p(x|z) "
            f"has a standard deviation of {self.scale:.3g}: if that is not the sigma of the loss that the VAE was "
            "trained with, gains and verdict are of another model; likelihoods.Gaussian.from_loss tells that of a "
            "loss",
        )
