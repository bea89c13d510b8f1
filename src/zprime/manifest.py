"""Manifests: what an artefact says of itself, its one form to the byte, and its own hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zprime.errors import ArtifactError

SCHEMA = 3
TENSORS = "tensors.safetensors"
MEASURED = "measured.json"
SOURCE, HELDOUT_SOURCE = "source", "heldout_source"
"""In `measured.json`: where the data lie, and held-out rows in a file of their own."""
"""Bytes of a manifest; none of ours comes near."""
FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""What a file of an artefact may be called: it lies in the folder itself."""
KIND = re.compile(r"[a-z0-9-]+(/[a-z0-9-]+)?")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What a manifest says beside the files that it lists.

    Attributes:
        kind: what the folder holds, e.g. "model".
        config: JSON-able settings, enough to rebuild the object with the tensors.
        key: hash of everything that the artefact follows from; a stage with the same key uses the artefact again.
        seed: the seed that it was made with, if any.
        inputs: name -> hash of every artefact that it was made from.
        measured: what the machine measured while it was made, e.g. seconds, and where on it things lie. It is written
            beside, in `measured.json`, and no part of any hash: who makes the artefact again gets the same bits, but
            for this file.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    seed: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float | str] = field(default_factory=dict)


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def text_of(content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: what it says has no other form, so that every altered byte is found."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def check_schema(file: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` for a manifest that another version wrote in another form."""
    schema = manifest["schema"]
    if type(schema) is not int:
        raise TypeError(f"schema: expected a number, got {schema!r}")
    if schema > SCHEMA:
        raise ArtifactError(f"{file}: written with schema {schema}, this zprime reads up to {SCHEMA}; upgrade zprime")
    if schema < SCHEMA:
        by = dict(manifest.get("versions", {})).get("zprime", "0.1")
        raise ArtifactError(
            f"{file}: written by zprime {by} with schema {schema}; this zprime reads schema {SCHEMA} only; run the "
            "same command again, into a new folder"
        )


def checked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, as typed values by name.

    Raises:
        TypeError: a value is of another type.
        ValueError: a name or a hash is none.
    """

    def mapping(name: str, of: type) -> dict[str, Any]:
        value = manifest[name]
        if not isinstance(value, dict) or not all(isinstance(v, of) for v in value.values()):
            raise TypeError(f"{name}: expected a mapping to {of.__name__}")
        return value

    files, sizes = mapping("files", str), mapping("sizes", int)
    if any(isinstance(v, bool) for v in (manifest["seed"], *sizes.values())):
        raise TypeError("seed and sizes: expected numbers, got true or false")
    bad = [f"{n!r}" for n, h in files.items() if not (FILE.fullmatch(n) and SHA256.fullmatch(h) and n in sizes)]
    if bad or files.keys() != sizes.keys() or min(sizes.values(), default=0) < 0:
        raise ValueError(f"files: expected names without separators, with SHA-256 and size each, got {', '.join(bad)}")
    kind, key, seed = (manifest[name] for name in ("kind", "key", "seed"))
    if not isinstance(kind, str) or not KIND.fullmatch(kind) or not isinstance(key, str):
        raise ValueError(f"kind and key: expected words, got {kind!r} and {key!r}")
    if not isinstance(seed, int | None):
        raise TypeError(f"seed: expected a number or null, got {seed!r}")
    return {
        "kind": kind,
        "config": mapping("config", object),
        "key": key,
        "seed": seed,
        "files": files,
        "inputs": mapping("inputs", str),
        "versions": mapping("versions", str),
        "sizes": sizes,
    }
