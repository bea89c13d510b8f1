"""Figures of an audit as matplotlib figures: `zprime.plot.gains(audit)`, in a notebook or for a paper."""

from zprime.reporting.figures import calibration, components, dimensions, drift, gains, latent_map, road, surgery
from zprime.reporting.outputs import columns, counts, samples

__all__ = [
    "calibration",
    "columns",
    "components",
    "counts",
    "dimensions",
    "drift",
    "gains",
    "latent_map",
    "road",
    "samples",
    "surgery",
]
