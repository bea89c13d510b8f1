"""log-pool: the normalised geometric mean of all posteriors, closest to them in reverse KL."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from zprime.latent.centre import GAUSSIANS, NO_AVERAGE, Centre, Natural, averages, from_precision, precisions, shifts
from zprime.latent.kind import About, Fit, Outcome, Settings, Task
from zprime.posteriors import Form, Posteriors, Shard


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogPool(Centre):
    """One Gaussian, about as narrow as a single posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "log-pool"
    only_shown: ClassVar[bool] = True


@final
@dataclass(frozen=True)
class LogPoolSettings(Settings):
    """Nothing to set: the minimiser of `sum w_i KL(r || q_i)` over all r, the logarithmic opinion pool.

    r is proportional to `prod q_i^w_i` (Genest & Zidek 1986): for Gaussians of covariance S_i the one of precision
    `L = sum w_i S_i^-1` and mean `L^-1 sum w_i S_i^-1 mu_i` (docs/theory.md, section 1).
    """

    kind: ClassVar[str] = LogPool.kind
    about: ClassVar[About] = About(
        "2d numbers", "one pass", "to see that the reverse-KL average collapses; never to generate"
    )
    quick: ClassVar[bool] = True
    takes: ClassVar[frozenset[Form]] = GAUSSIANS
    instead_of_parts: ClassVar[str] = NO_AVERAGE

    def fit(self, task: Task) -> Fit[LogPool]:
        """Add up precisions, shard by shard; a row counts by its weight times its precision."""
        if task.train.form == "full":
            sums = Natural.of(task.train, task.train.log_weights.exp())
            mean, tril = from_precision(sums.precision, sums.shift)
            pool = LogPool(mean.to(sums.dtype), tril.to(sums.dtype), sums.least_rows)
            return Fit(pool, Outcome(message="exact, in closed form"))
        (precision, shift), dtype = averages(task.train, precisions, shifts)
        pool = LogPool((shift / precision).to(dtype), precision.rsqrt().to(dtype), _least_rows(task.train))
        return Fit(pool, Outcome(message="exact, in closed form"))


def _least_rows(posteriors: Posteriors) -> float:
    """Effective rows in the dimension where they are fewest."""
    total, square = posteriors.total(_shares)
    return float((total.square() / square).min())


def _shares(posteriors: Posteriors, s: Shard) -> list[Tensor]:
    share = posteriors.log_weights_of(s.rows).exp()[:, None] * precisions(s)
    return [share.sum(0), share.square().sum(0)]
