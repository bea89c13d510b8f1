"""Print the README's tables of a run as Markdown: python examples/table.py runs/fashion"""

import sys
from pathlib import Path

from zprime import Audit
from zprime.measure.samples.side import PLANTED, RECONSTRUCTED
from zprime.reporting.table import cell, size, title
from zprime.results.audit import load as load_audit
from zprime.results.names import CandidateId, Gain
from zprime.results.samples import SamplesSide
from zprime.statistics.estimate import Estimate, unsigned


def written(audit: Audit) -> str:
    """One row for each latent distribution, held-out gains with their standard errors."""
    lines = [
        "| z′ from | stored | of single rows | " + " | ".join(g.words for g in Gain) + " |",
        "| --- " * (3 + len(Gain)) + "|",
    ]
    for e in audit.entries:
        name = f"**{e.label}**" if e.id == CandidateId(audit.verdict.choice) else title(e).strip()
        gains = [cell(e.heldout.of(g)) for g in Gain]
        lines.append(f"| {name} | {size(e.bytes)} | {'yes' if e.holds_rows else 'no'} | " + " | ".join(gains) + " |")
    return "\n".join(lines)


def samples(made: SamplesSide) -> str:
    """One row for the controls and each latent distribution; of one that is mixed with p for nothing, it alone."""
    heads = ["x′ from", "copies", "nearer", "Fréchet distance", "coverage", "TSTR"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    ids = [e.id for e in made.entries]
    for e in [made.controls[RECONSTRUCTED], made.controls[PLANTED], *made.entries]:
        chosen = e.id == CandidateId(made.verdict.choice)
        alone = CandidateId(e.name, alone=True)
        if (
            e.copying is None
            or (not chosen and not e.id.alone and alone in ids)
            or (e.id == CandidateId(made.verdict.choice, alone=True))
        ):
            continue
        cells = [
            f"**{e.label}**" if chosen else f"{e.label} alone" if e.id.alone else e.label,
            "**copies**" if e.status == "copies" else "no",
            share(e.copying.regional),
            unsigned(e.fidelity.frechet),
            share(e.fidelity.coverage),
            "–" if e.tstr is None else share(e.tstr.accuracy),
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
    if audit.samples is not None:
        print(f"\n{audit.samples.rows} held-out rows:\n\n{samples(audit.samples)}")
    s = audit.surgery["train"]
    print(
        f"\n{audit.data.name}: {audit.data.sizes}, seed {audit.seed}, {audit.settings.rows} rows at most, "
        f"{audit.settings.draws} draws. Training split: mean KL(q‖p) {s.mean_kl.value:.2f}, I {s.information} "
        f"of log N = {s.log_n:.2f}, KL(q̄‖p) {s.hole}, Gaussian part {s.gaussian_part.value:.2f}."
    )
    print(f"Verdict: {audit.verdict.sentence}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
