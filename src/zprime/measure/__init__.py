"""Measures: one file each; every function returns Estimates, or the numbers of each row that they are made from."""

from zprime.measure.estimate import Estimate, mean_estimate
from zprime.measure.ladder import Ladder, climb
from zprime.measure.panel import Panel
from zprime.measure.surgery import Surgery, surgery

__all__ = ["Estimate", "Ladder", "Panel", "Surgery", "climb", "mean_estimate", "surgery"]
