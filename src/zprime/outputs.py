"""Files that are made for a user: they are not written where something would be lost."""

import os
import stat
from pathlib import Path

from zprime import artifact, atomic
from zprime.atomic import LOCK, MANIFEST
from zprime.errors import UsageError
from zprime.manifest import MEASURED


def check_output(file: Path, *runs: Path) -> None:
    """Refuse a file that a page, an answer or samples cannot be written to without losing something.

    Args:
        file: to write.
        runs: folders of the runs or audits that it is made from.

    Raises:
        UsageError: it is no name of a file, or something else than a file lies there; or it is part of an artefact, or
            one of the data that a run was made from.
    """
    if file.name in ("", "..") or os.path.isdir(file):  # noqa: PTH112  (Path's raise for names that are too long)
        raise UsageError(f"{str(file)!r}: expected the path of a file to write, got a folder; add a name to it")
    if os.path.lexists(file) and not stat.S_ISREG(os.lstat(file).st_mode):
        raise UsageError(
            f"{file}: there is something else than a regular file, which would be lost; choose another path"
        )
    whole = Path(os.path.realpath(file))
    for up, folder in enumerate(whole.parents):
        inside = Path(*whole.parts[-up - 1 :]).as_posix()
        if atomic.is_artifact(folder) and inside in (MANIFEST, MEASURED, LOCK, *artifact.read(folder).files):
            raise UsageError(f"{file}: that is a file of the artefact {folder}; choose another path")
    for run in runs:
        for data in (run / "data", run.parent / "data"):
            found = artifact.read(data) if atomic.is_artifact(data) else None
            for source in () if found is None else filter(None, (found.source, found.heldout_source)):
                there = Path(os.path.realpath(source))
                if whole.is_file() and (whole == there or there in whole.parents):
                    raise UsageError(f"{file}: the data of the run {data.parent} lie there; choose another path")
