"""Print the README's tables of a run as Markdown: python examples/table.py runs/fashion"""

import sys
from pathlib import Path

from zprime import Audit
from zprime.measure.samples.side import PLANTED, RECONSTRUCTED
from zprime.reporting.table import RUNGS, cell, size, title
from zprime.results.audit import PURE
from zprime.results.audit import load as load_audit
from zprime.results.samples import SamplesSide
from zprime.statistics.estimate import Estimate, unsigned


def written(audit: Audit) -> str:
    """One row for each latent distribution, held-out gains with their standard errors."""
    lines = [
        "| z′ from | stored | of single rows | " + " | ".join(RUNGS.values()) + " |",
        "| --- " * (3 + len(RUNGS)) + "|",
    ]
    for e in audit.entries:
        scores = e.scores["heldout"]
        name = f"**{e.label}**" if e.name == audit.verdict.choice else title(e).strip()
        gains = [cell(scores.get(r)) for r in RUNGS]
        lines.append(f"| {name} | {size(e.bytes)} | {'yes' if e.holds_rows else 'no'} | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def samples(made: SamplesSide) -> str:
    """One row for the controls and each latent distribution; of one that is mixed with p for nothing, it alone."""
    heads = ["x′ from", "copies", "nearer", "Fréchet distance", "coverage", "student"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    names = [e.name for e in made.entries]
    for e in [made.controls[RECONSTRUCTED], made.controls[PLANTED], *made.entries]:
        chosen = e.name == made.verdict.choice
        if e.copying is None or (not chosen and e.name + PURE in names) or e.name == made.verdict.choice + PURE:
            continue
        cells = [
            f"**{e.label}**" if chosen else f"{e.label} alone" if e.name.endswith(PURE) else e.label,
            "**copies**" if e.status == "copies" else "no",
            share(e.copying.within),
            unsigned(e.fidelity.frechet),
            share(e.fidelity.coverage),
            "–" if e.utility is None else share(e.utility.accuracy),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(e: Estimate) -> str:
    """Three decimals, as all of its column."""
    return f"{e.value:.3f} ± {e.stderr or 0.0:.3f}"


def main(run: Path) -> None:
    """The tables, the sizes, the surgery and the verdict."""
    audit = load_audit(run / "audit")
    print(written(audit))
    if audit.generation is not None:
        print(f"\n{audit.generation.rows} held-out rows:\n\n{samples(audit.generation)}")
    s = audit.surgery["train"]
    print(
        f"\n{audit.data['name']}: {audit.data['sizes']}, seed {audit.seed}, {audit.settings.rows} rows at most, "
        f"{audit.settings.draws} draws. Training split: mean KL(q‖p) {s.mean_kl.value:.2f}, I {s.information} "
        f"of log N = {s.log_n:.2f}, KL(q̄‖p) {s.hole}, Gaussian part {s.gaussian_part.value:.2f}."
    )
    print(f"Verdict: {audit.verdict.sentence}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
