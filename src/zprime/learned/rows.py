"""Priors made of the training rows: a Gaussian for each, the row that a code belongs to left out.

To encode every row at every step would cost too much. So codes are kept, from the beginning of the epoch or from the
last step that looked at the row, and each step encodes again, with gradients, the rows that matter most to its batch:
the nearest neighbours under the codes that are kept. More of them are in its sum with the codes that are kept, and the
others, whose part is small, are left out (after Norouzi et al. 2020, section 3.2).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.distribution import LatentDistribution
from zprime.encoding import encoded
from zprime.errors import UsageError
from zprime.learned.settings import LearnedPrior, at_least
from zprime.trainable_prior import Encode, TrainablePrior

PAIRS = 1 << 24  # of code and row, whose terms are held at once while neighbours are looked for


def log_terms(
    z: Float[Tensor, "b d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "b n"]:
    """Log N(z; mean_j, diag(scale_j^2)) in nats for every pair, by one matrix product.

    Expanded squares cancel: in float64 the error is below 1e-9 nats where scales are 1e-3 of the codes' range.
    """
    z, mean, scale = z.to(dtype), mean.to(dtype), scale.to(dtype)
    centre = mean.mean(0).detach()
    z, mean = z - centre, mean - centre
    precision = scale.square().reciprocal()
    constant = -0.5 * (mean.square() * precision).sum(1) - scale.log().sum(1) - 0.5 * z.shape[1] * LOG_2PI
    return torch.addmm(constant, torch.cat([z.square(), z], 1), torch.cat([-0.5 * precision, mean * precision], 1).T)


class RowsPrior(TrainablePrior):
    """`p(z | i) = 1/(N - 1) sum_{j != i} N(z; mean_j, scale_j^2)` for a code z of training row i.

    Without a row it is the mean over all N. Where gradients are off it is the prior as `refresh` left it. A step leaves
    out of the sum all but the rows that matter most to its batch: a lower bound of the density.
    """

    def __init__(self, near: int, again: int) -> None:
        super().__init__()
        self.near, self.again = near, again
        """Rows in the sum of a step, and those of them that it encodes again; 0 for all."""
        self._mean, self._scale = torch.empty(0, 0), torch.empty(0, 0)
        self._near, self._chosen = (torch.empty(0, dtype=torch.int64) for _ in range(2))
        self._now: LatentDistribution | None = None

    def extra_repr(self) -> str:
        """What is not among its modules."""
        return f"near={self.near}, again={self.again}"

    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """Encode all rows; see `start` for parameters.

        Raises:
            UsageError: fewer than two rows, of which none would be left, or an encoder with full covariances.
        """
        if len(x) < 2:
            raise UsageError(f"prior: made of the other training rows, expected two at least, got {len(x)}")
        if encode(x[:1])[1].ndim == 3:
            raise UsageError(
                "prior: made of rows, expected an encoder that gives standard deviations, got one that gives full "
                "covariances; take vamp, mixture or flow"
            )
        self.encode, self.x = encode, x
        self._encode_all()
        self._near = self._chosen = torch.arange(len(x), device=x.device)
        self.start(self._mean, self._scale)
        self._now = self.frozen()

    def start(self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> None:
        """Set the first values of the parameters, if there are any."""
        return

    @abstractmethod
    def widths(self, scale: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """Standard deviations of the Gaussians of rows whose posteriors have these."""

    @abstractmethod
    def frozen(self) -> LatentDistribution:
        """All N Gaussians as they are kept now."""

    def refresh(self) -> None:
        """Encode all rows with the encoder as it is."""
        self._encode_all()
        self._now = self.frozen()

    @torch.no_grad()
    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Choose the rows of the sum: those with the largest shares of the densities at the batch's codes.

        By the codes that are kept, so that all processes of a job choose the same.
        """
        n = len(self._mean)
        near, again = (count if 0 < count < n else n for count in (self.near, self.again))
        if again == n:
            self._near = self._chosen = torch.arange(n, device=self._mean.device)
            return
        share, scale = torch.zeros(n, device=self._mean.device), self.widths(self._scale)
        for block in blocks(len(rows), max(1, PAIRS // n)):
            some = rows[block]
            terms = log_terms(self._mean[some], self._mean, scale, torch.float32)
            terms[torch.arange(len(some)), some] = -math.inf
            share += terms.softmax(1).sum(0)
        largest = share.topk(max(near, again)).indices
        self._near, self._chosen = largest.sort().values, largest[:again].sort().values

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Under the Gaussians of other rows; the codes of those that are encoded again carry gradients."""
        if not torch.is_grad_enabled() and rows is None and self._now is not None:
            return self._now.log_prob(z).to(z)
        n, near, chosen = len(self._mean), self._near, self._chosen
        mean, scale = self.encode(self.x[chosen])
        self._mean[chosen], self._scale[chosen] = mean.detach(), scale.detach()
        if len(near) > len(chosen):
            at = torch.searchsorted(near, chosen)
            mean = self._mean[near].index_copy(0, at, mean)
            scale = self._scale[near].index_copy(0, at, scale)
        terms = log_terms(z, mean, self.widths(scale))
        if rows is not None:
            terms = terms.masked_fill(near == rows[:, None], -math.inf)
        return (torch.logsumexp(terms, 1) - math.log(n if rows is None else n - 1)).to(z)

    def _encode_all(self) -> None:
        found = encoded(self.encode, self.x)
        self._mean, self._scale = found.mean, found.scale


@dataclass(frozen=True)
class LearnedRows(LearnedPrior):
    """How to learn a prior made of the training rows.

    Attributes:
        near: rows that are in the sum of a step, those that count most at its batch; 0 for all. The ELBO that stops
            training has all rows in its sum.
        again: of these the rows that a step encodes again, with gradients: those that count most. The codes of others
            are from the beginning of the epoch, or later. 0 encodes all rows at every step.
    """

    trained: ClassVar[type[RowsPrior]]
    """What a VAE holds while it is trained."""
    near: int = 1024
    again: int = 128

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        at_least("near", self.near, 0)
        at_least("again", self.again, 0)
        if self.near and not self.again:
            raise UsageError(
                "prior: near: expected 0 with again 0, which encodes all rows at every step and leaves none out, got "
                f"{self.near}; set both to 0, or again to 1 at least"
            )
        if self.near and self.near < max(2, self.again):
            raise UsageError(
                f"prior: near: expected 0 for all rows, or 2 at least and no fewer than again, got {self.near}"
            )

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return self.trained(self.near, self.again)
