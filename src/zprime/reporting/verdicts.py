"""Both verdicts, what is shipped after them, and why they differ where they do."""

from zprime.results.audit import Audit
from zprime.results.verdicts import Decision


def verdicts(audit: Audit) -> list[tuple[str, Decision]]:
    """What each verdict is called, and the verdict."""
    mark = " of a quick audit" if audit.settings.quick else ""
    told: list[tuple[str, Decision]] = [(f"by likelihood{mark}", audit.verdict)]
    return told if audit.samples is None else [*told, (f"for generation{mark}", audit.samples.verdict)]


def reasons(audit: Audit, verdict: Decision) -> list[str]:
    """Why, in a terminal: a verdict for generation says how it differs from the one by likelihood."""
    return verdict.why if verdict is audit.verdict else [*verdict.why, *filter(None, [difference(audit)])]


def shipped(audit: Audit) -> str:
    """What is shipped after both verdicts and, where they differ, why they do; empty without samples."""
    if audit.samples is None:
        return ""
    why = difference(audit)
    return f"To be shipped: {audit.entry(audit.shipped).label}." + (
        f" Why the two verdicts differ: {why}." if why else ""
    )


def difference(audit: Audit) -> str:
    """Why the two verdicts choose differently, in a sentence; empty where they do not."""
    side = audit.samples
    if side is None or side.verdict.choice == audit.verdict.choice:
        return ""
    ours, theirs = side.verdict.choice, audit.verdict.choice
    a, b = audit.entry(theirs).label, audit.entry(ours).label
    state = side.verdict.ranking.get(theirs, "")
    if state == "copies":
        return (
            f"likelihood hardly sees memorising: {a} makes held-out data likelier, but it generates near copies of "
            "training rows"
        )
    if state == "not cleared":
        return f"{a} is the likelier one, but it is not cleared of copying training rows"
    if state == "loses modes":
        return f"{a} is the likelier one, but its samples cover less of the data than the prior's do"
    if state == "covers less":
        return f"{a} is the likelier one, but its samples cover less of the data than those of its equals in distance"
    if side.verdict.decision in ("undecided", "none of these"):
        return (
            f"{a} is the choice by likelihood, which is compared row by row; its samples are not measurably better "
            f"than those of {b}"
        )
    if theirs == "prior" and audit.verdict.decision == "undecided":
        return f"by likelihood it could not be decided, but samples of {b} look more like the data than the prior's do"
    if theirs == "prior":
        return (
            f"by likelihood nothing was measurably better than the prior, but samples of {b} look more like the data; "
            "likelihood hardly sees bad samples (if 99 % of them are bad, it costs at most 4.6 nats)"
        )
    if state in ("best", "tied"):
        return (
            f"samples of {a} and of {b} cannot be told apart in quality; the rule then takes the one that is better by "
            "TSTR, or the smaller"
        )
    return (
        f"{a} is the likelier one, but its samples are farther from held-out data than those of {b}: likelihood counts "
        "every row, however rare, and a distance of samples counts what most of them look like"
    )


def changes(audit: Audit) -> str:
    """What could change the answer, in a sentence: what this audit did not look at."""
    decisions = {v.decision for _, v in verdicts(audit)}
    found = []
    if audit.settings.quick:
        found.append("the whole audit, in place of this quick one")
    if "undecided" in decisions:
        found.append("more held-out rows (four times as many halve every interval)")
    if audit.seeds is None:
        found.append(f"another training (this is one, of seed {audit.seed}; zprime run --seeds 3 repeats it)")
    if audit.drift is None:
        found.append("rows of another population (zprime audit --new-data looks at new ones)")
    if audit.likelihood is not None and audit.likelihood.other_scale is not None:
        found.append("another standard deviation of p(x|z) (see the note above)")
    return f"What could change this choice: {'; '.join(found)}." if found else ""
