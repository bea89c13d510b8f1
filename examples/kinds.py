"""docs/kinds/compared.md from three runs: python examples/kinds.py RUN-DIGITS RUN-FASHION RUN-2000 (`make kinds`)"""

import sys
from pathlib import Path

from pages import DOCS, put, table

from zprime.reporting.table import cell, size, title
from zprime.results.audit import Audit, Entry
from zprime.results.audit import load as load_audit
from zprime.results.names import CandidateId, Gain

PAGE = DOCS / "kinds" / "compared.md"


def all_kinds(audit: Audit) -> str:
    """Cost and held-out gains of everything that was fitted, and where the figures come from."""
    heads = [
        "fitted as",
        "z′ from",
        "stored",
        "of single rows",
        "fit, CPU s",
        "draws per CPU s",
        *(g.words for g in Gain),
    ]
    data, s = audit.data, audit.settings
    return table(heads, [_line(audit, e) for e in audit.entries]) + (
        f"\n\n{data.name}: {data.sizes}; {audit.model.latents} latents; ± one standard error; at "
        f"most {s.rows} held-out rows and {s.draws} draws a row; seed {audit.seed}. {audit.verdict.sentence}"
    )


def _line(audit: Audit, e: Entry) -> list[str]:
    label = f"**{e.label}**" if e.id == CandidateId(audit.verdict.choice) else title(e).strip()
    name, cost = "", ["", ""]
    if e.eligible:
        name, cost = e.name, ["–" if e.seconds is None else f"{e.seconds:,.0f}", f"{e.draws_per_second:,.0f}"]
    gains = [cell(e.heldout.of(g)) for g in Gain]
    return [name, label, size(e.bytes), "yes" if e.holds_rows else "no", *cost, *gains]


def curve(audits: dict[str, Audit]) -> str:
    """K against bytes and the gain on the selection split, for the mixture of each run."""
    found = {n: {int(c.value): c for c in a.entry("mixture").curve} for n, a in audits.items()}
    heads = ["K", *(f"{n}: {what}" for n in audits for what in ("stored", "share of p", "ELBO gain"))]
    rows = []
    for k in sorted({k for f in found.values() for k in f}):
        cells = [str(k)]
        for f in found.values():
            c = f.get(k)
            cells += (
                ["", "", ""] if c is None else [size(c.bytes), f"{c.epsilon:.0%}", f"{c.gain:+.2f} ± {c.stderr:.2f}"]
            )
        rows.append(cells)
    return table(heads, rows)


def main(digits: Path, fashion: Path, few: Path) -> None:
    """Fill the page."""
    audits = {
        name: load_audit(run / "audit")
        for name, run in zip(("digits", "fashion", "few"), (digits, fashion, few), strict=True)
    }
    for name, audit in audits.items():
        put(PAGE, name, all_kinds(audit))
    put(PAGE, "curve", curve({"digits": audits["digits"], "Fashion-MNIST": audits["fashion"]}))


if __name__ == "__main__":
    main(*(Path(p) for p in sys.argv[1:4]))
