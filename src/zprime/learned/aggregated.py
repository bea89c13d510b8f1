"""aggregated: the mixture of the posteriors of all other training rows, as the prior of each row in training."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.latent.aggregated import Aggregated
from zprime.learned.rows import RowsPrior, check_counts
from zprime.learned.settings import LearnedPrior, cannot_go_on, check_kind
from zprime.trainable_prior import TrainablePrior


@final
@dataclass(frozen=True)
class AggregatedPrior(LearnedPrior):
    """`p(z) = 1/N sum_j q(z|x_j)`, in training without the row that z belongs to. It has no parameters of its own.

    Of all priors it gives the training rows the largest ELBO (Hoffman & Johnson 2016). With the own row left in, the
    KL term of a row would be at most log N nats, however narrow its posterior is; so it is left out.

    Attributes:
        near: rows that are in the sum of a step, those that count most at its batch; 0 for all. The ELBO that stops
            training has all rows in its sum.
        again: of these the rows that a step encodes again, with gradients: those that count most. The codes of others
            are from the beginning of the epoch, or later. 0 encodes all rows at every step.
    """

    kind: ClassVar[str] = Aggregated.kind
    near: int = 1024
    again: int = 128

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        check_counts(self.near, self.again)

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return TrainableAggregated(self.near, self.again)

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """The posteriors of all training rows, which `r` consists of.

        Raises:
            UsageError: it is no aggregated posterior, or one of weighted rows.
        """
        check_kind(self, r)
        assert isinstance(r, Aggregated)
        if r.weights is not None:
            raise cannot_go_on(r, "was fitted to weighted rows")
        return TrainableAggregated(self.near, self.again)


@final
class TrainableAggregated(RowsPrior):
    """The posteriors of all rows."""

    def widths(self, scale: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """Their own."""
        return scale

    def frozen(self) -> Aggregated:
        """All N posteriors."""
        return Aggregated(self._mean.clone(), self._scale.clone())
