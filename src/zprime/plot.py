"""Figures of an audit as matplotlib figures: `zprime.plot.gains(audit)`, in a notebook or for a paper."""

from zprime.reporting.figures import components, dimensions, gains, latent_map, samples, surgery

__all__ = ["components", "dimensions", "gains", "latent_map", "samples", "surgery"]
