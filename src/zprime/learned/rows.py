"""Priors made of the training rows: a Gaussian for each, the row that a code belongs to left out.

To encode every row at every step would cost too much. So codes are kept, from the beginning of the epoch or from the
last step that looked at the row, and each step encodes again, with gradients, the rows that matter most to its batch:
the nearest neighbours under the codes that are kept (after Norouzi et al. 2020, section 3.2, who drop all others).
"""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.posteriors import MemoryPosteriors
from zprime.trainable_prior import Encode, TrainablePrior

BATCH = 512  # rows that are encoded at once where nothing is trained
PAIRS = 1 << 24  # of code and row, whose terms are held at once while neighbours are looked for


@torch.no_grad()
def encoded(encode: Encode, x: Float[Tensor, "n *datum"]) -> MemoryPosteriors:
    """The posteriors of all rows, batch by batch, without gradients."""
    parts = [encode(x[block]) for block in blocks(len(x), BATCH)]
    return MemoryPosteriors(torch.cat([mean for mean, _ in parts]), torch.cat([scale for _, scale in parts]))


def log_terms(
    z: Float[Tensor, "b d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"] | Float[Tensor, ""]
) -> Float[Tensor, "b n"]:
    """Log N(z; mean_j, diag(scale_j^2)) in nats for every pair, float64, by matrix products; `scale` may be one number.

    Expanded squares cancel: in float64 the error is below 1e-9 nats where scales are 1e-3 of the codes' range.
    """
    z, mean, scale = z.double(), mean.double(), scale.double()
    centre = mean.mean(0).detach()
    z, mean = z - centre, mean - centre
    d = z.shape[1]
    if scale.ndim == 0:
        square = (z.square().sum(1)[:, None] + mean.square().sum(1) - 2 * (z @ mean.T)) / scale.square()
        volume = d * scale.log()
    else:
        precision = scale.square().reciprocal()
        square = z.square() @ precision.T - 2 * (z @ (mean * precision).T) + (mean.square() * precision).sum(1)
        volume = scale.log().sum(1)
    return -0.5 * square.clamp(min=0) - volume - 0.5 * d * LOG_2PI


class RowsPrior(TrainablePrior):
    """`p(z | i) = 1/(N - 1) sum_{j != i} N(z; mean_j, scale_j^2)` for a code z of training row i.

    Without a row it is the mean over all N. Where gradients are off it is the prior as `refresh` left it.
    """

    def __init__(self, again: int) -> None:
        super().__init__()
        self.again = again
        """Rows that every step encodes again; 0 for all."""
        self._mean, self._scale = torch.empty(0, 0), torch.empty(0, 0)
        self._chosen = torch.empty(0, dtype=torch.int64)
        self._now: LatentDistribution | None = None

    def extra_repr(self) -> str:
        """What is not among its modules."""
        return f"again={self.again}"

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
        self.start(self._mean, self._scale)
        self._now = self.frozen()

    def start(self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> None:
        """Set the first values of the parameters, if there are any."""
        return

    @abstractmethod
    def widths(self, scale: Float[Tensor, "k d"]) -> Float[Tensor, "k d"] | Float[Tensor, ""]:
        """Standard deviations of the Gaussians of rows whose posteriors have these."""

    @abstractmethod
    def frozen(self) -> LatentDistribution:
        """All N Gaussians as they are kept now."""

    def refresh(self) -> None:
        """Encode all rows with the encoder as it is."""
        self._encode_all()
        self._chosen = self._chosen[:0]
        self._now = self.frozen()

    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Choose the rows that are encoded again: those with the largest shares of the densities at the batch's codes.

        By the codes that are kept, so that all processes of a job choose the same.
        """
        n = len(self._mean)
        if not 0 < self.again < n:
            self._chosen = torch.arange(n, device=self._mean.device)
            return
        share = torch.zeros(n, dtype=torch.float64, device=self._mean.device)
        with torch.no_grad():
            scale = self.widths(self._scale)
            for block in blocks(len(rows), max(1, PAIRS // n)):
                some = rows[block]
                terms = log_terms(self._mean[some], self._mean, scale)
                terms[torch.arange(len(some)), some] = -math.inf
                share += terms.softmax(1).sum(0)
        self._chosen = share.topk(self.again).indices.sort().values

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Under the Gaussians of all other rows; the codes of those chosen by `before_batch` carry gradients."""
        if not torch.is_grad_enabled() and rows is None and self._now is not None:
            return self._now.log_prob(z).to(z)
        n, chosen, parts = len(self._mean), self._chosen, []
        if len(chosen):
            mean, scale = self.encode(self.x[chosen])
            self._mean[chosen], self._scale[chosen] = mean.detach(), scale.detach()
            terms = log_terms(z, mean, self.widths(scale))
            parts.append(terms if rows is None else terms.masked_fill(chosen == rows[:, None], -math.inf))
        if len(chosen) < n:
            terms = log_terms(z, self._mean.clone(), self.widths(self._scale.clone()))
            out = torch.zeros(1, n, dtype=torch.bool, device=z.device)
            out[0, chosen] = True
            if rows is not None:
                out = out | (torch.arange(n, device=z.device) == rows[:, None])
            parts.append(terms.masked_fill(out, -math.inf))
        total = torch.logsumexp(torch.cat(parts, 1), 1)
        return (total - math.log(n if rows is None else n - 1)).to(z)

    def _encode_all(self) -> None:
        found = encoded(self.encode, self.x)
        self._mean, self._scale = found.mean, found.scale
