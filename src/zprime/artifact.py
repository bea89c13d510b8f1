"""Artefacts: folders with `manifest.json` and safetensors, written whole or not at all (`atomic`).

Nothing is ever pickled, so loading an artefact runs no code. Every file is listed in the manifest with its SHA-256.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from zprime.atomic import MANIFEST, check_replaceable, is_artifact, make_folder, staging, sweep, write_file
from zprime.errors import ArtifactError

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "TENSORS",
    "Artifact",
    "Manifest",
    "check_replaceable",
    "digest",
    "is_artifact",
    "library_versions",
    "make_folder",
    "pack",
    "read",
    "read_bytes",
    "read_tensors",
    "seal",
    "staging",
    "sweep",
    "verify",
    "write",
    "write_file",
]

SCHEMA = 2
TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What a manifest says beside the files that it lists.

    Attributes:
        kind: what the folder holds, e.g. "model".
        config: JSON-able settings, enough to rebuild the object with the tensors.
        key: hash of everything that the artefact follows from; a stage with the same key uses the artefact again.
        seed: the seed that it was made with, if any.
        inputs: name -> hash of every artefact that it was made from.
        seconds: CPU time that making it took; no part of its hash.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    seed: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class Artifact:
    """A folder that was read and verified: its manifest and where it lies."""

    path: Path
    kind: str
    config: dict[str, Any]
    key: str
    seed: int | None
    files: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def hash(self) -> str:
        """SHA-256 over kind, configuration and file hashes: what other manifests cite this one by."""
        return digest({"kind": self.kind, "config": self.config, "files": self.files})

    def tensors(self, name: str = TENSORS) -> dict[str, Tensor]:
        """Read one tensor file and verify its hash.

        Raises:
            ArtifactError: the file is missing, truncated or altered.
        """
        if name not in self.files:
            raise ArtifactError(f"{self.path}: its {MANIFEST} lists no file {name}; make the artefact again")
        return read_tensors(self.path / name, self.files[name])


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_tensors(file: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read a safetensors file; with `sha256`, verify it first."""
    content = read_bytes(file)
    verify(file, content, sha256)
    try:
        return load_bytes(content)
    except Exception as error:  # safetensors raises its own, undocumented type
        raise ArtifactError(f"{file}: not a readable safetensors file ({error})") from error


def read_bytes(file: Path) -> bytes:
    """Content of one file of an artefact.

    Raises:
        ArtifactError: it is missing or cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read ({error.strerror}); make the artefact again") from error


def verify(file: Path, content: bytes, sha256: str | None) -> None:
    """Raise `ArtifactError` unless `content` has this SHA-256 (None: nothing to compare with)."""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(
            f"{file}: its SHA-256 is not the one in {MANIFEST}: the file was truncated or altered "
            "after it was written; delete the folder and make the artefact again"
        )


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors to safetensors bytes without header metadata: the same tensors, the same bytes."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # safetensors refuses tensors that share memory; as artefacts they are separate values
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return save_bytes(separate)


def write(
    path: str | Path,
    manifest: Manifest,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write an artefact folder in one step; an older artefact at `path` is replaced only when this one is complete.

    Args:
        path: the folder to make.
        manifest: what to say of it.
        tensors: written to `tensors.safetensors`.
        extra: further files, name -> content.

    Raises:
        UsageError: `path` cannot be written, or holds files that are not an artefact.
    """
    files = dict(extra or {})
    if tensors is not None:
        files[TENSORS] = pack(tensors)
    with staging(Path(path)) as folder:
        for name, content in files.items():
            write_file(folder / name, content)
        seal(folder, manifest, files={n: hashlib.sha256(c).hexdigest() for n, c in files.items()})
    return read(path, manifest.kind)


def seal(folder: Path, manifest: Manifest, *, files: Mapping[str, str]) -> None:
    """Write the manifest: the last file of an artefact, without which the folder is none.

    Args:
        folder: that holds the files.
        manifest: what to say of it.
        files: name -> SHA-256 of every file in it.
    """
    content = {
        "format": "zprime",
        "schema": SCHEMA,
        "kind": manifest.kind,
        "config": manifest.config,
        "files": dict(files),
        "key": manifest.key,
        "seed": manifest.seed,
        "inputs": dict(manifest.inputs),
        "versions": library_versions(),
        "seconds": manifest.seconds,
    }
    write_file(folder / MANIFEST, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read(path: str | Path, kind: str | None = None) -> Artifact:
    """Read and check a manifest (tensor files are verified when they are read).

    Raises:
        ArtifactError: missing, unreadable, of another kind, or written by a zprime with another schema.
    """
    path = Path(path)
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: expected an artefact{f' of kind {kind}' if kind else ''}, found no {MANIFEST}")
    try:
        manifest = json.loads(file.read_text())
        if manifest["format"] != "zprime":
            raise KeyError("format")
        schema = int(manifest["schema"])
        if schema > SCHEMA:
            raise ArtifactError(
                f"{file}: written with schema {schema}, this zprime reads up to {SCHEMA}; upgrade zprime"
            )
        if schema < SCHEMA:
            by = dict(manifest.get("versions", {})).get("zprime", "0.1")
            raise ArtifactError(
                f"{file}: written by zprime {by} with schema {schema}; zprime 0.2 reads schema {SCHEMA} only and no "
                "artefacts of 0.1; run the same command again, into a new folder"
            )
        artifact = Artifact(
            path=path,
            kind=str(manifest["kind"]),
            config=dict(manifest["config"]),
            key=str(manifest["key"]),
            seed=manifest["seed"],
            files=dict(manifest["files"]),
            inputs=dict(manifest["inputs"]),
            versions=dict(manifest["versions"]),
            seconds=manifest.get("seconds"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: not a readable zprime manifest ({error!r}); make the artefact again") from error
    if kind is not None and artifact.kind != kind:
        hint = "; zprime.load_latent(path) reads this one" if artifact.kind.startswith("latent/") else ""
        raise ArtifactError(f"{path}: expected an artefact of kind {kind}, got {artifact.kind}{hint}")
    return artifact


def library_versions() -> dict[str, str]:
    """Versions of what can change a number."""
    versions = {"torch": str(torch.__version__)}
    for name in ("zprime", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
