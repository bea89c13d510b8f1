"""Figures of an audit as matplotlib figures: `zprime.plot.gains(audit)`, in a notebook or for a paper."""

from zprime.reporting.figures import (
    bandwidth_path,
    calibration,
    components,
    dimensions,
    drift,
    gains,
    latent_map,
    surgery,
)
from zprime.reporting.outputs import columns, counts, samples

__all__ = [
    "bandwidth_path",
    "calibration",
    "columns",
    "components",
    "counts",
    "dimensions",
    "drift",
    "gains",
    "latent_map",
    "samples",
    "surgery",
]
