"""Gains and verdicts over several trainings: the spread between seeds beside the error within one."""

from zprime.reporting.section import Section, Sentence
from zprime.results.audit import Audit
from zprime.results.seeds import CandidateOverSeeds, Seeds
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import decimals, explained, signed
from zprime.tables import NONE, Cell, Column, Row, Table

MEAN = "Mean over seeds, with its standard error over seeds"
BETWEEN = "Standard deviation of the gain between seeds, nats per row: what another training changes."
WITHIN = "Mean standard error of the gain within a seed, nats per row: what other held-out rows change."

MADE = " Made by the command below with --seeds {}; each run has a page of its own in seeds/SEED."


def table(audit: Audit) -> Table:
    """One row for each fit: its gain in every seed, the mean, and the spread between seeds and within one."""
    found = _of(audit)
    columns = [
        Column("name", "z′ from", "z' from", numeric=False),
        Column("mean", "mean over seeds", "mean"),
        Column("between", "s.d. between seeds", "between"),
        Column("within", "s.e. within a seed", "within"),
        *(Column(f"seed {s}", f"seed {s}") for s in found.seeds),
    ]
    title = f"Held-out {found.gain.words} over the prior in {len(found.seeds)} trainings, nats per row"
    notes = [": ".join(s) for s in sentences(audit)]
    return Table(title, columns, [_row(c, found) for c in found.candidates], "\n".join(notes))


def summary(audit: Audit, width: int) -> Table:
    """For a terminal of so many columns."""
    shown = table(audit)
    names = [c.name for c in shown.columns]
    return shown.pick(*(names if width >= 60 + 14 * len(_of(audit).seeds) else names[:4]))


def sentences(audit: Audit) -> list[tuple[str, str]]:
    """Both verdicts over seeds; none where there is one seed."""
    found = audit.seeds
    if found is None:
        return []
    told = [("By likelihood", found.likelihood.sentence)]
    if found.generation is not None:
        told.append(("For generation", found.generation.sentence))
    return [(name, said[0].upper() + said[1:]) for name, said in told]


def paragraphs(audit: Audit) -> list[str]:
    """For the answer in words: both verdicts, and the gain of the first choice that leaves the prior."""
    found = audit.seeds
    if found is None:
        return []
    trained = f"Training and audit were repeated with seeds {_list(found.seeds)}, on the same rows."
    told = [" ".join([trained, *(f"**{name}:** {said}" for name, said in sentences(audit))])]
    left = [c for c in found.likelihood.choices if c != "prior"]
    c = next((c for c in found.candidates if left and c.name == left[0]), None)
    if c is not None and c.mean is not None and c.between is not None:
        told.append(
            f"The {found.gain.words} of {c.name} is {c.mean} nats per row on average over {c.mean.n} seeds; it differs "
            f"by {_number(c.between, c)} (standard deviation) between seeds, and its standard error within one is "
            f"{_number(c.within, c)}."
        )
    return told


def _of(audit: Audit) -> Seeds:
    assert audit.seeds is not None, "a section is asked only where its field is there"
    return audit.seeds


def _row(c: CandidateOverSeeds, found: Seeds) -> Row:
    labels = ", ".join(dict.fromkeys(label for label in c.labels if label is not None))
    mean = Cell(NONE, MEAN) if c.mean is None else _mean(c.mean, found)
    between = Cell(NONE, BETWEEN) if c.between is None else Cell(_number(c.between, c), BETWEEN, c.between)
    within = Cell(_number(c.within, c), WITHIN, c.within)
    gains = [explained(g, label or f"{c.name} was not fitted") for g, label in zip(c.gains, c.labels, strict=True)]
    return Row([Cell(c.name, f"{labels}." if labels else "", c.name), mean, between, within, *gains])


def _mean(e: Estimate, found: Seeds) -> Cell:
    why = (
        f"{MEAN}; 95 % interval {e.low:.3g} to {e.high:.3g} {e.unit} (by the t distribution, {e.n} seeds: "
        f"{_list(found.seeds)}); {e.split} split."
    )
    return Cell(signed(e), why, e.value)


def _number(x: float, c: CandidateOverSeeds) -> str:
    """In as many decimals as show two figures of the smaller of both errors."""
    errors = [v for v in (c.between, c.within) if v]
    return f"{x:.{decimals(min(errors)) if errors else 2}f}"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _told(audit: Audit) -> list[Sentence]:
    return list(sentences(audit))


def _note(audit: Audit) -> str:
    found = _of(audit)
    return (
        "The gains and verdicts of the rest of this page are those of one VAE, trained with seed "
        f"{found.seeds[0]}. Here weights, row order, noise, fits and audit have other seeds, and the rows are split as "
        "before. A spread between seeds that is larger than the error within one says that the verdict is as much "
        "about the training as about the data. Where a split has more rows than an audit scores, each seed also draws "
        "its own." + (MADE.format(len(found.seeds)) if audit.command else "")
    )


SECTION = Section(
    "seeds",
    "Other trainings",
    field="seeds",
    sentences=_told,
    tables=lambda audit: [table(audit)],
    note=_note,
    summary=summary,
)
