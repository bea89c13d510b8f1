"""prior: N(0, tau^2 I); at tau = 1 what the VAE was trained with."""

from dataclasses import dataclass
from typing import ClassVar, final

from zprime.distribution import LatentDistribution, Prior, need_standard
from zprime.latent.kind import FORMS, About, Fit, Settings, Task
from zprime.posteriors import Form


@final
@dataclass(frozen=True)
class PriorSettings(Settings):
    """The prior itself, or one narrower (tau < 1: fewer odd samples, less variety) or wider; nothing is fitted.

    Attributes:
        tau: standard deviation of every dimension.
    """

    kind: ClassVar[str] = Prior.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About("nothing (tau)", "none", "the reference; tau other than 1 shrinks or widens it")
    quick: ClassVar[bool] = True
    tau: float = 1.0

    @property
    def name(self) -> str:
        """With tau where it is not 1."""
        return self.kind if self.tau == 1 else f"{self.kind}-{self.tau:g}"

    def check(self) -> None:
        """Raise `UsageError` where tau is not above 0."""
        Prior(1, self.tau)

    def fit(self, task: Task) -> Fit[LatentDistribution]:
        """The prior of this latent space, scaled.

        Raises:
            UsageError: tau is not above 0, or not 1 where the prior is not N(0, I).
        """
        if self.tau == 1:
            return Fit(task.prior)
        need_standard(task.prior, f"kind {self.name}")
        return Fit(Prior(task.train.d, self.tau))
