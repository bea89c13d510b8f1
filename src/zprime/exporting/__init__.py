"""A generator for people who have neither zprime nor torch: r(z) with a sampler in NumPy, and one ONNX file."""

from zprime.exporting.folder import KIND, write
from zprime.exporting.from_noise import FromNoise, from_noise

__all__ = ["KIND", "FromNoise", "from_noise", "write"]
