"""log-pool: the normalised geometric mean of all posteriors, closest to them in reverse KL."""

from dataclasses import dataclass
from typing import ClassVar, final

from zprime.latent.centre import Centre, averages
from zprime.latent.kind import About, Fit, Outcome, Settings, Task


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogPool(Centre):
    """One diagonal Gaussian, about as narrow as a single posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "log-pool"
    only_shown: ClassVar[bool] = True


@final
@dataclass(frozen=True)
class LogPoolSettings(Settings):
    """Nothing to set: the minimiser of `sum w_i KL(r || q_i)` over all r, the logarithmic opinion pool.

    r is proportional to `prod q_i^w_i` (Genest & Zidek 1986): for diagonal Gaussians the one of precision
    `L = sum w_i s_i^-2` and mean `L^-1 sum w_i s_i^-2 mu_i` (docs/theory.md, section 1).
    """

    kind: ClassVar[str] = LogPool.kind
    about: ClassVar[About] = About(
        "2d numbers", "one pass", "to see that the reverse-KL average collapses; never to generate"
    )
    quick: ClassVar[bool] = True

    def fit(self, task: Task) -> Fit[LogPool]:
        """Add up precisions, shard by shard."""
        (precision, shift), dtype = averages(
            task.train,
            lambda s: s.scale.double().pow(-2),
            lambda s: s.mean.double() * s.scale.double().pow(-2),
        )
        pool = LogPool((shift / precision).to(dtype), precision.rsqrt().to(dtype))
        return Fit(pool, Outcome(message="exact, in closed form"))
