"""How the posteriors of a run were encoded."""

from pathlib import Path
from typing import NamedTuple

from zprime import artifact, chain
from zprime.data import SPLITS
from zprime.errors import ArtifactError


def _by_split(run: Path, name: str) -> dict[str, int]:
    """What the manifest of each split that is there says under a name; 0 where it says nothing."""
    there = [s for s in SPLITS if chain.has(run, f"posteriors/{s}")]
    return {s: int(artifact.read(run / "posteriors" / s).config.get(name) or 0) for s in there}


def steps_by_split(run: Path) -> dict[str, int]:
    """Gradient steps on the q of each row with which each split that is there was encoded; 0 is the encoder's own."""
    return _by_split(run, "steps")


def steps_of(run: Path) -> int:
    """The same of all splits; of the first, where a process was killed before it had replaced the others."""
    return next(iter(steps_by_split(run).values()), 0)


def draws_by_split(run: Path) -> dict[str, int]:
    """Draws of a posterior that were asked for, of each split that is there; 0 where posteriors are no flows."""
    return _by_split(run, "draws")


def draws_of_run(run: Path) -> int:
    """The same of all splits; of the first, where a process was killed before it had replaced the others."""
    return next(iter(draws_by_split(run).values()), 0)


class Way(NamedTuple):
    """How posteriors are to be encoded.

    Attributes:
        steps: gradient steps on the q of each row; None as those that are there, or 0.
        draws: of each posterior that is a flow; None as of those that are there, or as many as usual.
    """

    steps: int | None = None
    draws: int | None = None


def way_of(run: Path) -> Way:
    """How those of a run were encoded."""
    return Way(steps_of(run), draws_of_run(run) or None)


def check_same(run: Path) -> None:
    """Raise `ArtifactError` where splits were encoded with different numbers of steps, or of draws."""
    for what, found in (("steps", steps_by_split(run)), ("draws", draws_by_split(run))):
        if len(set(found.values())) > 1:
            each = ", ".join(f"{s} {n}" for s, n in found.items())
            raise ArtifactError(
                f"{run}: the splits were encoded with different numbers of {what} ({each}); run `zprime encode {run}` "
                "to encode the others as the first"
            )
