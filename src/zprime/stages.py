"""Stages of work that each end in an artefact, which is used again where the stage follows from the same things.

The key of a stage is the hash of its settings, its seed and its inputs. What has the same key is not made again.
A first stage that fails leaves nothing behind.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

from zprime import artifact
from zprime.artifact import Artifact, Manifest

log = logging.getLogger("zprime")
Make = Callable[[Path, str], Artifact]
"""Called with (path, key); writes the artefact there."""


def key_of(*parts: object) -> str:
    """Hash of everything that a stage follows from; the version of the library is added."""
    return artifact.digest([artifact.SCHEMA, artifact.library_versions().get("zprime"), *parts])


def reuse_or_make(folder: Path, name: str, key: str, make: Make, *, kind: str | None = None) -> Artifact:
    """Use the artefact `name` in `folder` if it has this key and is whole; else make it.

    Args:
        folder: of the run.
        name: path of the artefact in it.
        key: what it follows from, by `key_of`.
        make: writes it.
        kind: what it has to be; None for any kind.

    Raises:
        ArtifactError: it has this key, but one of its files was truncated or altered.
    """
    path = folder / name
    if artifact.is_artifact(path):
        there = artifact.read(path)
        if there.key == key and (kind is None or there.kind == kind):
            for file, sha256 in there.files.items():
                artifact.verify(path / file, artifact.read_bytes(path / file), sha256)
            log.info("%s: already done", name)
            return there
    log.info("%s", name)
    return make(path, key)


@final
class NewFolder:
    """A folder of ours that is made when it is needed, and removed again if the first work in it fails.

    Args:
        path: the folder, which may be there already.
        manifest: what to say of it.
        worth: names of artefacts in it; while one of them is there, a failure removes nothing.
        scrap: names of folders in it that go with it.
    """

    def __init__(self, path: Path, manifest: Manifest, *, worth: Sequence[str], scrap: Sequence[str]) -> None:
        self.path, self.manifest, self.worth, self.scrap = path, manifest, worth, scrap
        self._made: list[Path] | None = None  # folders that were not there before, innermost first

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Make the folder if it is none of ours yet; undo that if the block fails with nothing to go on from.

        Raises:
            UsageError: it cannot be made here.
        """
        if not artifact.is_artifact(self.path):
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            if not artifact.is_artifact(self.path):
                artifact.make_folder(self.path)
                artifact.seal(self.path, self.manifest, files={})
            yield
        except BaseException:
            if self._made is not None and not any((self.path / name).exists() for name in self.worth):
                self._remove(self._made)
            raise

    def _remove(self, folders: Sequence[Path]) -> None:
        for name in self.scrap:
            shutil.rmtree(self.path / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # what is not empty is not ours alone, and stays
            (self.path / artifact.MANIFEST).unlink(missing_ok=True)
            for folder in folders:
                folder.rmdir()
