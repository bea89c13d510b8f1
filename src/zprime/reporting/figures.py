"""Figures of an audit, for the page, the notebook and papers: one function a figure, each returns a matplotlib Figure.

A notebook shows what such a function returns; `figure.savefig("gains.pdf")` writes it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zprime.errors import UsageError
from zprime.memory import size
from zprime.reporting.palette import DATA, INK, LINE, MARK, PROBLEM, SECOND, SOFT, quiet, styled
from zprime.reporting.words import drawn, latent
from zprime.results.audit import Audit
from zprime.results.names import CODES, Gain

BARS = 256  # dimensions that are drawn as a bar each

__all__ = [
    "bandwidth_path",
    "calibration",
    "components",
    "dimensions",
    "drift",
    "gains",
    "latent_map",
    "surgery",
    "verdict",
]


@styled
def gains(audit: Audit, *, gain: str = "") -> Figure:
    """Held-out gain over the prior of every latent distribution, with 95 % intervals.

    Args:
        audit: what was measured.
        gain: `elbo`, `exact_posterior` or `likelihood`; default: the likelihood gain if it was measured, else the ELBO
            gain.

    Raises:
        UsageError: this gain was not measured.
    """
    scores = audit.entries[0].heldout
    if gain and gain not in scores.measured:
        raise UsageError(f"gain: expected one of {', '.join(scores.measured)}, got {gain!r}")
    which = Gain(gain) if gain else scores.surest
    shown = [(e, s.gain) for e in audit.leading if (s := e.heldout.of(which)) is not None]
    lines = [(e.label, g.value, g.low, g.high, MARK if e.name == audit.verdict.choice else SECOND) for e, g in shown]
    return _intervals(lines, f"{which.words} over the prior, nats per row")


@styled
def verdict(audit: Audit) -> Figure | None:
    """What the verdict by likelihood rests on: the held-out gain with its limit by betting, and the exchange check.

    None where no candidate was checked.
    """
    v = audit.verdict
    if v.exchange is None:
        return None
    shift = v.exchange.delta
    lines = [("shift (exchange check)", shift.value, shift.low, shift.high, PROBLEM if v.exchange.failed else SECOND)]
    if v.heldout is not None and v.bet is not None and v.after_allowance is not None:
        gain = v.heldout
        lines = [
            ("held-out gain", gain.value, gain.low, gain.high, MARK),
            ("95 % limit by betting", v.bet.low, v.bet.low, gain.value, SOFT),
            ("gain less allowance", v.after_allowance, v.after_allowance, v.after_allowance, MARK),
            *lines,
        ]
    return _intervals(lines, "nats per row")


def _intervals(lines: list[tuple[str, float, float, float, str]], label: str) -> Figure:
    """Names, values, ends of their intervals and colours, from top to bottom, with a rule at 0."""
    figure = Figure(figsize=(6.2, 0.9 + 0.34 * len(lines)), layout="constrained")
    axis = quiet(figure.add_subplot())
    for y, (_, value, low, high, colour) in enumerate(reversed(lines)):
        axis.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
        axis.plot(value, y, "o", color=colour, markersize=5)
    axis.axvline(0, color=SOFT, linewidth=0.8)
    axis.set_yticks(range(len(lines)), [line[0] for line in reversed(lines)], color=INK)
    axis.set_ylim(-0.6, len(lines) - 0.4)
    axis.set_xlabel(label)
    return figure


@styled
def latent_map(audit: Audit) -> Figure:
    """Held-out codes beside draws from every distribution itself, on the codes' first two principal axes."""
    shown = drawn(audit)
    codes = audit.tensors[CODES].double()
    plane, centre = principal_axes(codes), codes.mean(0)

    def flat(z: Tensor) -> npt.NDArray[np.float64]:
        points: npt.NDArray[np.float64] = ((z.double() - centre) @ plane).numpy()[:1000]
        return points if points.shape[1] > 1 else np.hstack([points, np.zeros_like(points)])

    points = flat(codes)
    reach = float(np.abs(points).max()) * 1.15
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.0 * lines), layout="constrained")
    for i, (name, label) in enumerate(shown):
        axis = quiet(figure.add_subplot(lines, columns, i + 1))
        draws = flat(audit.tensors[f"map.{name}"])
        for z, colour in ((points, DATA), (draws, MARK)):
            axis.scatter(z[:, 0], z[:, 1], s=4, color=colour, alpha=0.45, linewidths=0, rasterized=True)
        axis.set_title(label, color=INK)
        axis.set_xlim(-reach, reach)
        axis.set_ylim(-reach, reach)
        axis.set_aspect("equal")
    return figure


def principal_axes(codes: Tensor, most: int = 2) -> Tensor:
    """Principal axes of `codes` in columns, shape [d, at most `most`], each with its largest entry positive."""
    _, _, axes = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    axes = axes[:most]
    signs: Tensor = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    positive: Tensor = (axes * signs).mT
    return positive


@styled
def components(audit: Audit) -> Figure | None:
    """Number of components K against the ELBO gain on the selection split and the bytes it takes, or None."""
    curves = [(e, e.curve) for e in audit.leading if e.curve and e.curve[0].setting == "components"]
    if not curves:
        return None
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axis = quiet(figure.add_subplot())
    for (e, curve), colour in zip(curves, (MARK, SECOND, DATA) * len(curves), strict=False):
        x = [c.value for c in curve]
        error = [1.96 * (c.stderr or 0.0) for c in curve]
        axis.errorbar(
            x, [c.gain for c in curve], yerr=error, marker="o", markersize=4, capsize=2, label=e.label, color=colour
        )
        at = e.chosen.settings.get("components")
        if at in x and e.bytes:
            gain = curve[x.index(at)].gain
            axis.annotate(f"K = {at}", (at, gain), xytext=(-6, 6), textcoords="offset points", ha="right", color=colour)
    axis.set_xscale("log")
    ticks = sorted({c.value for _, curve in curves for c in curve})
    stored = {c.value: c.bytes for _, curve in curves for c in curve}
    axis.set_xticks(ticks, [f"{t:g}\n{size(stored[t])}" if t in stored else f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("components K, and bytes stored")
    axis.set_ylabel("ELBO gain, selection split\n(nats per row)")
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.legend(frameon=False, labelcolor=INK)
    return figure


@styled
def surgery(audit: Audit, *, split: str = "train") -> Figure:
    """The KL term as a waterfall: what tells the data apart, the hole, and the part of it seen in two moments.

    Raises:
        UsageError: this split was not measured.
    """
    if split not in audit.surgery:
        raise UsageError(f"split: expected one of {', '.join(audit.surgery)}, got {split!r}")
    s = audit.surgery[split]
    shape = s.hole.value - s.gaussian_part.value
    bars = [
        ("mean KL(q‖p)", 0.0, s.mean_kl.value, DATA),
        (f"I: tells the data\napart (log N {s.log_n:.1f})", 0.0, s.information.value, SECOND),
        ("hole: mean\nand covariance", s.information.value, s.gaussian_part.value, MARK),
        ("hole:\nits shape", s.information.value + s.gaussian_part.value, shape, MARK),
    ]
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axis = quiet(figure.add_subplot())
    for i, (_, bottom, height, colour) in enumerate(bars):
        axis.bar(i, height, bottom=bottom, color=colour, width=0.62)
        top = bottom + max(height, 0.0)
        axis.annotate(f"{height:.1f}", (i, top), xytext=(0, 3), textcoords="offset points", ha="center", color=INK)
        if i < len(bars) - 1:
            level = s.mean_kl.value if i == 0 else bottom + height
            start = level if i else 0.0
            axis.plot([i + 0.31, i + 0.69], [start, start], color=SOFT, linewidth=0.8)
    axis.plot([0.55, 1.45], [s.log_n, s.log_n], color=SOFT, linewidth=0.9, linestyle="--")
    axis.set_xticks(range(len(bars)), [b[0] for b in bars], color=INK)
    axis.set_ylabel(f"nats, {split} split")
    axis.margins(y=0.12)
    return figure


@styled
def dimensions(audit: Audit, *, split: str = "train") -> Figure:
    """Every latent dimension: its mean KL, and the aggregated posterior's variance, of the means and within posteriors.

    Without the KL where the prior is not N(0, I): it is no sum over dimensions then.

    The two variances add up to 1 where the encoder is stationary and linear (docs/theory.md, section 4). A bar is
    hollow where it has collapsed: the variance of its means is below `Thresholds.active` (Burda et al. 2016).

    Raises:
        UsageError: this split was not measured.
    """
    if split not in audit.surgery:
        raise UsageError(f"split: expected one of {', '.join(audit.surgery)}, got {split!r}")
    s = audit.surgery[split]
    d = len(s.mean_variance)
    within = s.posterior_variance or [0.0] * d
    panels = 2 if s.dimension_kl else 1
    figure = Figure(figsize=(max(4.6, min(9.0, 1.2 + 0.32 * d)), 1.7 * panels), layout="constrained")
    *above, bottom = (quiet(a) for a in figure.subplots(panels, 1, sharex=True, squeeze=False).flat)
    active = [variance > audit.thresholds.active for variance in s.mean_variance]
    _bars(bottom, s.mean_variance, active, SECOND)
    _bars(bottom, within, active, LINE, on=s.mean_variance)
    bottom.set_ylabel("variance: means,\nand within (light)")
    for top in above:
        _bars(top, s.dimension_kl, active, SECOND)
        top.set_ylabel("mean KL, nats")
        bottom.axhline(1, color=SOFT, linewidth=0.8, linestyle="--")
    bottom.set_xlabel("latent (hollow: collapsed)")
    places = range(0, d, -(-d // 16))
    bottom.set_xticks(places, [latent(j) for j in places])
    return figure


def _bars(axis: Axes, heights: list[float], active: list[bool], colour: str, *, on: list[float] | None = None) -> None:
    """A bar for each dimension, hollow where it is not active; where there are many, one area in place of its bars."""
    base = np.zeros(len(heights)) if on is None else np.array(on)
    if len(heights) <= BARS:
        for i, height in enumerate(heights):
            face = colour if active[i] else "none"
            axis.bar(i, height, bottom=base[i], width=0.7, color=face, edgecolor=colour)
        return
    places, top = np.arange(len(heights)), base + np.array(heights)
    axis.fill_between(places, base, top, where=active, step="mid", color=colour, linewidth=0)
    axis.step(places, top, where="mid", color=colour, linewidth=0.3)


@styled
def calibration(audit: Audit, *, most: int = 12) -> Figure | None:
    """Rank histograms of the encoder on data simulated from the prior, in the order of latents; None if not measured.

    Where there are more than `most`, the worst of them.

    The grey band holds all bars of a histogram with probability 95 % if the encoder is calibrated (Talts et al. 2018).
    """
    if audit.likelihood is None or not audit.likelihood.calibration:
        return None
    c = audit.likelihood.calibration[0]
    order = sorted(sorted(range(len(c.names)), key=lambda j: c.chi_square[j])[:most])
    columns = min(4, len(order))
    lines = -(-len(order) // columns)
    figure = Figure(figsize=(2.1 * columns, 0.3 + 1.35 * lines), layout="constrained")
    for i, j in enumerate(order):
        axis = quiet(figure.add_subplot(lines, columns, i + 1))
        bars = c.counts[j]
        outside = [b < c.low or b > c.high for b in bars]
        axis.axhspan(c.low, c.high, color=LINE, linewidth=0, alpha=0.6)
        axis.bar(range(len(bars)), bars, width=0.8, color=[PROBLEM if o else SECOND for o in outside])
        axis.set_title(c.names[j], color=INK, fontsize=9)
        axis.set_xticks([])
        axis.set_ylim(0, None)
    return figure


@styled
def drift(audit: Audit, *, most: int = 24) -> Figure | None:
    """How far new rows' codes are from held-out rows', the farthest latents first; None if none were looked at."""
    if audit.drift is None:
        return None
    shifts = audit.drift.dimensions[:most]
    figure = Figure(figsize=(1.2 + 0.3 * len(shifts), 2.2), layout="constrained")
    axis = quiet(figure.add_subplot())
    colours = [PROBLEM if s.p_value < audit.thresholds.level else SECOND for s in shifts]
    axis.bar([latent(s.dimension) for s in shifts], [s.statistic for s in shifts], width=0.7, color=colours)
    axis.set_ylim(0, None)
    axis.set_xlabel("latent")
    axis.set_ylabel("largest gap")
    return figure


@styled
def bandwidth_path(audit: Audit) -> Figure | None:
    """Copying, from the training codes to one Gaussian, as posteriors are smoothed; None where it was not measured.

    Above, the chance that the copying test uses, with 95 % intervals, from 1 (copies) over 1/2 (as near to the
    training set as reconstructions of unseen rows) to 0 (off the data); below, Z_U and C_T. Lines: planted copies,
    reconstructions of unseen rows, and samples of the prior.
    """
    path = None if audit.samples is None else audit.samples.path
    if path is None:
        return None
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    top, bottom = (quiet(a) for a in figure.subplots(2, 1, sharex=True, height_ratios=(3, 2)))
    places = range(len(path.points))
    for x, point in zip(places, path.points, strict=True):
        e = point.copying.regional
        colour = {"copies": PROBLEM, "passes": MARK}.get(point.copying.status, DATA)
        top.plot([x, x], [e.low, e.high], color=colour, linewidth=2.5, solid_capstyle="butt")
        top.plot(x, e.value, "o", color=colour, markersize=5)
    for axis in (top, bottom):
        axis.set_xlim(-0.4, len(path.points) + 0.9)
    for name, c in path.beside.items():
        top.axhline(c.regional.value, color=SOFT, linewidth=0.8, linestyle=":")
        top.annotate(name, (len(path.points) + 0.9, c.regional.value), ha="right", va="bottom", color=SOFT)
        bottom.axhline(c.z_u.value, color=SOFT, linewidth=0.8, linestyle=":")
    top.axhspan(0.5 + audit.thresholds.copies / 2, 1, color=LINE, linewidth=0, alpha=0.35)
    top.set_ylim(-0.03, 1.08)
    top.set_ylabel("chance to be nearer to\nthe training set")
    for name, marker, colour in (("z_u", "o", INK), ("c_t", "s", DATA)):
        bars = [getattr(s.copying, name) for s in path.points]
        error = [[e.value - e.low for e in bars], [e.high - e.value for e in bars]]
        label = {"z_u": "Z_U", "c_t": "C_T"}[name]
        style: Any = {"marker": marker, "markersize": 4, "linewidth": 1, "capsize": 2}
        bottom.errorbar(places, [e.value for e in bars], yerr=error, color=colour, label=label, **style)
    bottom.axhline(0, color=LINE, linewidth=0.8)
    bottom.set_ylabel("normal deviates,\nbelow 0: copies")
    bottom.legend(frameon=False, labelcolor=INK, loc="lower right")
    names = ["codes", *(f"{s.bandwidth:g}" for s in path.points[1:])]
    bottom.set_xticks(places, names, color=INK)
    bottom.set_xlabel(f"bandwidth h that smooths the posteriors ({path.rows} samples at each)")
    return figure
