"""What the verdicts share: how they are told, and what a number has to exceed."""

from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate


def needed(e: Estimate, least: float) -> float:
    """What a number has to exceed to be believed: max(2 s.e., `least`)."""
    return max(THRESHOLDS.errors * (e.stderr or 0.0), least)
