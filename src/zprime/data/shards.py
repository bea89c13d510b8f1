"""Folders of files of one format that hold the rows together, one file after another."""

from collections.abc import Callable
from pathlib import Path

from zprime.data.source import file_named
from zprime.errors import ArrayError


def shards_of(path: Path, suffix: str) -> list[Path]:
    """The file itself, or the files of a folder in the order of their names, without hidden ones.

    Raises:
        ArrayError: one of them is no regular file.
    """
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() == suffix and not p.name.startswith("."))
    odd = next((file for file in files if not file.is_file()), None)
    if odd is not None:
        raise ArrayError(f"{odd}: expected a regular file, got none (a folder, a pipe, or a link to nothing)")
    return files


def folder_of(suffix: str) -> Callable[[Path], bool]:
    """Whether a path is a folder that holds such files, and no folders."""
    named = file_named(suffix)

    def recognises(path: Path) -> bool:
        if not path.is_dir():
            return False
        inside = [p for p in path.iterdir() if not p.name.startswith(".")]
        return any(map(named, inside)) and not any(p.is_dir() for p in inside)

    return recognises
