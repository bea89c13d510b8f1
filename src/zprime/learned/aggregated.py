"""aggregated: the mixture of the posteriors of all other training rows, as the prior of each row in training."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.latent.aggregated import Aggregated
from zprime.learned.rows import LearnedRows, RowsPrior
from zprime.learned.settings import cannot_go_on, check_kind
from zprime.trainable_prior import TrainablePrior


@final
class TrainableAggregated(RowsPrior):
    """The posteriors of all rows."""

    def widths(self, scale: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """Their own."""
        return scale

    def frozen(self) -> Aggregated:
        """All N posteriors."""
        return Aggregated(self._mean.clone(), self._scale.clone())


@final
@dataclass(frozen=True)
class AggregatedPrior(LearnedRows):
    """`p(z) = 1/N sum_j q(z|x_j)`, in training without the row that z belongs to. It has no parameters of its own.

    Of all priors it gives the training rows the largest ELBO (Hoffman & Johnson 2016). With the own row left in, the
    KL term of a row would be at most log N nats, however narrow its posterior is; so it is left out.

    Attributes:
        near, again: see `LearnedRows`.
    """

    kind: ClassVar[str] = Aggregated.kind
    trained: ClassVar[type[RowsPrior]] = TrainableAggregated

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """The posteriors of all training rows, which `r` consists of.

        Raises:
            UsageError: it is no aggregated posterior, or one of weighted rows.
        """
        check_kind(self, r)
        assert isinstance(r, Aggregated)
        if r.weights is not None:
            raise cannot_go_on(r, "was fitted to weighted rows")
        return self.make(r.d)
