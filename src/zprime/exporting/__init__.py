"""A generator for people who have neither zprime nor torch: r(z) with a sampler in NumPy, and one ONNX file."""

from zprime.exporting.folder import KIND, ONNX, check_place, write
from zprime.exporting.from_noise import FromNoise, from_noise
from zprime.exporting.onnx_file import to_onnx

__all__ = ["KIND", "ONNX", "FromNoise", "check_place", "from_noise", "to_onnx", "write"]
