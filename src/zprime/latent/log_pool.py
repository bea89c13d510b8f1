"""pool: the normalised geometric mean of all posteriors, closest to them in reverse KL."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from zprime.distribution import Fit, Outcome
from zprime.latent.centre import Centre, averages
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogPool(Centre):
    """One diagonal Gaussian, about as narrow as a single posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "pool"


@dataclass(frozen=True)
class LogPoolSettings:
    """Nothing to set: the minimiser of `sum w_i KL(r || q_i)` over all r, the logarithmic opinion pool.

    r is proportional to `prod q_i^w_i` (Genest & Zidek 1986): for diagonal Gaussians the one of precision
    `L = sum w_i s_i^-2` and mean `L^-1 sum w_i s_i^-2 mu_i` (docs/theory.md, section 1).
    """

    kind: ClassVar[str] = "pool"
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[LogPool]:
        """Add up precisions, shard by shard."""
        (precision, shift), dtype = averages(
            train,
            lambda s: s.scale.double().pow(-2),
            lambda s: s.mean.double() * s.scale.double().pow(-2),
        )
        pool = LogPool((shift / precision).to(dtype), precision.rsqrt().to(dtype))
        return Fit(pool, Outcome(message="exact, in closed form"))
