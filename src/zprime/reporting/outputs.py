"""Figures of generated rows beside held-out rows: images, tables, counts."""

from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from zprime.arrays import count_columns
from zprime.errors import UsageError
from zprime.reporting.palette import DATA, INK, LINE, MARK, SECOND, quiet, styled
from zprime.reporting.pictures import grid
from zprime.reporting.section import Drawing, Section
from zprime.results.audit import Audit
from zprime.results.names import RECONSTRUCTIONS, ROWS

__all__ = ["columns", "counts", "samples"]

DOTS = 2000


@styled
def samples(audit: Audit, *, columns: int = 8) -> Figure:
    """Held-out data, reconstructions, and samples of every latent distribution, side by side.

    Raises:
        UsageError: the data are no images.
    """
    named = [(ROWS, "held-out data"), (RECONSTRUCTIONS, "reconstructions")]
    named += [(f"grid.{e.name}", f"z' from {e.label}") for e in audit.leading]
    named = [(key, title) for key, title in named if key in audit.tensors]
    if not audit.images or not named:
        raise UsageError("samples: expected an audit of images with sample grids, got one without")
    across = min(3, len(named))
    figure = Figure(figsize=(3.1 * across, 3.3 * -(-len(named) // across)), layout="constrained")
    for i, (key, title) in enumerate(named):
        axis = figure.add_subplot(-(-len(named) // across), across, i + 1)
        axis.imshow(grid(audit.tensors[key], columns=columns), cmap="gray")
        axis.set_title(title, color=INK)
        axis.set_axis_off()
    return figure


@styled
def columns(audit: Audit, *, most: int = 12) -> Figure | None:
    """Distribution functions of a table's columns: held-out rows, and samples from the prior and from the choice.

    The columns in which the prior's samples are farthest from the data come first. None for images.
    """
    held = audit.tensors.get(ROWS)
    if audit.images or held is None:
        return None
    drawn = [("held-out data", held, DATA), *_sources(audit)]
    parts = [(n, x.flatten(1).double().sort(0).values, colour) for n, x, colour in drawn]
    real, prior = parts[0][1], parts[1][1]
    apart = [_gap(real[:, j], prior[:, j]) for j in range(real.shape[1])]
    order = sorted(range(len(apart)), key=lambda j: -apart[j])[:most]
    across = min(4, len(order))
    lines = -(-len(order) // across)
    figure = Figure(figsize=(2.1 * across, 0.6 + 1.4 * lines), layout="constrained")
    names = audit.data.columns or [f"column {j}" for j in range(len(apart))]
    for i, j in enumerate(order):
        axis = quiet(figure.add_subplot(lines, across, i + 1))
        for name, x, colour in parts:
            axis.ecdf(x[:, j].numpy(), color=colour, linewidth=1.4, label=name)
        axis.set_title(_short(names[j]), color=INK, fontsize=9)
        axis.set_yticks([])
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _short(name: str) -> str:
    """A title that fits over one of four panels."""
    return name if len(name) <= 22 else f"{name[:21]}…"


@styled
def counts(audit: Audit) -> Figure | None:
    """Counts (cells by genes): means and proportions of zeros of each column, and totals of rows, beside held-out rows.

    At most 2,000 columns are drawn. None for other data.
    """
    held = audit.tensors.get(ROWS)
    whole = None if held is None or audit.images else count_columns(held)
    if held is None or whole is None:
        return None
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    means, zeros, totals = (quiet(a) for a in figure.subplots(1, 3))
    at = whole.nonzero().flatten()
    at = at[:: -(-len(at) // DOTS)]
    real = held.double()
    for name, x, colour in _sources(audit):
        generated = x.flatten(1).double()
        style: Any = {"s": 5, "color": colour, "alpha": 0.5, "linewidths": 0, "label": name}
        means.scatter(1 + real[:, at].mean(0), 1 + generated[:, at].mean(0), **style)
        zeros.scatter((real[:, at] == 0).double().mean(0), (generated[:, at] == 0).double().mean(0), **style)
        totals.ecdf(1 + generated[:, whole].sum(1).numpy(), color=colour, linewidth=1.4)
    totals.ecdf(1 + real[:, whole].sum(1).numpy(), color=DATA, linewidth=1.4)
    for axis in (means, zeros):
        axis.axline((1, 1), slope=1, color=LINE, linewidth=0.8, zorder=0)
    means.set(xscale="log", yscale="log", xlabel="1 + mean, held-out", ylabel="1 + mean, samples")
    zeros.set(xlabel="proportion of zeros, held-out", ylabel="proportion of zeros, samples")
    totals.set(xscale="log", xlabel="1 + total of a row", ylabel="proportion of rows below")
    low, high = totals.get_xlim()
    totals.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high < 12 * low else (1, 3) if high < 150 * low else (1,))
    )
    totals.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    totals.xaxis.set_minor_formatter(NullFormatter())
    handles, names = means.get_legend_handles_labels()
    figure.legend(
        [*handles, totals.lines[-1]],
        [*names, "held-out data"],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return figure


def _columns_unless_counts(audit: Audit) -> Figure | None:
    """The columns of a table; None where it holds counts, which have a figure of their own."""
    held = audit.tensors.get(ROWS)
    return None if held is None or audit.images or count_columns(held) is not None else columns(audit)


def _rows_shown(audit: Audit) -> int:
    return len(audit.tensors.get(ROWS, ()))


COUNTS = Section(
    "counts",
    "Decoded samples",
    drawings=(
        Drawing(
            counts,
            "Counts: means and proportions of zeros of columns, and totals of rows, held-out data beside samples",
            said=False,
        ),
    ),
    note=lambda audit: (
        "Each dot is a column (a gene, say): its mean count and its proportion of zeros in "
        f"{_rows_shown(audit)} held-out rows and in as many decoder draws, from the prior and from the verdict's "
        f"choice; on the line they agree. Right: totals of rows. With {_rows_shown(audit)} rows the dots of two equal "
        "samples scatter round the line, too."
    ),
)
COLUMNS = Section(
    "columns",
    "Decoded samples",
    drawings=(
        Drawing(
            _columns_unless_counts,
            "Distribution functions of columns: held-out data beside samples",
            said=False,
        ),
    ),
    note=lambda audit: (
        "Proportion of rows below a value, column by column, in the scaled units that the model sees: held-out "
        f"rows, and decoder {'mean' if audit.samples is None else audit.samples.noise}s of as many latents, from the "
        "prior and from the verdict's choice. First the columns in which the prior's samples are farthest from the "
        "data."
    ),
)


def _sources(audit: Audit) -> list[tuple[str, Tensor, str]]:
    """Samples of the prior and of the verdict's choice: what they are called, the samples, and the colour."""
    choice = audit.verdict.choice or "prior"
    sources = [("prior", audit.tensors["grid.prior"], SECOND)]
    if choice != "prior":
        sources.append((audit.entry(choice).label, audit.tensors[f"grid.{choice}"], MARK))
    return sources


def _gap(a: Tensor, b: Tensor) -> float:
    """Kolmogorov and Smirnov's statistic of two sorted samples."""
    points = torch.cat([a, b])
    below = [torch.searchsorted(x.contiguous(), points, right=True).double() / len(x) for x in (a, b)]
    return float((below[0] - below[1]).abs().max())
