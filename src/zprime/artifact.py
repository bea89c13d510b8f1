"""Artefacts: folders with `manifest.json` and safetensors, written whole or not at all.

A folder is written beside its final place, flushed to disk, and renamed. Nothing is ever pickled, so
loading an artefact runs no code. Every tensor file is listed in the manifest with its SHA-256.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from zprime.errors import ArtifactError, UsageError

SCHEMA = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
YOUNG = 60.0  # seconds


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


def write_file(file: Path, content: bytes) -> None:
    """Write beside, fsync, rename.

    Raises:
        UsageError: it cannot be written here (no room, no right, no folder).
    """
    try:
        _write_file(file, content)
    except OSError as error:
        raise UsageError(f"{file}: cannot write ({error.strerror}); free some room or choose another folder") from error


def _write_file(file: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors to safetensors bytes without header metadata: the same tensors, the same bytes."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # safetensors refuses tensors that share memory; as artefacts they are separate values
        memory = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return save_bytes(out)


def write(
    path: str | Path,
    kind: str,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    key: str = "",
    seed: int | None = None,
    inputs: Mapping[str, str] | None = None,
    seconds: float | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write an artefact folder in one step; an older artefact at `path` is replaced only when this one is complete.

    Args:
        path: the folder to make.
        kind: what it holds, e.g. "model".
        config: JSON-able settings, enough to rebuild the object with the tensors.
        tensors: written to `tensors.safetensors`.
        key: hash of everything this artefact follows from; `run` reuses it by this.
        seed: the seed it was made with, if any.
        inputs: name -> hash of every artefact it was made from.
        seconds: CPU time that making it took; no part of its hash.
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
        hashes = {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}
        seal(folder, kind, config=config, files=hashes, key=key, seed=seed, inputs=inputs, seconds=seconds)
    return read(path, kind)


def seal(
    folder: Path,
    kind: str,
    *,
    config: Mapping[str, Any],
    files: Mapping[str, str],
    key: str = "",
    seed: int | None = None,
    inputs: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> None:
    """Write the manifest: the last file of an artefact, without which the folder is none."""
    manifest = {
        "format": "zprime",
        "schema": SCHEMA,
        "kind": kind,
        "config": config,
        "files": dict(files),
        "key": key,
        "seed": seed,
        "inputs": dict(inputs or {}),
        "versions": library_versions(),
        "seconds": seconds,
    }
    write_file(folder / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; move it to `path` if the block succeeds, else remove it.

    A process that is killed leaves the folder behind; `sweep` removes it. While the block runs the folder is locked.
    """
    path = Path(path)
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    except OSError as error:
        why = "a file is in the way" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"{path}: cannot write here ({why}); choose another folder") from error
    with locked(folder):
        try:
            yield folder
            os.chmod(folder, 0o755)
            move_into_place(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which the system drops when the process ends in whatever way; False if another holds it.

    Also False where folders cannot be locked.
    """
    handle, held = None, False
    with contextlib.suppress(OSError, ImportError):
        import fcntl  # not on Windows

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    try:
        yield held
    finally:
        if handle is not None:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder` while they wrote an artefact there.

    Staging folders go that are older than a minute (one may just be made, and not locked yet) and that no process
    holds; an artefact that was on its way out while its place is empty goes back there.
    """
    for left in folder.glob(".*.*-*"):
        name, _, rest = left.name[1:].rpartition(".")
        with contextlib.suppress(OSError):
            if not rest.startswith(("new-", "old-")) or time.time() - left.stat().st_mtime < YOUNG:
                continue
            with locked(left) as mine:
                if not mine:
                    continue
                if rest.startswith("old-") and is_artifact(left / "artifact") and not (folder / name).exists():
                    os.rename(left / "artifact", folder / name)
                shutil.rmtree(left, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot write here ({error.strerror}); choose another folder") from error


def move_into_place(folder: Path, path: Path) -> None:
    """Rename `folder` to `path`; where an older artefact lies there, in one step where the system can swap folders.

    Raises:
        UsageError: it cannot be moved there; the older artefact is where it was.
    """
    try:
        if not path.exists():
            os.rename(folder, path)
        elif _swap(folder, path):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old-"))
            try:
                os.rename(path, old / "artifact")
                try:
                    os.rename(folder, path)
                except BaseException:
                    os.rename(old / "artifact", path)
                    raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot move the artefact here ({error.strerror}); choose another folder") from error
    sync(path.parent)


def _swap(a: Path, b: Path) -> bool:
    """Exchange two folders in one step, by Linux's renameat2; False where there is no such thing."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(call(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


def sync(folder: Path) -> None:
    """Flush a folder's entries, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_replaceable(path: Path) -> None:
    """Raise `UsageError` unless `path` is free, empty, or an artefact of ours."""
    path = Path(path)
    if path.is_file():
        raise UsageError(f"{path}: expected a folder, got a file; choose another path")
    if path.is_dir() and any(path.iterdir()) and not is_artifact(path):
        raise UsageError(f"{path}: this folder holds files that zprime did not write; choose an empty or a new folder")


def is_artifact(path: Path) -> bool:
    """Whether a zprime manifest lies in `path`."""
    try:
        return bool(json.loads((Path(path) / MANIFEST).read_text()).get("format") == "zprime")
    except (OSError, ValueError, AttributeError):
        return False


def read(path: str | Path, kind: str | None = None) -> Artifact:
    """Read and check a manifest (tensor files are verified when they are read).

    Raises:
        ArtifactError: missing, unreadable, of another kind, or written by a newer schema.
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
        out = Artifact(
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
    if kind is not None and out.kind != kind:
        hint = "; zprime.load_latent(path) reads this one" if out.kind.startswith("latent/") else ""
        raise ArtifactError(f"{path}: expected an artefact of kind {kind}, got {out.kind}{hint}")
    return out


def library_versions() -> dict[str, str]:
    """Versions of what can change a number."""
    out = {"torch": str(torch.__version__)}
    for name in ("zprime", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            out[name] = version(name)
    return out
