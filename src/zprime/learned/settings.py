"""How a prior is to be learned in training: what the settings of all of them have in common."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zprime import artifact, model_prior
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.trainable_prior import TrainablePrior


@dataclass(frozen=True)
class LearnedPrior(ABC):
    """How to learn one kind of prior: a frozen dataclass whose defaults work. Its kind is that of what it ends as."""

    kind: ClassVar[str]

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        return  # what has nothing to set has nothing to check

    @abstractmethod
    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""

    @abstractmethod
    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """One that begins at `r`, of the same kind, as far as `r` says where that is.

        Raises:
            UsageError: `r` is of another kind, or of a form that is not trained.
        """

    @property
    def key(self) -> str:
        """Hash of all that its training follows from, beside data, network and seed."""
        return artifact.digest(["learned", self.described])

    @property
    def described(self) -> dict[str, Any]:
        """Kind and settings, as values for JSON."""
        values = dataclasses.asdict(self).items()
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in values}}


@dataclass(frozen=True)
class GoingOn:
    """A prior that is learned on, from where a fitted one is.

    Attributes:
        settings: how.
        start: where it begins.
    """

    settings: LearnedPrior
    start: LatentDistribution

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        self.settings.check()

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return self.settings.going_on(self.start)

    @property
    def key(self) -> str:
        """Hash of settings and start."""
        return artifact.digest([self.settings.key, *model_prior.key(self.start)])

    @property
    def described(self) -> dict[str, Any]:
        """Kind and settings, as values for JSON."""
        return self.settings.described


Learned = LearnedPrior | GoingOn
"""What a VAE can be trained with in place of a prior that stays as it is."""


def words(described: Mapping[str, Any]) -> str:
    """What a manifest says of a learned prior, for readers: `vamp, learned in training (components 50)`."""
    rest = ", ".join(f"{name} {_word(value)}" for name, value in described.items() if name != "kind")
    return f"{described['kind']}, learned in training{f' ({rest})' if rest else ''}"


def _word(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def at_least(name: str, value: int, least: int) -> None:
    """Raise `UsageError` unless `value` is `least` or more."""
    if value < least:
        raise UsageError(f"prior: {name}: expected at least {least}, got {value}")


def check_kind(settings: LearnedPrior, r: LatentDistribution) -> None:
    """Raise `UsageError` unless `r` is of the kind that these settings learn."""
    if r.kind != settings.kind:
        raise UsageError(f"prior: expected a {settings.kind} to go on from, got {r.label}")


def cannot_go_on(r: LatentDistribution, why: str) -> UsageError:
    """What is said where training cannot begin at `r`."""
    keep = "" if r.holds_rows else "keep it as it is (leave --learn-prior out), or "  # refining refuses such an r
    return UsageError(
        f"prior: {r.label} {why}, so it cannot be learned on from where it is; {keep}take a mixture or a flow"
    )
