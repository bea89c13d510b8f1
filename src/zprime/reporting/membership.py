"""Who was in the training set: one attack on the model, and one on every latent distribution."""

from zprime.reporting import claims
from zprime.reporting.section import Drawing, Section
from zprime.reporting.words import bullets
from zprime.results.audit import Audit
from zprime.results.likelihood import Attack, Membership
from zprime.results.names import CandidateId, Gain
from zprime.results.settings import ENOUGH
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import explained, interval
from zprime.tables import NONE, Cell, Column, Row, Style, Table

AREA = "Chance that a training row scores above a held-out row; 1/2 where the score tells nothing"
RATE = (
    "Proportion of training rows above the score that 1 % of held-out rows exceed; 0.01 where the score tells nothing. "
    "The interval has the error of that threshold in it"
)
LIMITS = (
    "This is one attack, by someone who has encoder, decoder and latent distribution. A stronger one (shadow models, "
    "likelihood ratios) may find more, and no attack that fails shows that nothing is given away. Differential privacy "
    "is a property of training, which zprime does not give."
)


def table(audit: Audit) -> Table:
    """The model, and every latent distribution."""
    m = audit.membership
    columns = [
        Column("name", "scored by", numeric=False),
        Column("auc", "AUC"),
        Column("rate", "true positives at 1 % false"),
    ]
    if m is None:
        return Table("", columns, [])
    rows = [] if m.model is None else [_row("the model: log p(x) under the prior", m.model, Style.CONTROL)]
    for i, attack in m.candidates.items():
        e = audit.entry(str(i))
        rows.append(_row(f"{m.score.words} of {e.title}", attack, Style.PLAIN if e.eligible else Style.ITSELF))
    return Table(f"Training rows told from held-out rows ({_sample(audit, m)})", columns, rows)


def _row(name: str, attack: Attack, style: Style) -> Row:
    rate = Cell(NONE, f"{RATE}; not told with fewer than {ENOUGH} held-out rows.")
    if attack.rate is not None:
        rate = _cell(attack.rate, RATE)
    return Row([Cell(name), _cell(attack.auc, AREA), rate], style)


def _cell(e: Estimate, says: str) -> Cell:
    """With its interval, which is not symmetric."""
    return Cell(interval(e), explained(e, says, plain=True).why, e.value)


def _sample(audit: Audit, m: Membership) -> str:
    return f"{m.members:,} training and {m.others:,} held-out rows, seed {audit.seed}"


def sentences(audit: Audit) -> list[str]:
    """The model, what the verdict would take, and what stores rows; what the attack cannot show."""
    m = audit.membership
    if m is None:
        return []
    start = f"Training rows against held-out rows ({_sample(audit, m)}; 95 % intervals)"
    return [f"{start}: {'; '.join(_found(audit, m))}.", LIMITS]


def _found(audit: Audit, m: Membership) -> list[str]:
    """The model, the candidate that the verdict looked at, and the one that gives away most."""
    found = [] if m.model is None else [f"by log p(x) under the prior, which is the model's own part, {_said(m.model)}"]
    best, shown = CandidateId.parse(audit.verdict.best), {e.id for e in audit.entries}
    most = max(m.candidates, key=lambda i: m.candidates[i].auc.value, default=best)
    for i in dict.fromkeys((best, most)):
        if i in m.candidates and i in shown:
            title = audit.entry(str(i)).title
            found.append(f"by the {m.score.words} of {title}, {_said(m.candidates[i])}")
    return found


def _said(attack: Attack) -> str:
    a = attack.auc
    known = "above chance" if a.low > 0.5 else "below chance" if a.high < 0.5 else "not told apart from chance, 1/2"
    rate = (
        "" if attack.rate is None else f", and {interval(attack.rate)} of training rows are found at 1 % false alarms"
    )
    return f"AUC {interval(a)} ({known}){rate}"


def paragraphs(audit: Audit) -> list[str]:
    """The answer's part on who was in D."""
    m = audit.membership
    if m is None:
        return []
    told = [
        "Someone who has the model scores rows by it, and takes those that score high for training rows. What the "
        "decoder and the encoder give away shows in log p(x) under p(z); what a latent distribution gives away beside "
        f"it shows in its {m.score.words} ({_sample(audit, m)}; 95 % intervals):",
        bullets([f"{text[0].upper()}{text[1:]}." for text in _found(audit, m)]),
    ]
    choice = audit.entry(audit.shipped)
    if choice.name != "prior":
        told.append(f"What is stored of {choice.label}: {choice.kept}.")
    return [*told, LIMITS]


def _note(audit: Audit) -> str:
    m = audit.membership
    if m is None:
        return ""
    ratio = "log p_r(x) − log p_p(x) with the decoder" if m.score is Gain.LIKELIHOOD else "on codes alone"
    rate = "" if m.others >= ENOUGH else f" With fewer than {ENOUGH} held-out rows no rate at 1 % is told."
    return (
        f"AUC: {AREA[0].lower()}{AREA[1:]}. Values in brackets are 95 % intervals. The gain ({ratio}) takes away what "
        f"the model finds likely by itself.{rate}"
    )


SECTION = Section(
    "membership",
    "Who was in the training set?",
    field="membership",
    sentences=sentences,
    drawings=(
        Drawing(
            claims.membership,
            "Chance that a training row scores above an unseen row, by the model itself and by the gain of each "
            "candidate, with 95 % intervals. Red: training rows can be told from unseen ones.",
        ),
    ),
    tables=lambda audit: [table(audit)],
    note=_note,
    details=True,
)
