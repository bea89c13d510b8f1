"""The folder that is exported: r(z), its sampler, the card, and the generator for zprime and, if asked for, as ONNX."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zprime import artifact, chain
from zprime.artifact import Artifact, Manifest
from zprime.errors import UsageError
from zprime.exporting import numpy_sampler
from zprime.exporting.from_noise import FromNoise
from zprime.exporting.record import FILE, Audited, DataRecord
from zprime.reporting.card import card
from zprime.reporting.card_check import lines_of
from zprime.serialise import to_jsonable

KIND = chain.EXPORT
ARRAYS = "latent.safetensors"
ONNX = "generator.onnx"
GENERATOR = "generator"
README = "README.md"
RANDOM = {
    "uniform": "rng.random(n) of rng = numpy.random.default_rng(seed)",
    "normal": "then rng.standard_normal((n, columns), dtype=float32)",
}


def check_place(path: Path, wanted: str = KIND) -> None:
    """Refuse a folder that holds something else than an earlier artefact of the same kind.

    Args:
        path: the folder.
        wanted: the kind.

    Raises:
        UsageError: it holds other files, another artefact or a run, which would be lost.
    """
    artifact.check_replaceable(path)
    if artifact.is_artifact(path) and (kind := artifact.read(path).kind) != wanted:
        raise UsageError(f"{path}: there lies an artefact of kind {kind}, which would be lost; choose another folder")


def write(
    path: str | Path,
    drawn: FromNoise,
    about: dict[str, Any],
    files: Mapping[str, bytes],
    generator: Callable[[Path], Artifact] | None = None,
) -> Artifact:
    """Write the folder in one step; an earlier export there is replaced when this one is complete.

    Args:
        path: the folder to make.
        drawn: r(z) as a function of random numbers.
        about: what `latent.json` says of it, as `said` puts it together.
        files: further files, name -> content: `README.md` among them.
        generator: writes zprime's own artefact to a path; None where there is none.

    Raises:
        UsageError: the folder cannot be written, or holds something else.
    """
    check_place(Path(path))
    files = {
        ARRAYS: artifact.pack(drawn.tensors()),
        "latent.json": to_json(about),
        "sample.py": Path(numpy_sampler.__file__).read_bytes(),
        **files,
    }
    with artifact.staging(Path(path)) as folder:
        for name, content in files.items():
            artifact.write_file(folder / name, content)
        inputs = {} if generator is None else {GENERATOR: generator(folder / GENERATOR).hash}
        hashes = {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}
        artifact.seal(folder, Manifest(KIND, about, inputs=inputs), files=hashes)
    return artifact.read(path, KIND)


def said(drawn: FromNoise, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `latent.json` says: of r(z), of shapes, and how a seed makes random numbers.

    Args:
        drawn: r(z) as a function of random numbers.
        about: kind, label, copying status and so on.
    """
    return {**about, "d": drawn.d, "components": len(drawn.mean), "columns": drawn.columns, "random": RANDOM}


def to_json(content: Mapping[str, Any]) -> bytes:
    """A file of JSON that people read."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def pages(about: Mapping[str, Any], use: str, audited: Audited | None, *, name: str, license: str) -> dict[str, bytes]:
    """`README.md`: the card where an audit is known, else some lines; and `check.json`, which belongs to a card.

    Args:
        about: what `latent.json` says.
        use: how to draw from the folder: Markdown.
        audited: by which audit it was measured; None where none is known.
        name: of the model, on the card.
        license: an identifier of the hub, e.g. `mit`.
    """
    if audited is None:
        return {README: f"# z' from {about['label']}\n\n{use}\n{about['says']}\n".encode()}
    text, numbers = (card(audited.audit, of=audited.name, name=name, license=license, use=u) for u in (use, ""))
    lines = [line for line in lines_of(numbers) if not line.startswith("#")]
    return {README: text.encode(), FILE: to_json(to_jsonable(audited.record(lines)))}


def use(about: Mapping[str, Any], *, whole: bool, own: bool, weights: str = "", data: DataRecord | None = None) -> str:
    """How to draw from the folder, by commands that are run in it.

    Args:
        about: what `latent.json` says.
        whole: whether there is an ONNX file of the whole generator.
        own: whether zprime's own artefact is there.
        weights: file of the weights of a model of the user's own; empty without one.
        data: by which `zprime verify` reads the rows again; None where it does not measure.
    """
    d, columns, built_by = about["d"], about["columns"], about.get("decoder")
    text = f"""    python sample.py 100 0 z.npy

writes 100 draws of z', seed 0, shape [100, {d}], to `z.npy`. In Python: `from sample import sample`, `sample(100, 0)`.
It needs NumPy only. `latent.json` says what z' is drawn from, and how a seed makes the random numbers.
"""
    text += "".join(f"\n{note}\n" for note in about.get("notes", ()))
    if whole:
        text += f"""
`{ONNX}` takes `uniform`, float64 [n], in [0, 1), and `normal`, float32 [n, {columns}], standard normal numbers. It
gives `x`, the mean of p(x|z') in the units of the data, and `z`: the z' of `sample.py` for the same numbers.
"""
    elif built_by is not None:
        text += f"\nThe decoder is not here: it is built by `{built_by}`.\n"
    options = ""
    if own and not built_by:
        text += '\nWith zprime: `zprime sample .`, or `zprime.load_generator(".")`.\n'
    elif own and built_by:
        names = [built_by, *filter(None, [weights])]
        options = "".join(f' {o} "{n}"' for o, n in zip(("--model", "--model-weights"), names, strict=False))
        model = ", ".join(f'"{n}"' for n in names)
        text += (
            f'\nWith zprime: `zprime sample .{options}`, or `zprime.load_generator(".", zprime.OwnModel({model}))`.\n'
        )
        file = built_by.rpartition(":")[0]
        files = [f"`{file}` (with what it imports)"] if file.endswith(".py") else []
        files += [f"`{weights}`"] if weights else []
        if files:
            are, them = ("is", "it") if len(files) == 1 else ("are", "them")
            text += f"{' and '.join(files)} {are} not in this folder: put {them} there, or give the path.\n"
    return text if data is None else f"{text}\n{_verify(options, data)}\n"


def _verify(options: str, data: DataRecord) -> str:
    """How to have the numbers of the card measured again: with all rows, or where these suffice with held-out ones."""
    beside = " --heldout-data HELDOUT" if data.settings.get("heldout_data") else ""
    text = f"`zprime verify .{options} --data FILE{beside}`"
    if not data.weights and not data.settings.get("group"):
        text += f", or `zprime verify .{options} --heldout-data FILE` with held-out rows alone,"
    return f"{text} measures the numbers of this card again."
