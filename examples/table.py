"""Print the README's tables of a run as Markdown: python examples/table.py runs/fashion"""

import re
import sys
from dataclasses import replace
from pathlib import Path

from zprime import Audit
from zprime.reporting import gains, samples
from zprime.results.audit import load as load_audit
from zprime.results.names import CandidateId, Gain
from zprime.results.samples import REAL, Sampled, SamplesSide
from zprime.tables import Table, to_markdown


def written(audit: Audit) -> str:
    """One row for each latent distribution, held-out gains with their standard errors."""
    return to_markdown(gains.table(audit).pick("name", "stored", "least rows", *Gain))


def compared(audit: Audit, side: SamplesSide) -> str:
    """One row for the controls and each latent distribution itself; of the choice, the candidate in its place."""
    table = samples.table(audit)
    assert table is not None
    choice = CandidateId.parse(side.verdict.choice)

    def kept(e: Sampled) -> bool:
        if e.id.name == choice.name:
            return e.id == choice
        return e.name != REAL and not e.id.percent

    pairs = zip(table.rows, [*side.controls.values(), *side.entries], strict=True)
    named: Table = replace(table, rows=[row for row, e in pairs if kept(e)])
    headings = {"frechet": "Fréchet distance", "cover": "coverage"}
    names = [c.name for c in table.columns if c.name != "inside"]
    text = to_markdown(named.pick(*names).named(**headings))
    return re.sub(r"\| copies(?=(; held-out: \w+)? \| \d)", "| **copies**", text)


def main(run: Path) -> None:
    """The tables, the sizes, the surgery and the verdict."""
    audit = load_audit(run / "audit")
    print(written(audit))
    if audit.samples is not None:
        print(f"\n{audit.samples.rows} held-out rows:\n\n{compared(audit, audit.samples)}")
    s = audit.surgery["train"]
    print(
        f"\n{audit.data.name}: {audit.data.sizes}, seed {audit.seed}, {audit.settings.rows} rows at most, "
        f"{audit.draws} draws. Training split: mean KL(q‖p) {s.mean_kl.value:.2f}, I {s.information} "
        f"of log N = {s.log_n:.2f}, KL(q̄‖p) {s.hole}, Gaussian part {s.gaussian_part.value:.2f}."
    )
    print(f"Verdict: {audit.verdict.sentence}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
