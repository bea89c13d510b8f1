"""Artefacts: folders with `manifest.json` and safetensors, written whole or not at all (`atomic`).

Nothing is ever pickled, so loading an artefact runs no code. Every file is listed in the manifest with its size and its
SHA-256, and the manifest holds a SHA-256 of all that it says. This finds accidents and careless edits. It is no
signature: who means to forge an artefact can compute the hashes again.
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

from zprime import memory
from zprime.atomic import (
    LARGEST,
    MANIFEST,
    NONE,
    check_replaceable,
    has_manifest,
    is_artifact,
    make_folder,
    read_regular,
    staging,
    sweep,
    write_file,
)
from zprime.errors import ArtifactError
from zprime.manifest import (
    HELDOUT_SOURCE,
    MEASURED,
    SCHEMA,
    SOURCE,
    TENSORS,
    Manifest,
    check_schema,
    checked,
    digest,
    text_of,
)

__all__ = [
    "HELDOUT_SOURCE",
    "MANIFEST",
    "MEASURED",
    "SCHEMA",
    "SOURCE",
    "TENSORS",
    "Artifact",
    "Manifest",
    "check_replaceable",
    "digest",
    "has_manifest",
    "is_artifact",
    "library_versions",
    "make_folder",
    "note",
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


MOST_MEASURED = 1e18
"""What a machine measures is smaller; a larger number was altered."""


@dataclass(frozen=True)
class Artifact:
    """A folder that was read and verified: its manifest and where it lies.

    Attributes:
        path: the folder.
        kind, config, key, seed, inputs: as in `Manifest`.
        files: name -> SHA-256.
        versions: of the libraries that can change a number.
        sizes: name of a file -> bytes.
        sha256: of the manifest: of all that it says.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    key: str
    seed: int | None
    files: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sha256: str = ""

    @property
    def hash(self) -> str:
        """SHA-256 over kind, configuration and file hashes: what other manifests cite this one by."""
        return digest({"kind": self.kind, "config": self.config, "files": self.files})

    @property
    def measured(self) -> dict[str, float]:
        """What the machine measured while it was made; without what was not kept, or is no number of this size."""
        found = {k: v for k, v in self._beside().items() if isinstance(v, int | float) and not isinstance(v, bool)}
        return {k: float(v) for k, v in found.items() if abs(v) <= MOST_MEASURED}  # not so of NaN

    @property
    def source(self) -> str:
        """Where the data lie that it was made from; empty where that was not kept."""
        return str(self._beside().get(SOURCE, ""))

    @property
    def heldout_source(self) -> str:
        """The same of held-out rows in a file of their own."""
        return str(self._beside().get(HELDOUT_SOURCE, ""))

    def _beside(self) -> dict[str, Any]:
        try:
            return dict(json.loads(read_regular(self.path / MEASURED, LARGEST)))
        except OSError as error:
            if error.errno in NONE:
                return {}
            raise ArtifactError(
                f"{self.path / MEASURED}: cannot be read ({error.strerror}); run the same command again"
            ) from error
        except (ValueError, TypeError, OverflowError, RecursionError):
            return {}

    def tensors(self, name: str = TENSORS) -> dict[str, Tensor]:
        """Read one tensor file and verify its hash.

        Raises:
            ArtifactError: the file is missing, truncated or altered.
        """
        if name not in self.files:
            raise ArtifactError(f"{self.path}: its {MANIFEST} lists no file {name}; make the artefact again")
        return read_tensors(self.path / name, self.files[name], size=self.sizes[name])

    def content(self, name: str) -> bytes:
        """Read one file that holds no tensors, and verify its hash.

        Raises:
            ArtifactError: the file is missing, truncated or altered.
        """
        if name not in self.files:
            raise ArtifactError(f"{self.path}: its {MANIFEST} lists no file {name}; make the artefact again")
        content = read_bytes(self.path / name, size=self.sizes[name])
        verify(self.path / name, content, self.files[name])
        return content

    def verify(self) -> None:
        """Verify every file.

        Raises:
            ArtifactError: one is missing, truncated or altered.
        """
        for name in self.files:
            self.content(name)


def read_tensors(file: Path, sha256: str | None, *, size: int | None = None) -> dict[str, Tensor]:
    """Read a safetensors file; with `sha256` and `size`, verify these first."""
    content = read_bytes(file, size=size)
    verify(file, content, sha256)
    try:
        return load_bytes(content)
    except Exception as error:  # safetensors raises its own, undocumented type
        if memory.ran_out(error) is not None:
            raise
        raise ArtifactError(f"{file}: not a readable safetensors file ({error})") from error


def read_bytes(file: Path, *, size: int | None = None) -> bytes:
    """Content of one file of an artefact.

    Args:
        file: a regular file, not a link to one.
        size: bytes that it has; a larger one is not read.

    Raises:
        ArtifactError: it is missing, cannot be read, or is larger.
    """
    try:
        return read_regular(file, size)
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
        "sizes": {name: (folder / name).stat().st_size for name in files},
        "versions": library_versions(),
    }
    if manifest.measured:
        note(folder, manifest.measured)
    write_file(folder / MANIFEST, text_of({**content, "sha256": digest(content)}))


def note(folder: Path, measured: Mapping[str, float | str]) -> None:
    """Write down beside an artefact what the machine measured, or where something lies."""
    write_file(folder / MEASURED, (json.dumps(dict(measured), indent=1, sort_keys=True) + "\n").encode())


def read(path: str | Path, kind: str | None = None) -> Artifact:
    """Read and check a manifest (other files are verified when they are read).

    Raises:
        ArtifactError: missing, unreadable, altered, of another kind, or written by a zprime with another schema.
    """
    path = Path(path)
    file = path / MANIFEST
    if not has_manifest(path):
        raise ArtifactError(f"{path}: expected an artefact{f' of kind {kind}' if kind else ''}, found no {MANIFEST}")
    try:
        found = read_regular(file, LARGEST)
        manifest = json.loads(found)
        if manifest["format"] != "zprime":
            raise KeyError("format")
        check_schema(file, manifest)
        said = manifest.pop("sha256")
        if digest(manifest) != said or text_of({**manifest, "sha256": said}) != found:
            raise ArtifactError(
                f"{file}: its own SHA-256 does not fit: it was altered after it was written; delete the folder and "
                "make the artefact again"
            )
        artifact = Artifact(path=path, sha256=str(said), **checked(manifest))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else repr(error)
        raise ArtifactError(f"{file}: not a readable zprime manifest ({why}); make the artefact again") from error
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
