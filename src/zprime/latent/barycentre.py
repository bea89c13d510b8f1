"""barycentre: the Wasserstein-2 mean of all posteriors."""

from dataclasses import dataclass
from typing import ClassVar, final

from zprime.latent.centre import Centre, averages
from zprime.latent.kind import About, Fit, Outcome, Settings, Task


@final
@dataclass(frozen=True, repr=False, eq=False)
class Barycentre(Centre):
    """One diagonal Gaussian, as narrow as the average posterior: shown for the answer, never recommended."""

    kind: ClassVar[str] = "barycentre"
    only_shown: ClassVar[bool] = True


@final
@dataclass(frozen=True)
class BarycentreSettings(Settings):
    """Nothing to set: the minimiser of `sum w_i W2^2(r, q_i)` over all r (Agueh & Carlier 2011).

    For diagonal Gaussians `W2^2 = |mu - mu'|^2 + |s - s'|^2`, so r has mean `sum w_i mu_i` and standard deviations
    `sum w_i s_i` (docs/theory.md, section 1).
    """

    kind: ClassVar[str] = Barycentre.kind
    about: ClassVar[About] = About(
        "2d numbers", "one pass", "to see that the Wasserstein average collapses; never to generate"
    )
    quick: ClassVar[bool] = True

    def fit(self, task: Task) -> Fit[Barycentre]:
        """Average means and standard deviations, shard by shard."""
        (mean, scale), dtype = averages(task.train, lambda s: s.mean.double(), lambda s: s.scale.double())
        return Fit(
            Barycentre(mean.to(dtype), scale.to(dtype), task.train.effective_rows),
            Outcome(message="exact, in closed form"),
        )
