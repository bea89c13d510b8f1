"""Sample grids of the page: one picture each, with the nearest training row of every image where the audit has it."""

from dataclasses import dataclass

from torch import Tensor

from zprime.reporting.pictures import data_url, grid, png
from zprime.reporting.section import Section
from zprime.reporting.words import without_density
from zprime.results.audit import Audit
from zprime.results.names import RECONSTRUCTIONS, ROWS

COLUMNS = 8
SIDE = 28
"""Pixels a cell at least: small images are enlarged before they are laid out, so that the gaps stay thin."""
MOST = 64


@dataclass(frozen=True)
class Sheet:
    """A grid of images inside the page; `near` is the grid of their nearest training rows, `zoom` pixels a pixel."""

    title: str
    url: str
    alt: str
    count: int
    columns: int
    rows: int
    chosen: bool
    near: str = ""


def sheets(audit: Audit) -> list[Sheet]:
    """Held-out data and reconstructions first, then the prior and every candidate: what the audit has of them."""
    if not audit.images:
        return []
    data = [(ROWS, "Held-out data"), (RECONSTRUCTIONS, "Their reconstructions")]
    named = [(e.name, f"z′ from {e.label}") for e in audit.leading]
    named += [(name, f"z′ from {name}") for name in without_density(audit)]
    kept = audit.tensors
    shown = [_sheet(title, kept[key][:MOST], None, chosen=False) for key, title in data if key in kept]
    for name, title in named:
        x = kept.get(f"grid.{name}")
        if x is not None:
            shown.append(_sheet(title, x[:MOST], kept.get(f"near.{name}"), chosen=name == audit.verdict.choice))
    return shown


def _sheet(title: str, x: Tensor, near: Tensor | None, *, chosen: bool) -> Sheet:
    columns = min(COLUMNS, len(x))
    zoom = -(-SIDE // max(x.shape[-2:]))

    def picture(images: Tensor) -> str:
        large = images.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
        return data_url(png(grid(large, columns=COLUMNS)))

    return Sheet(
        title,
        picture(x),
        f"{len(x)} images: {title}",
        len(x),
        columns,
        -(-len(x) // columns),
        chosen,
        "" if near is None else picture(near[: len(x)]),
    )


SECTION = Section("sheets", "Decoded samples", template="sheets.html.j2", extra=sheets)
