"""A generator to take home: r(z) with a sampler in NumPy, one ONNX file, zprime's own artefact, and the card."""

from zprime.exporting.folder import GENERATOR, KIND, ONNX, README, check_place, pages, said, use, write
from zprime.exporting.from_noise import FromNoise, from_noise
from zprime.exporting.onnx_file import to_onnx
from zprime.exporting.record import (
    FILE,
    Audited,
    DataRecord,
    Record,
    read_record,
    same_codes,
    simulation_error,
    sums_of_codes,
)

__all__ = [
    "FILE",
    "GENERATOR",
    "KIND",
    "ONNX",
    "README",
    "Audited",
    "DataRecord",
    "FromNoise",
    "Record",
    "check_place",
    "from_noise",
    "pages",
    "read_record",
    "said",
    "same_codes",
    "simulation_error",
    "sums_of_codes",
    "to_onnx",
    "use",
    "write",
]
