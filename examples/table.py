"""Print the README's table of a run as Markdown: python examples/table.py runs/fashion"""

import sys
from pathlib import Path

from zprime import Audit, record
from zprime.reporting.table import RUNGS, cell, size, title


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


def main(run: Path) -> None:
    """The table, the sizes, the surgery and the verdict."""
    audit = record.load(run / "audit")
    print(written(audit))
    s = audit.surgery["train"]
    print(
        f"\n{audit.data['name']}: {audit.data['sizes']}, seed {audit.seed}, {audit.settings.rows} rows at most, "
        f"{audit.settings.draws} draws. Training split: mean KL(q‖p) {s.mean_kl.value:.2f}, I {s.information} "
        f"of log N = {s.log_n:.2f}, KL(q̄‖p) {s.hole}, Gaussian part {s.gaussian_part.value:.2f}."
    )
    print(f"Verdict: {audit.verdict.sentence}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
