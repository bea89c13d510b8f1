"""How a gain is shown whose log r(z) is not exact."""

from dataclasses import replace

from zprime.tables import Cell

DENSITIES = {
    "bound": "Log r(z) is a lower bound in expectation, made with random numbers; the error of these is included.",
    "estimate": "Log r(z) is an estimate; its own error is included.",
}
"""What a reader of a gain must know of a log r(z) that is not exact."""


def marked(cell: Cell, density: str) -> Cell:
    """A cell of a gain, marked where log r(z) is a bound or an estimate: such a gain is no exact-looking number."""
    if density not in DENSITIES or cell.key is None:
        return cell
    short = f"{cell.short or cell.text}{density[0]}"
    return replace(cell, text=f"{cell.text} ({density})", why=f"{cell.why} {DENSITIES[density]}", short=short)
