"""The look of all figures: colours, type, and axes in the soft colour; and text in them as it is."""

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zprime.escape import label
from zprime.reporting.texts import texts
from zprime.results.audit import Audit

STYLE: Any = {
    "svg.hashsalt": "zprime",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
    "text.usetex": False,
}
INK, SOFT, LINE, DATA = "#1d2430", "#5b6470", "#c9d0da", "#7b8798"
MARK, SECOND, PROBLEM = "#1f5fa8", "#5d7083", "#b3263c"
"""Text, axes, rules, the data; the chosen one and what is drawn from it, what that is compared with, and what is wrong.

The page has two shades of each. Red stands for a problem and for nothing else.
"""

P = ParamSpec("P")
F = TypeVar("F", Figure, Figure | None)


def styled(draw: Callable[Concatenate[Audit, P], F]) -> Callable[Concatenate[Audit, P], F]:
    """Draw in our style, and leave the user's matplotlib settings as they are; names are drawn as they are."""

    @wraps(draw)
    def inner(audit: Audit, *args: P.args, **kwargs: P.kwargs) -> F:
        with mpl.rc_context(STYLE):
            return draw(_labelled(audit), *args, **kwargs)

    return cast("Callable[Concatenate[Audit, P], F]", inner)


_drawn: list[tuple[weakref.ref[Audit], Audit]] = []
"""The audit that was drawn last, and its copy for pictures: a page draws one audit many times."""


def _labelled(audit: Audit) -> Audit:
    """The same audit with names and sentences that matplotlib draws as they are."""
    for known, copy in _drawn:
        if known() is audit:
            return copy
    copy = texts(audit, label)
    _drawn[:] = [(weakref.ref(audit, lambda _: _drawn.clear()), copy)]
    return copy


def quiet(axis: Axes) -> Axes:
    """Axes in the soft colour."""
    axis.tick_params(colors=SOFT)
    axis.xaxis.label.set_color(SOFT)
    axis.yaxis.label.set_color(SOFT)
    for spine in axis.spines.values():
        spine.set_color(LINE)
    return axis
