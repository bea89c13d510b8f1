"""What a terminal shows of an audit."""

from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from zprime.escape import visible
from zprime.memory import size
from zprime.reporting import before as refining
from zprime.reporting.compare import paired_table, short
from zprime.reporting.section import Section
from zprime.reporting.sections import SECTIONS, applies
from zprime.reporting.texts import texts
from zprime.reporting.verdicts import reasons, verdicts
from zprime.results.audit import Audit
from zprime.results.paired import common
from zprime.results.refined import Before
from zprime.results.verdicts import Decision
from zprime.tables import to_rich


def show(audit: Audit, *, width: int = 80) -> Group:
    """What a terminal of `width` columns should end with: gains, surgery, samples, verdicts."""
    audit = texts(audit, visible)
    summaries = [s.summary(audit, width) for s in SECTIONS if s.summary is not None and applies(s, audit)]
    return Group(
        *(to_rich(t, width) for t in summaries if t is not None),
        _notes(audit),
        *(_verdict(audit, name, v) for name, v in verdicts(audit)),
    )


def comparison(audits: Sequence[Audit], names: Sequence[str], *, width: int = 80) -> RichTable | Text:
    """Log p(x) of the same held-out rows under several runs, or why they are not compared row by row."""
    why = common(audits)
    if why:
        return Text(f"Their rows are not compared one by one: {why}.")
    return to_rich(paired_table([texts(a, visible) for a in audits], short(names)), width)


def refined(audit: Audit, before: Before, *, width: int = 80) -> Group:
    """Of a refined run: what refining was worth, and log p(x) before and after."""
    then = None if before.audit is None else texts(before.audit, visible)
    audit, before = texts(audit, visible), replace(before, audit=then)
    shown = refining.table(before, audit)
    return Group(*([] if shown is None else [to_rich(shown, width)]), Text(visible(refining.sentence(before, audit))))


def details(audit: Audit, *, width: int = 80) -> Group:
    """The rest of the audit, which the page shows too: latent side, likelihood and encoder, costs."""
    audit = texts(audit, visible)
    return Group(*(part for s in SECTIONS if s.details and applies(s, audit) for part in _section(s, audit, width)))


def _section(s: Section, audit: Audit, width: int) -> list[RichTable | Text]:
    """Its sentences where it has any, else its tables."""
    sentences = s.sentences(audit)
    told = [_told(s.title, pairs)] if (pairs := [x for x in sentences if not isinstance(x, str)]) else []
    alone = "".join(f"· {x}\n" for x in sentences if isinstance(x, str))
    return [*told, *([Text(alone)] if alone else [])] or [to_rich(t, width) for t in s.tables(audit)]


def _told(title: str, pairs: list[tuple[str, str]]) -> RichTable:
    heading = Text(title, style="table.title")
    table = RichTable(title=heading, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    table.add_column(ratio=1)
    table.add_column(ratio=3)
    for name, text in pairs:
        table.add_row(Text(name), Text(text))
    return table


def _notes(audit: Audit) -> Text:
    storage = audit.storage
    parts = [f"The |D| posteriors take {size(storage.posteriors)}"]
    if storage.posteriors_draws:
        parts.append(f" ({storage.posteriors_draws:,} draws z' a second)")
    if storage.data is not None:
        parts.append(f"; the training rows themselves {size(storage.data)}")
    if storage.data_draws is not None:
        parts.append(f" ({storage.data_draws:,} draws z' a second, encoding each)")
    parts.append(".")
    return Text("".join(parts) + "".join(f"\nNote: {w}." for w in audit.warnings))


def _verdict(audit: Audit, name: str, verdict: Decision) -> Panel:
    body = Text(verdict.sentence, style="bold")
    for reason in reasons(audit, verdict):
        body.append(f"\n· {reason}", style="not bold")
    return Panel(body, title=Text(f"Verdict {name}: {verdict.decision}"))
