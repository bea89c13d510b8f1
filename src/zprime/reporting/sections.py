"""Sections of an audit without a drawing of their own: any dataclass of estimates as tables, told by its docstring.

A measure that adds a field to `Audit` is on the page without a line here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from zprime.reporting import cost, figures, latents, likelihood, pictures, samples
from zprime.reporting.numbers import Number, attributes, estimate
from zprime.reporting.table import title
from zprime.results.audit import Audit
from zprime.results.verdicts import Decision
from zprime.statistics.estimate import Estimate

DRAWN = frozenset(
    "data model entries surgery verdict log_prior storage settings seed tensors images warnings versions inputs thresholds".split()  # noqa: SIM905
)


MOST = 40
"""Rows of a table of single numbers; longer ones are no reading."""


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first cell of a row is its name."""

    caption: str
    heads: list[str]
    rows: list[tuple[str, list[Number]]]


@dataclass(frozen=True)
class Plot:
    """A figure as SVG, and what it shows."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, what its numbers say in words, figures, and tables of all the numbers."""

    title: str
    says: str
    tables: list[Table]
    sentences: Sequence[str | tuple[str, str]] = ()
    plots: list[Plot] = field(default_factory=list)
    more: tuple[str, Sequence[tuple[str, str]]] = ("", ())  # what is folded away: its title, and sentences


IN_WORDS: dict[str, tuple[str, Callable[[Audit], Sequence[str | tuple[str, str]]]]] = {
    "samples": ("Samples beside data", samples.lines),
    "drift": ("New rows", lambda audit: [] if audit.drift is None else [audit.drift.sentence]),
    "latents": ("The latent side", latents.lines),
    "likelihood": ("The likelihood and the encoder", likelihood.sentences),
}
"""Field of the audit -> its heading, and its numbers in sentences that the terminal shares."""

MORE: dict[str, tuple[str, Callable[[Audit], Sequence[tuple[str, str]]]]] = {
    "samples": ("Copying, one by one", samples.each),
}
"""Field of the audit -> longer sentences, folded away under a title."""

PLOTS: dict[str, list[tuple[Callable[[Audit], Figure | None], str]]] = {
    "samples": [
        (
            figures.bandwidth_path,
            "The road from copies to off the data: samples from the training codes themselves, from the aggregated "
            "posterior (h = 0), and from posteriors smoothed until they are one Gaussian (h = 1). Above: chance, with "
            "95 % interval, that a sample is nearer to the training set than a reconstruction of an unseen row is. "
            "Red: copies; the gate closes where the interval lies in the grey and the nearness is to single rows. Well "
            "below 1/2: off the data. Below: Z_U and C_T (Meehan et al. 2020). Dotted: controls and prior, as many "
            "samples each.",
        )
    ],
    "drift": [
        (
            figures.drift,
            "How far the codes of new rows are from those of held-out rows, latent by latent, the farthest first: the "
            "largest gap between the two distribution functions (Kolmogorov and Smirnov). Red: p below 0.05 after "
            "Holm's correction for the number of latents.",
        )
    ],
    "likelihood": [
        (
            figures.calibration,
            "Ranks of what made simulated data among draws of its posterior, latent by latent: flat if the "
            "encoder is calibrated; a hump means too wide, a bowl too narrow, a slope off centre (Talts et al. 2018).",
        )
    ],
}
"""Field of the audit -> its figures, each with what it shows."""


def _plots(audit: Audit, name: str) -> list[Plot]:
    made = [(draw(audit), alt) for draw, alt in PLOTS.get(name, [])]
    return [Plot(pictures.svg(f, f"{name}{i}"), alt) for i, (f, alt) in enumerate(made) if f is not None]


def sections(audit: Audit) -> list[Section]:
    """All sections that the page does not draw by name."""
    told = attributes(Audit)
    labels = {str(e.id): title(e).strip() for e in audit.entries}
    out = []
    for f in dataclasses.fields(audit):
        value = getattr(audit, f.name)
        if f.name in DRAWN or value is None or (isinstance(value, Mapping | list) and not value):
            continue
        tables = _tables(value, told.get(f.name, ""))
        if f.name != "averages":  # these are without the share of the prior that a candidate of the same name may have
            tables = [_labelled(t, labels) for t in tables]
        if tables:
            heading, say = IN_WORDS.get(f.name, (_words(f.name), lambda _: []))
            summary, longer = MORE.get(f.name, ("", lambda _: []))
            more = (summary, longer(audit))
            out.append(Section(heading, told.get(f.name, ""), tables, say(audit), _plots(audit, f.name), more))
    out.append(Section("What each costs", "", [Table("", cost.HEADS, cost.rows(audit))]))
    return out


def _labelled(table: Table, labels: Mapping[str, str]) -> Table:
    """Rows called as in the table of gains."""
    return dataclasses.replace(table, rows=[(labels.get(k, k), numbers) for k, numbers in table.rows])


def verdicts(audit: Audit) -> list[tuple[str, Decision]]:
    """Verdicts beside the one by likelihood: name of the section that gives it, and the verdict."""
    found = [(f.name, getattr(getattr(audit, f.name), "verdict", None)) for f in dataclasses.fields(audit)]
    return [(_words(name).lower(), v) for name, v in found if isinstance(v, Decision)]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Estimate | type)


def _tables(value: Any, says: str) -> list[Table]:
    """One table of the values, and one for every table inside."""
    if isinstance(value, Mapping):
        return _of_mapping(value, says)
    if isinstance(value, list | tuple):
        return _of_mapping({_name_of(v, i): v for i, v in enumerate(value)}, says)
    if not _is_section(value):
        return _of_mapping({"": value}, says)
    told = attributes(type(value))
    plain, out = [], []
    for f in dataclasses.fields(value):
        inner, about = getattr(value, f.name), told.get(f.name, "")
        if f.name in ASIDE:
            continue
        if _is_section(inner) or isinstance(inner, Mapping | list | tuple):
            out += _called(_words(f.name), _tables(inner, about))
        elif inner is not None and inner != "":
            plain.append((_words(f.name), [_number(inner, about)]))
    return ([Table("", ["", "value"], plain)] if plain else []) + out


ASIDE = frozenset(("seed", "verdict", "name", "label", "source"))
"""Fields that are told elsewhere: the seed behind each number, a verdict at the top, a name at the head of its row."""


def _name_of(value: Any, i: int) -> str:
    """What a thing in a list calls itself."""
    return next((str(getattr(value, k)) for k in ("label", "name", "source") if hasattr(value, k)), str(i + 1))


def _called(caption: str, tables: list[Table]) -> list[Table]:
    return [dataclasses.replace(t, caption=": ".join(filter(None, (caption, t.caption)))) for t in tables if t.rows]


def _of_mapping(value: Mapping[Any, Any], says: str) -> list[Table]:
    """Name -> estimate gives one column, name -> mapping a column a key, name -> dataclass a column a field.

    What does not fit a cell becomes a table of its own, with the same rows.
    """
    value = {str(k): v for k, v in value.items() if v is not None}
    first: Any = next(iter(value.values()), None)
    if _is_section(first):
        return _of_sections(value)
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(n for v in value.values() for n in v))
        if all(_shown(x) for v in value.values() for x in v.values()):
            return [Table("", ["", *names], [(k, [_number(v.get(n), says) for n in names]) for k, v in value.items()])]
        return [t for n in names for t in _called(n, _of_mapping({k: v.get(n) for k, v in value.items()}, says))]
    rows = [(k, [_number(v, says)]) for k, v in value.items() if _shown(v)]
    return [Table("", ["", "value"], rows)] if rows and len(rows) <= MOST else []


def _of_sections(value: Mapping[str, Any]) -> list[Table]:
    first = next(iter(value.values()))
    told = attributes(type(first))
    plain, out = [], []
    for f in dataclasses.fields(first):
        cells = {k: getattr(v, f.name) for k, v in value.items()}
        if f.name in ASIDE or all(c is None for c in cells.values()):
            continue
        if all(_shown(c) for c in cells.values()):
            plain.append(f.name)
        elif not any(isinstance(c, list | tuple) for c in cells.values()):
            out += _called(_words(f.name), _of_mapping(cells, told.get(f.name, "")))
    rows = [(k, [_number(getattr(v, n), told.get(n, "")) for n in plain]) for k, v in value.items()]
    return ([Table("", ["", *map(_words, plain)], rows)] if plain else []) + out


def _shown(value: Any) -> bool:
    return value is None or isinstance(value, Estimate | str | bool | int | float)


def _number(value: Any, says: str) -> Number:
    if isinstance(value, Estimate):
        return estimate(value, says or value.unit, plain=True)
    why = says.rstrip(".") + "." if says else ""
    if value is None:
        return Number("–", why)
    if isinstance(value, bool):
        return Number("yes" if value else "no", why, float(value))
    if isinstance(value, float):
        return Number(f"{value:.4g}" if math.isfinite(value) else str(value), why, value)
    if isinstance(value, int):
        return Number(f"{value:,}", why, value)
    return Number(str(value) if _shown(value) else "…")
