"""The folder that is exported: r(z), its sampler, what to know of both, and the whole generator where asked for."""

import json
from pathlib import Path
from typing import Any

from zprime import artifact
from zprime.artifact import Artifact, Manifest
from zprime.errors import UsageError
from zprime.exporting import numpy_sampler
from zprime.exporting.from_noise import FromNoise

KIND = "export"
ARRAYS = "latent.safetensors"
ONNX = "generator.onnx"
RANDOM = {
    "uniform": "rng.random(n) of rng = numpy.random.default_rng(seed)",
    "normal": "then rng.standard_normal((n, columns), dtype=float32)",
}


def check_place(path: Path) -> None:
    """Refuse a folder that holds something else than an earlier export.

    Raises:
        UsageError: it holds other files, another artefact or a run, which would be lost.
    """
    artifact.check_replaceable(path)
    if artifact.is_artifact(path) and (kind := artifact.read(path).kind) != KIND:
        raise UsageError(f"{path}: there lies an artefact of kind {kind}, which would be lost; choose another folder")


def write(path: str | Path, drawn: FromNoise, about: dict[str, Any], *, onnx: bytes | None = None) -> Artifact:
    """Write the folder in one step; an earlier export there is replaced when this one is complete.

    Args:
        path: the folder to make.
        drawn: r(z) as a function of random numbers.
        about: what `latent.json` says of it beside shapes and seeds; `label` and `says` among it.
        onnx: content of `generator.onnx`, if there is one.

    Raises:
        UsageError: the folder cannot be written, or holds something else.
    """
    check_place(Path(path))
    said = {**about, "d": drawn.d, "components": len(drawn.mean), "columns": drawn.columns, "random": RANDOM}
    files = {
        ARRAYS: artifact.pack(drawn.tensors()),
        "latent.json": (json.dumps(said, indent=1, sort_keys=True) + "\n").encode(),
        "sample.py": Path(numpy_sampler.__file__).read_bytes(),
        "README.md": readme(said, whole=onnx is not None).encode(),
    }
    if onnx is not None:
        files[ONNX] = onnx
    return artifact.write(path, Manifest(KIND, said), extra=files)


def readme(said: dict[str, Any], *, whole: bool) -> str:
    """How to sample from the folder, in ten lines or so."""
    d, columns, told = said["d"], said["columns"], "\n\n".join((said["says"], *said.get("notes", ())))
    text = f"""# z' from {said["label"]}

    python sample.py 100 0 z.npy

writes 100 draws of z', seed 0, shape [100, {d}], to `z.npy`. In Python: `from sample import sample`, `sample(100, 0)`.
It needs NumPy only. `latent.json` says what z' is drawn from, and how a seed makes the random numbers.

{told}
"""
    if not whole:
        built_by = said.get("decoder")
        return text if built_by is None else f"{text}\nThe decoder is not here: it is built by `{built_by}`.\n"
    return f"""{text}
`{ONNX}` takes `uniform`, float64 [n], in [0, 1), and `normal`, float32 [n, {columns}], standard normal numbers. It
gives `x`, the mean of p(x|z') in the units of the data, and `z`: the z' of `sample.py` for the same numbers.
"""
