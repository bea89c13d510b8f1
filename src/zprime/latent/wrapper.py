"""What a latent distribution that wraps another one is asked and passes on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zprime.distribution import Density, LatentDistribution


@dataclass(frozen=True, repr=False, eq=False)
class Wrapper(LatentDistribution):
    """A latent distribution made of another one.

    Attributes:
        base: the other one.
    """

    base: LatentDistribution

    @property
    def density(self) -> Density:
        """As the base's."""
        return self.base.density

    def replicates(self) -> Sequence[LatentDistribution]:
        """Of the base."""
        return [replace(self, base=other) for other in self.base.replicates()]

    @property
    def least_rows(self) -> float | None:
        """As the base's."""
        return self.base.least_rows

    @property
    def eligible(self) -> bool:
        """As the base is."""
        return self.base.eligible

    @property
    def gloss(self) -> str:
        """As the base's."""
        return self.base.gloss
