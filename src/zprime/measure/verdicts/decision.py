"""What both verdicts use: the amount that a number has to exceed."""

from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate


def needed(e: Estimate, least: float) -> float:
    """What a number on the held-out split has to exceed: max(2 s.e., `least`)."""
    return max(THRESHOLDS.errors * (e.stderr or 0.0), least)
