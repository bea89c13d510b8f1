"""What the verdicts share: how they are told, and what a number has to exceed."""

from dataclasses import dataclass, field

from zprime.statistics.estimate import Estimate


@dataclass(frozen=True)
class Decision:
    """What to draw z' from.

    Attributes:
        decision: `leave the prior`, `keep the prior`, `undecided`, or what else the rule can end in.
        choice: name of the latent distribution to use.
        sentence: the verdict in words, to act on.
        why: the numbers it rests on, in words.
    """

    decision: str
    choice: str
    sentence: str
    why: list[str] = field(default_factory=list)


def needed(e: Estimate, least: float) -> float:
    """What a number has to exceed to be believed: max(2 s.e., `least`)."""
    return max(2 * (e.stderr or 0.0), least)
