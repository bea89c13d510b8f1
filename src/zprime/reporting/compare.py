"""Several audits on one page: verdicts side by side, and every latent distribution of every run in one table."""

from collections.abc import Sequence
from dataclasses import dataclass

from zprime.reporting import gains
from zprime.reporting.numbers import SAYS, Number, estimate
from zprime.reporting.sheets import Sheet, sheets
from zprime.reporting.words import data_name
from zprime.results.audit import Audit


@dataclass(frozen=True)
class Compared:
    """One run: its name, what it is, its numbers beside the others', the rows of its table and its samples."""

    name: str
    about: str
    audit: Audit
    numbers: list[Number]
    rows: list[gains.Row]
    sheets: list[Sheet]


HEADS = ["verdict's choice", "its gain", "log p(x), prior", "mean KL(q‖p)", "I", "KL(q̄‖p)", "active latents", "rows"]
UNLIKE = "These runs are not of the same data ({}): gains over the prior can be compared, log p(x) and KL cannot."


def compare(audits: Sequence[Audit], names: Sequence[str], *, public: bool = False) -> str:
    """The page as text: a pure function of the audits."""
    from zprime.reporting.page import render

    sets = sorted({data_name(a) for a in audits})
    same = len({a.data.content or a.data.name for a in audits}) == 1
    return render(
        "compare.html.j2",
        runs=[_compared(a, n, public=public) for a, n in zip(audits, short(names), strict=True)],
        heads=HEADS,
        headings=gains.headings(audits[0]),
        note="" if same else UNLIKE.format(", ".join(sets)),
        public=public,
    )


def short(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them share."""
    parts = [n.rstrip("/").split("/") for n in names]
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]


def _compared(audit: Audit, name: str, *, public: bool) -> Compared:
    choice = audit.entry(audit.verdict.choice)
    drawn = gains.rung(audit)
    gain = choice.heldout.of(drawn)
    s = audit.surgery["train"]
    d = len(s.dimension_kl)
    log_prior = "Mean of log p(x) of held-out rows under the prior, in nats (a lower bound in expectation)"
    numbers = [
        Number(choice.label, f"{audit.verdict.sentence}"),
        estimate(gain.gain if gain else None, SAYS[drawn]),
        estimate(audit.log_prior, log_prior, plain=True),
        estimate(s.mean_kl, SAYS["mean_kl"], plain=True),
        estimate(s.information, SAYS["information"], plain=True),
        estimate(s.hole, SAYS["hole"], plain=True),
        Number(f"{s.active} of {d}", SAYS["active"] + ".", s.active),
        Number(f"{s.mean_kl.n:,}", "Training rows.", s.mean_kl.n),
    ]
    about = f"{audit.data.name or 'data'}, {s.mean_kl.n:,} training rows, {d} latents, seed {audit.seed}"
    return Compared(name, about, audit, numbers, gains.rows(audit), sheets(audit, public=public))
