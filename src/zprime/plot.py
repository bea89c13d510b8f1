"""Figures of an audit as matplotlib figures: `zprime.plot.gains(audit)`, in a notebook or for a paper."""

from zprime.reporting.figures import (
    calibration,
    columns,
    components,
    counts,
    dimensions,
    drift,
    gains,
    latent_map,
    road,
    samples,
    surgery,
)

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
