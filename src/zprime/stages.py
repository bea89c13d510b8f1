"""Stages of work that each end in an artefact, which is used again where the stage follows from the same things.

The key of a stage is the hash of its settings, its seed and its inputs. What has the same key is not made again.
A first stage that fails leaves nothing behind.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

from zprime import artifact, atomic, chain, locks
from zprime.artifact import Artifact
from zprime.errors import ArtifactError

log = logging.getLogger("zprime")
Make = Callable[[Path, str], Artifact]
"""Called with (path, key); writes the artefact there."""


def key_of(*parts: object) -> str:
    """Hash of everything that a stage follows from; the version of the library is added."""
    return artifact.digest([artifact.SCHEMA, artifact.library_versions().get("zprime"), *parts])


def reuse_or_make(run: Path, name: str, key: str, make: Make, *, kind: str | None = None) -> Artifact:
    """Use the artefact `name` of a run if it has this key and is whole; else make it beside, and put it in place.

    What was made from an older artefact of that name leaves the run in the same step.

    Args:
        run: the folder.
        name: path of the artefact in it.
        key: what it follows from, by `key_of`.
        make: writes it where it is told.
        kind: what it has to be; None for any kind.

    Raises:
        ArtifactError: it has this key, but one of its files was truncated or altered.
    """
    chain.check_free(run, name)
    staged = run / chain.STAGED / name
    if chain.has(run, name):
        there = artifact.read(run / name)
        if there.key == key and (kind is None or there.kind == kind):
            chain.check(run, name).verify()
            log.info("%s: already done", name)
            _clear(run / chain.STAGED, staged)  # of a process that was killed in its last steps
            return there
    log.info("%s", name)
    if not _is_made(staged, key):
        make(staged, key)
    placed = chain.place(run, name, staged, without=chain.below(run, name))
    _clear(run / chain.STAGED, staged)
    return placed


def _is_made(staged: Path, key: str) -> bool:
    """Whether a process made it and was killed before it put it in place."""
    with contextlib.suppress(ArtifactError):
        there = artifact.read(staged)
        there.verify()
        return there.key == key
    return False


def _clear(top: Path, staged: Path) -> None:
    """Remove what is left where an artefact was made."""
    atomic.remove(staged)
    for left in staged.parent.glob(f".{staged.name}.*"):
        atomic.remove(left)
    for folder in (f for f in staged.parents if f.is_relative_to(top)):
        with contextlib.suppress(OSError):  # not empty, or gone already
            folder.rmdir()


@final
class NewFolder:
    """The folder of a run, made when it is needed, and removed again if the first work in it fails.

    Args:
        path: the folder, which may be there already.
        worth: names of artefacts in it; while one of them is there, a failure removes nothing.
        scrap: names of artefacts in it that go with it.
    """

    def __init__(self, path: Path, *, worth: Sequence[str], scrap: Sequence[str]) -> None:
        self.path, self.worth, self.scrap = path, worth, scrap
        self._made: list[Path] | None = None  # folders that were not there before, innermost first

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Hold the folder's lock; make it if it is none of ours yet; undo that if the block fails with nothing kept.

        Raises:
            UsageError: it cannot be made here, or another process is writing in it.
        """
        # by its name, not by what it says: what is there and cannot be read now is not made anew
        if not os.path.lexists(self.path / artifact.MANIFEST):
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
            artifact.make_folder(self.path)
        try:
            with locks.writer(self.path):
                if not os.path.lexists(self.path / artifact.MANIFEST):
                    chain.start(self.path)
                try:
                    yield
                except BaseException:
                    worth = locks.lost(self.path) or any((self.path / name).exists() for name in self.worth)
                    if self._made is not None and not worth:
                        self._empty()
                    raise
        except BaseException:
            with contextlib.suppress(OSError):  # what is not empty is not ours alone, and stays
                for folder in self._made or ():
                    folder.rmdir()
            raise

    def _empty(self) -> None:
        for name in (*self.scrap, chain.STAGED):
            atomic.remove(self.path / name)
        (self.path / artifact.MANIFEST).unlink(missing_ok=True)
