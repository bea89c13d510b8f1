"""The registry of sections: what stands on the page, in this order.

A section of what is there already (the numbers of a field, a figure) is one entry here; one with sentences, tables or
figures of its own has a file beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zprime.reporting import (
    averages,
    by_field,
    claims,
    costs,
    drift,
    figures,
    gains,
    latent_map,
    latents,
    likelihood,
    membership,
    outputs,
    pictures,
    provenance,
    samples,
    seeds,
    sheets,
    surgery,
)
from zprime.reporting.questions import questions
from zprime.reporting.section import Drawing, Section, Sentence, say
from zprime.results.audit import Audit
from zprime.tables import Table

SECTIONS: tuple[Section, ...] = (
    gains.SECTION,
    Section(
        "trade-off",
        "Gain against copying against bytes",
        field="samples",
        drawings=(
            Drawing(
                claims.trade_off,
                "Each point is a candidate; its size grows with the bytes stored. Further right: held-out data "
                "are likelier. Higher up: samples are nearer to training rows than reconstructions of unseen rows are. "
                "Dotted: reconstructions of unseen rows, where nothing is copied, and planted copies. Red: it copies.",
            ),
        ),
    ),
    Section(
        "evidence",
        "What the verdict by likelihood rests on",
        field="verdict",
        drawings=(
            Drawing(
                figures.verdict,
                "Held-out gain of the chosen distribution with its 95 % interval; below its "
                "one-sided 95 % limit by betting, whatever the tails of the gains; what is left of it after the "
                "allowance of the exchange check, which the verdict uses; and the shift that this check found on rows "
                "simulated from the prior and from the candidate: below 0 where the gain is overstated. Simulated rows "
                "may differ from real ones, so passing the check does not prove the gain.",
            ),
        ),
        numbers=True,
    ),
    Section("questions", "Questions that people ask", template="questions.html.j2", extra=questions),
    seeds.SECTION,
    sheets.SECTION,
    outputs.COUNTS,
    outputs.COLUMNS,
    samples.SECTION,
    membership.SECTION,
    samples.COPIED,
    likelihood.SECTION,
    latent_map.SECTION,
    Section(
        "components",
        "How many components?",
        field="entries",
        drawings=(
            Drawing(figures.components, "Number of components against ELBO gain on the selection split", said=False),
        ),
        note="ELBO gain on the selection split with 95 % intervals, over the number of components and what they take "
        "to store. The smallest K that is tied with the best is taken.",
    ),
    surgery.SECTION,
    latents.SECTION,
    averages.SECTION,
    drift.SECTION,
    costs.SECTION,
    provenance.SECTION,
)


WIDE = 8.0
"""Inches; a wider figure has a line of the page to itself."""


@dataclass(frozen=True)
class Plot:
    """A figure as SVG, what it shows, whether that stands below it, and whether it needs the whole width."""

    svg: str
    alt: str
    said: bool
    wide: bool


@dataclass(frozen=True)
class Shown:
    """A section of one audit, as its template needs it."""

    section: Section
    sentences: Sequence[Sentence]
    fold: Sequence[tuple[str, str]]
    plots: Sequence[Plot]
    tables: Sequence[Table]
    note: str
    about: str
    numbers: Sequence[Table]
    extra: Any

    @property
    def filled(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.sentences or self.plots or self.tables or self.numbers or self.extra)


def shown(audit: Audit) -> list[Shown]:
    """The sections that have something to show of this audit."""
    return [s for s in (_show(s, audit) for s in SECTIONS if applies(s, audit)) if s.filled]


def applies(section: Section, audit: Audit) -> bool:
    """Whether the field that it tells of was measured."""
    return not section.field or getattr(audit, section.field) not in (None, {})


def _show(s: Section, audit: Audit) -> Shown:
    drawn = [(d, d.draw(audit)) for d in s.drawings]
    plots = [
        Plot(pictures.svg(figure, f"{s.name}{i}"), say(d.alt, audit), d.said, bool(figure.get_figwidth() > WIDE))
        for i, (d, figure) in enumerate(drawn)
        if figure is not None
    ]
    return Shown(
        s,
        s.sentences(audit),
        s.fold.sentences(audit) if s.fold else (),
        plots,
        s.tables(audit),
        say(s.note, audit),
        by_field.about(s.field) if s.numbers else "",
        by_field.numbers(audit, s.field) if s.numbers else (),
        s.extra(audit) if s.extra else None,
    )
