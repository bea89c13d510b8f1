"""One figure for each claim of the page: dots with 95 % intervals beside what they are to be compared with."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zprime.memory import size
from zprime.reporting.palette import DATA, INK, LINE, MARK, PROBLEM, SECOND, SOFT, quiet, styled
from zprime.reporting.words import label_of
from zprime.results.audit import Audit
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED, Sampled
from zprime.statistics.estimate import Estimate

__all__ = ["averages", "fidelity", "hole", "low_density", "membership", "memorised", "trade_off", "two_samples"]


AVERAGES = {"prior": "p(Z)", "product-of-experts": "posterior of one shared z"}
"""What averages are called, where not by their names."""
LABEL, POINTS = 0.065, 185.0
"""What a name takes of the axis of `trade_off`, and points of its height that are 1."""
TICKS = 5
"""Intervals of an axis at most, however long the names beside it are."""
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
NOT_MEASURED = (math.nan, math.nan, math.nan)


class Dot(NamedTuple):
    """One line of a figure: a value with the ends of its interval, in a colour."""

    name: str
    low: float
    value: float
    high: float
    colour: str


def dot(name: str, e: Estimate, colour: str) -> Dot:
    """An estimate as a line of a figure."""
    return Dot(name, e.low, e.value, e.high, colour)


def _dots(axis: Axes, dots: Sequence[Dot], *, named: bool = True) -> None:
    """The lines from top to bottom; what lies beyond the ends of an axis that is fixed already is an arrow there."""
    left, right = axis.get_xlim() if not axis.get_autoscalex_on() else (-math.inf, math.inf)
    for y, d in enumerate(reversed(dots)):
        if math.isnan(d.value) or left <= d.value <= right:
            axis.plot([d.low, d.high], [y, y], color=d.colour, linewidth=2.5, solid_capstyle="butt")
            axis.plot(d.value, y, "o", color=d.colour, markersize=5)
            continue
        _beyond(axis, [d.value], y, d.colour)
    axis.set_ylim(-0.6, len(dots) - 0.4)
    axis.set_yticks(range(len(dots)), [d.name for d in reversed(dots)] if named else [""] * len(dots), color=INK)
    axis.tick_params(axis="y", length=0)
    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(TICKS))


def _beyond(axis: Axes, values: Sequence[float], y: int, colour: str) -> None:
    """What lies beyond an end of the axis: the values, with an arrow, at that end."""
    left, right = axis.get_xlim()
    below = ", ".join(f"{v:,.0f}" for v in values if v < left)
    above = ", ".join(f"{v:,.0f}" for v in values if v > right)
    if below:
        axis.annotate(f" ◂ {below}", (left, y), ha="left", va="center", color=colour)
    if above:
        axis.annotate(f"{above} ▸ ", (right, y), ha="right", va="center", color=colour)


def _logarithmic(axis: Axes, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high`, with ticks in plain numbers."""
    axis.set_xscale("log", nonpositive="clip")
    axis.set_xlim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    between = (1.0, 3.0) if len(powers) < 5 else (1.0,)
    ticks = [k * 10.0**p for p in powers for k in between if low <= k * 10.0**p <= high]
    ticks = ticks[:: -(-len(ticks) // 6)]
    axis.set_xticks(ticks, [f"{t:g}" if t < 1e5 else f"10{str(round(math.log10(t))).translate(RAISED)}" for t in ticks])
    axis.minorticks_off()


def _one(
    dots: Sequence[Dot], label: str, *, at: float | None = None, limits: tuple[float, float] | None = None
) -> Figure:
    """A figure of such lines, with a rule where nothing is to be seen."""
    figure = Figure(figsize=(6.6, 0.8 + 0.3 * len(dots)), layout="constrained")
    axis = quiet(figure.add_subplot())
    if limits is not None:
        axis.set_xlim(*limits)
    _dots(axis, dots)
    if at is not None:
        axis.axvline(at, color=SOFT, linewidth=0.8)
    axis.set_xlabel(label)
    return figure


@styled
def hole(audit: Audit) -> Figure | None:
    """The hole KL(qbar||p) of the population between its bounds, in nats; None where it was not measured.

    The thick line is the 95 % interval; above it stand the bounds that it was made from.
    """
    h = None if audit.latents is None else audit.latents.hole
    if h is None:
        return None
    bounds = [b for b in h.bounds if b.target == "population"]
    sides = {"below": "≥", "above": "≤", "equal": "="}
    dots = [dot(f"{sides[b.side]} {b.name}", b.estimate, SECOND) for b in bounds]
    margin = 0.08 * (h.high - h.low or 1.0)
    figure = _one(dots, "KL(q̄‖p), nats", limits=(min(0.0, h.low) - margin, h.high + margin))
    axis = figure.axes[0]
    axis.plot([h.low, h.high], [-1, -1], color=MARK, linewidth=7, solid_capstyle="butt")
    axis.set_ylim(-1.6, len(dots) - 0.4)
    names = [d.name for d in reversed(dots)]
    axis.set_yticks(range(-1, len(dots)), ["95 % interval", *names], color=INK)
    axis.axvline(0, color=SOFT, linewidth=0.8)
    if h.saturated:
        axis.axvline(h.floor, color=SOFT, linewidth=0.9, linestyle="--")
        axis.annotate(
            "mean KL − log N", (h.floor, -1), xytext=(-4, 6), textcoords="offset points", ha="right", color=SOFT
        )
    return figure


@styled
def memorised(audit: Audit) -> Figure | None:
    """A training row under what holds its own component, under all others, and an unseen row: a line for each r.

    The gain is the last one measured of the three gains. None where nothing holds components of single rows.
    """
    side = {} if audit.latents is None else audit.latents.leave_one_out
    if not side:
        return None
    lines = [(name, m.exact_posterior or m.elbo) for name, m in side.items()]
    figure = Figure(figsize=(6.6, 1.1 + 0.55 * len(lines)), layout="constrained")
    axis = quiet(figure.add_subplot())
    marks = {"self-included": ("o", PROBLEM), "leave-one-out": ("D", SECOND), "held-out": ("s", MARK)}
    ends = [e for name, found in lines if name.eligible or len(lines) == 1 for e in found.values()]
    low, high = min(0.0, *(e.low for e in ends)), max(0.0, *(e.high for e in ends))
    margin = 0.08 * (high - low or 1.0)
    axis.set_xlim(low - margin, high + margin)
    for y, (_, found) in enumerate(reversed(lines)):
        values = [e.value for e in found.values()]
        axis.plot([min(values), max(values)], [y, y], color=LINE, linewidth=2, zorder=1)
        _beyond(axis, [v for v in values if v < low - margin], y, INK)
        for k, e in found.items():
            shape, colour = marks[k]
            if e.value < low - margin:
                continue
            axis.plot(e.value, y, shape, color=colour, markersize=6, label=k if y == len(lines) - 1 else None)
    axis.axvline(0, color=SOFT, linewidth=0.8)
    axis.set_ylim(-0.6, len(lines) - 0.4)
    axis.set_yticks(range(len(lines)), [label_of(audit, name) for name, _ in reversed(lines)], color=INK)
    exact = any(m.exact_posterior for m in side.values())
    axis.set_xlabel(f"{'exact-posterior' if exact else 'ELBO'} gain over the prior, nats per row")
    axis.legend(frameon=False, labelcolor=INK, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@styled
def two_samples(audit: Audit) -> Figure | None:
    """Accuracy of a classifier that tells held-out codes from draws, around chance; None where it was not measured."""
    tests = {} if audit.latents is None else audit.latents.two_sample
    if not tests:
        return None
    level = audit.thresholds.level
    dots = [
        dot(label_of(audit, name), t.c2st.accuracy, PROBLEM if min(t.c2st.p_value, t.mmd.p_value) < level else SECOND)
        for name, t in tests.items()
    ]
    return _one(dots, "accuracy (1/2: cannot be told apart)", at=0.5)


@styled
def low_density(audit: Audit) -> Figure | None:
    """Log qbar at held-out codes and at draws of the prior, as two cumulative curves; None if not measured."""
    curves = {} if audit.latents is None else audit.latents.density_curves
    if not curves:
        return None
    figure = Figure(figsize=(6.6, 2.8), layout="constrained")
    axis = quiet(figure.add_subplot())
    for (name, values), colour in zip(curves.items(), (DATA, MARK), strict=True):
        levels = [(i + 0.5) / len(values) for i in range(len(values))]
        axis.plot(values, levels, color=colour, linewidth=2, label="held-out codes" if name == "codes" else name)
    axis.set_ylim(0, 1)
    axis.set_xlabel("log q̄(z), nats")
    axis.set_ylabel("proportion below")
    axis.legend(frameon=False, labelcolor=INK)
    return figure


@styled
def membership(audit: Audit) -> Figure | None:
    """AUC of an attack that tells training rows from held-out rows, around 1/2; None where it was not measured."""
    m = audit.membership
    if m is None:
        return None
    attacks = [] if m.model is None else [("the model itself", m.model)]
    attacks += [(label_of(audit, i), a) for i, a in m.candidates.items() if i.eligible]
    dots = [dot(name, a.auc, PROBLEM if a.auc.low > 0.5 else SECOND) for name, a in attacks]
    return _one(dots, "AUC (1/2: training rows cannot be told from unseen rows)", at=0.5) if dots else None


@styled
def averages(audit: Audit) -> Figure | None:
    """How wide each average of the posteriors is, and how far from them; None where it was not measured."""
    found = audit.averages
    if found is None:
        return None
    members = list(found.members.values())
    figure = Figure(figsize=(8.6, 0.9 + 0.3 * len(members)), layout="constrained")
    left, right = (quiet(a) for a in figure.subplots(1, 2))
    widths = [Dot(AVERAGES.get(m.name, m.name), m.width, m.width, m.width, SECOND) for m in members]
    _dots(left, widths)
    _logarithmic(left, min(m.width for m in members) / 2, max(m.width for m in members) * 2)
    left.axvline(found.width, color=SOFT, linewidth=0.9, linestyle="--")
    left.axvline(1, color=SOFT, linewidth=0.9)
    left.set_xlabel("width (dashed: a typical posterior; line: 1)")
    far = [dot("", m.forward, SECOND) for m in members]
    _dots(right, far, named=False)
    if min(d.low for d in far) > 0 and max(d.value for d in far) > 20 * min(d.value for d in far):
        _logarithmic(right, min(d.value for d in far) / 2, max(d.value for d in far) * 2)
    right.set_xlabel("mean KL(q‖r), nats")
    return figure


@styled
def fidelity(audit: Audit) -> Figure | None:
    """Samples of every candidate beside real rows, reconstructions and planted copies, one panel a measure.

    None without samples.
    """
    side = audit.samples
    if side is None:
        return None
    shown = [*side.controls.values(), *(e for e in side.entries if e.id.eligible or e.name == "prior")]
    panels: list[tuple[str, list[Estimate | None], float | None]]
    panels = [("Frechet distance", [s.fidelity.frechet for s in shown], None)]
    panels.append(("data covered", [s.fidelity.coverage for s in shown], None))
    panels.append(("samples inside the data", [s.fidelity.precision for s in shown], None))
    panels.append(("nearer to training rows", [None if s.copying is None else s.copying.regional for s in shown], 0.5))
    if any(s.tstr is not None for s in side.entries):
        panels.append(("accuracy trained on them", [None if s.tstr is None else s.tstr.accuracy for s in shown], None))
    panels = [p for p in panels if any(v is not None for v in p[1])]
    figure = Figure(figsize=(10.6, 0.9 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for i, (axis, (label, values, at)) in enumerate(zip(axes, panels, strict=True)):
        quiet(axis)
        known = [v for v in values if v is not None]
        least, most = min(v.value for v in known), max(v.value for v in known)
        if i == 0 and least > 0 and most > 8 * least:
            _logarithmic(axis, least / 2, 1.6 * most)
        dots = [
            Dot(s.label, *NOT_MEASURED, LINE) if e is None else dot(s.label, e, _colour(audit, s, label))
            for s, e in zip(shown, values, strict=True)
        ]
        _dots(axis, dots, named=i == 0)
        if at is not None:
            axis.axvline(at, color=SOFT, linewidth=0.8)
        axis.set_xlabel(label)
    return figure


def _colour(audit: Audit, s: Sampled, label: str) -> str:
    """Red where it copies, in the panel that shows copying; the chosen one in its colour; controls as the data."""
    if s.name in (REAL, RECONSTRUCTED, PLANTED):
        return DATA
    if label.startswith("nearer") and s.status == "copies":
        return PROBLEM
    return MARK if audit.samples is not None and s.name == audit.samples.verdict.choice else SECOND


@styled
def trade_off(audit: Audit) -> Figure | None:
    """Gain against copying against bytes, a point for each candidate, controls as lines; None without samples."""
    side = audit.samples
    if side is None:
        return None
    gain = audit.entries[0].heldout.surest
    points = []
    for s in side.entries:
        e = next((e for e in audit.entries if e.name == s.name), None)
        score = None if e is None else e.heldout.of(gain)
        if e is not None and score is not None and s.copying is not None and (e.eligible or e.name == "prior"):
            points.append((s, e, score.gain.value, s.copying.regional.value))
    if not points:
        return None
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axis = quiet(figure.add_subplot())
    for name in (PLANTED, RECONSTRUCTED):
        c = side.controls[name].copying
        if c is not None:
            axis.axhline(c.regional.value, color=SOFT, linewidth=0.8, linestyle=":")
            axis.annotate(
                name, (1, c.regional.value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=SOFT
            )
    middle = sum(x for *_, x, _ in points) / len(points)
    lowest = -1.0
    for s, e, x, y in sorted(points, key=lambda p: p[-1]):
        axis.plot(x, y, "o", color=_colour(audit, s, "nearer"), markersize=4 + 1.3 * math.log10(1 + e.bytes))
        lowest = max(y, lowest + LABEL)  # names of neighbours stand one above the other
        right, up = x <= middle, POINTS * (lowest - y)
        place: Any = {"xytext": (9, up), "ha": "left"} if right else {"xytext": (-9, up), "ha": "right"}
        text = f"{e.label}, {size(e.bytes)}"
        axis.annotate(text, (x, y), textcoords="offset points", va="center", color=INK, **place)
    axis.axvline(0, color=LINE, linewidth=0.8)
    axis.set_ylim(-0.05, 1.1)
    axis.xaxis.set_major_locator(MaxNLocator(TICKS))
    axis.margins(x=0.25)
    axis.set_xlabel(f"{gain.words} over the prior, nats per row")
    axis.set_ylabel("chance to be nearer to\nthe training set")
    return figure
