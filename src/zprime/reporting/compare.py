"""Several audits on one page: verdicts side by side, and every latent distribution of every run in one table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zprime.memory import size
from zprime.reporting import gains
from zprime.reporting.numbers import SAYS
from zprime.reporting.render import render
from zprime.reporting.sheets import Sheet, sheets
from zprime.reporting.words import data_name
from zprime.results.audit import Audit
from zprime.results.entries import Entry
from zprime.results.paired import Paired, common, paired
from zprime.results.public import publish
from zprime.statistics.format import explained, seconds
from zprime.tables import NONE, Cell, Column, Row, Table


@dataclass(frozen=True)
class Compared:
    """One run: its name, what it is, its audit and its samples."""

    name: str
    about: str
    audit: Audit
    sheets: list[Sheet]


HEADINGS = (
    "run",
    "verdict's choice",
    "its gain",
    "log p(x), prior",
    "mean KL(q‖p)",
    "I",
    "KL(q̄‖p)",
    "active latents",
    "rows",
)
LOG_PROB = "Mean of log p_r(x) over the held-out rows that all runs measured, in nats (a lower bound in expectation)"
OVER = "Mean of log p_r(x) less that of {first}, paired row by row"
SPENT = (
    "CPU time of the training, with all that a refined model went on from; of the fit too, where z' is from one that "
    "was fitted after it; of a job the first process alone"
)
UNLIKE = "These runs are not of the same data ({}): neither gains nor log p(x) and KL can be compared between them."


def compare(audits: Sequence[Audit], names: Sequence[str], *, public: bool = False) -> str:
    """The page as text: a pure function of the audits; a public one counts the runs, whose names are paths."""
    same = len({a.data.content or a.data.name for a in audits}) == 1
    if public:
        audits, names = [publish(a) for a in audits], [f"run {i}" for i in range(1, len(names) + 1)]
    sets = sorted({data_name(a) for a in audits})
    runs = [_compared(a, n) for a, n in zip(audits, short(names), strict=True)]
    unpaired = common(audits)
    return render(
        "compare.html.j2",
        runs=runs,
        side_by_side=Table("", [Column(h, h) for h in HEADINGS], [_row(r) for r in runs]),
        candidates=_candidates(runs),
        note="" if same else UNLIKE.format(", ".join(sets)),
        unpaired=unpaired,
        paired=None if unpaired else paired_table([r.audit for r in runs], [r.name for r in runs]),
        public=public,
    )


def short(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them share."""
    parts = [n.rstrip("/").split("/") for n in names]
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]


def _compared(audit: Audit, name: str) -> Compared:
    about = f"{data_name(audit)}, {audit.rows:,} training rows, {len(audit.variance)} latents, seed {audit.seed}"
    about += ", a quick audit" if audit.settings.quick else ""
    return Compared(name, about, audit, sheets(audit))


def _row(run: Compared) -> Row:
    audit = run.audit
    choice = audit.entry(audit.verdict.choice)
    drawn = gains.drawn_gain(audit)
    gain = choice.heldout.of(drawn)
    s = audit.surgery.get("train")
    log_prior = "Mean of log p(x) of held-out rows under the prior, in nats (a lower bound in expectation)"
    active = SAYS["active"].format(active=audit.thresholds.active)
    cells = [
        Cell(run.name, key=run.name),
        Cell(choice.label, f"{audit.verdict.sentence}", choice.label),
        explained(gain.gain if gain else None, drawn.says),
        explained(audit.log_prior, log_prior, plain=True),
        *(
            explained(None if s is None else getattr(s, n), SAYS[n], plain=True)
            for n in ("mean_kl", "information", "hole")
        ),
        Cell(f"{audit.active} of {len(audit.variance)}", active + ".", audit.active),
        Cell(f"{audit.rows:,}", "Training rows.", audit.rows),
    ]
    return Row(cells)


def _candidates(runs: Sequence[Compared]) -> Table:
    """The rows of all runs' tables of gains, each with the name of its run."""
    tables = [gains.table(r.audit).pick(*(n for n in gains.PAGE if n != "drawn")) for r in runs]
    first, *others = tables[0].columns
    rows = [
        replace(row, cells=[row.cells[0], Cell(run.name, key=run.name), *row.cells[1:]])
        for run, table in zip(runs, tables, strict=True)
        for row in table.rows
    ]
    return Table("", [first, Column("run", "run", numeric=False), *others], rows)


def paired_table(audits: Sequence[Audit], names: Sequence[str], *, also: str = "") -> Table:
    """Log p(x) of the same held-out rows under the prior of each run and its verdict's choice.

    Args:
        audits: of runs whose rows can be compared (`results.paired.common` is empty).
        names: of the runs.
        also: another row of the first run's audit, e.g. `mixture`; empty for none.
    """
    over = f"{names[0]}, prior"
    headings = ("run", "z′ from", "which is", "log p(x)", f"over {over}", "stored", "CPU s")
    rows = [
        _paired_row(name, e, paired(audit, str(e.id), audits[0], "prior"), audit, first=(i, j) == (0, 0), over=over)
        for i, (audit, name) in enumerate(zip(audits, names, strict=True))
        for j, e in enumerate(_told(audit, "" if i else also))
    ]
    return Table("Row by row", [Column(h, h, numeric=h in headings[3:]) for h in headings], rows)


def _told(audit: Audit, also: str) -> list[Entry]:
    """The prior, and what the verdict by likelihood chose; between them `also`."""
    names = ["prior", *([also] if also else []), audit.verdict.choice]
    return [audit.entry(name) for name in dict.fromkeys(names)]


def _paired_row(name: str, e: Entry, p: Paired, audit: Audit, *, first: bool, over: str) -> Row:
    gain = (
        Cell(NONE, "What the others are compared with.") if first else explained(p.difference, OVER.format(first=over))
    )
    return Row(
        [
            Cell(name, key=name),
            Cell(e.label),
            Cell(came(audit, e)),
            explained(p.log_prob, LOG_PROB, plain=True),
            gain,
            Cell(size(e.bytes), SAYS["stored"] + ".", e.bytes),
            _spent(audit, e),
        ]
    )


def _spent(audit: Audit, e: Entry) -> Cell:
    """CPU seconds that model and latent distribution took; a dash where a part of them was not measured."""
    fit = 0.0 if e.id.name == "prior" else e.seconds
    whole = None if audit.model.seconds is None or fit is None else audit.model.seconds + fit
    return Cell(seconds(whole), SPENT + ".", whole)


def came(audit: Audit, e: Entry) -> str:
    """Where a latent distribution comes from: it was the prior in training, given or learned, or fitted after it."""
    if e.id.name != "prior":
        return "post hoc"
    return {"learned": "learned in training", "refined": "refined"}.get(audit.model.prior, "the prior in training")
