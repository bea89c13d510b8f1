"""The files that `zprime sample` writes."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zprime import artifact, outputs
from zprime.errors import UsageError
from zprime.reporting import pictures
from zprime.sampling import GenerativeModel

ENDINGS = (".npz", ".png", ".csv")
SHOWN = 4096
"""Pictures of a grid, at most."""


@dataclass(frozen=True)
class Drawn:
    """Samples.

    Attributes:
        z: latents.
        x: in the units of the data.
        c: the conditions that the decoder was told, [n] or [n, k]; None of one that is told none.
    """

    z: Tensor
    x: Tensor
    c: Tensor | None = None

    @property
    def arrays(self) -> dict[str, Any]:
        """NumPy's, by name, for an .npz file."""
        return {"z": self.z.numpy(), "x": self.x.numpy(), **({} if self.c is None else {"c": self.c.numpy()})}

    @property
    def table(self) -> Tensor:
        """Rows of x, with c behind it."""
        return self.x if self.c is None else torch.cat([self.x, self.c.to(self.x).reshape(len(self.x), -1)], 1)


@dataclass(frozen=True)
class Files:
    """Where samples are written.

    Attributes:
        paths: of the files; or of the folder.
        apart: whether each picture is a file in that folder.
    """

    paths: tuple[Path, ...]
    apart: bool = False

    @classmethod
    def of(cls, out: str | None, default: Path, run: Path, model: GenerativeModel) -> "Files":
        """What is written for NAME.npz, NAME.png, NAME.csv or NAME/, or all that the data are for NAME.

        Args:
            out: what was asked for; None for the default.
            default: NAME.
            run: what is drawn from: its files, and the data that it was made from, are not written over.
            model: the same in memory.

        Raises:
            UsageError: `out` is no name of a file, or of one that x' are not of; or something would be lost.
        """
        path = default if out is None else Path(out)
        if path.name in ("", ".."):
            raise UsageError(f"out: expected the path of the files to write, got {out!r}")
        apart = out is not None and out.endswith(("/", os.sep))
        kind = path.suffix if out is not None and not apart and path.suffix in ENDINGS else ""
        table = model.image is None and model.shift.ndim == 1  # each entry of a row has a shift of its own
        if (apart or kind == ".png") and model.image is None:
            raise UsageError(f"out: {out!r} is of pictures, and x' are rows of numbers; take NAME.npz or NAME.csv")
        if kind == ".csv" and not table:
            raise UsageError(f"out: {out!r} is of a table, and each x' is an array; take NAME.npz or NAME.png")
        if apart:
            if path.is_dir() and next(path.iterdir(), None) is not None:
                raise UsageError(
                    f"out: expected a new or an empty folder, so that no older picture is among the new, got {path}"
                )
            outputs.check_output(path / "0.png", run)
            return cls((path,), apart=True)
        written = [".npz", *[".png"] * (model.image is not None), *[".csv"] * table]
        paths = [path] if kind else [path.with_name(path.name + ending) for ending in written]
        for file in paths:
            outputs.check_output(file, run)
        return cls(tuple(paths))

    def write(self, model: GenerativeModel, drawn: Drawn, names: Sequence[str]) -> None:
        """Write all of them.

        Args:
            model: what was drawn from.
            drawn: what was.
            names: of the columns of a table; empty where they have none.
        """
        artifact.make_folder(self.paths[0] if self.apart else self.paths[0].parent)
        for file, content in self._contents(model, drawn, names):
            artifact.write_file(file, content)

    def _contents(self, model: GenerativeModel, drawn: Drawn, names: Sequence[str]) -> Iterator[tuple[Path, bytes]]:
        """Every file with its bytes, one at a time."""
        x = drawn.x
        if self.apart:
            digits = len(str(len(x) - 1))
            for i, one in enumerate(x):
                unit = (one - model.shift) / model.scale
                yield self.paths[0] / f"{i:0{digits}d}.png", pictures.png(pictures.picture(unit))
            return
        for file in self.paths:
            if file.suffix == ".png":
                unit = (x[:SHOWN] - model.shift) / model.scale
                zoom = max(1, 56 // max(unit.shape[2:]))
                yield file, pictures.png(pictures.grid(unit, zoom=zoom))
            elif file.suffix == ".csv":
                yield file, _csv(drawn.table, names)
            else:
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **drawn.arrays)
                yield file, buffer.getvalue()

    def __str__(self) -> str:
        """Their paths."""
        return ", ".join(f"{path}/" if self.apart else str(path) for path in self.paths)


def _csv(x: Tensor, names: Sequence[str]) -> bytes:
    """A line for each row, under the names of the columns; every number in as few digits as give it again."""
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(names if len(names) == x.shape[1] else [f"x{j}" for j in range(x.shape[1])])
    lines.writerows(x.numpy().astype(str))
    return buffer.getvalue().encode()
