"""docs/kinds/compared.md from three runs: python examples/kinds.py RUN-DIGITS RUN-FASHION RUN-2000 (`make kinds`)"""

import sys
from pathlib import Path

from pages import DOCS, put, table

from zprime.memory import size
from zprime.reporting import gains
from zprime.results.audit import Audit
from zprime.results.audit import load as load_audit
from zprime.results.facts import CurvePoint
from zprime.results.names import Gain
from zprime.statistics.format import proportion
from zprime.tables import NONE, Style

PAGE = DOCS / "kinds" / "compared.md"


def all_kinds(audit: Audit) -> str:
    """Cost and held-out gains of everything that was fitted, and where the figures come from."""
    heads = ["fitted as", "z′ from", "stored", "rows behind, at least", "fit, CPU s", "draws per CPU s"]
    shown = gains.table(audit).pick("name", "stored", "least rows", *Gain)
    rows, first = [], {e.id for e in audit.leading}
    for e, row in zip(audit.entries, shown.rows, strict=True):
        name, stored, kept, *measured = (c.text for c in row.cells)
        label = f"**{e.label}**" if row.style is Style.CHOSEN else name
        spent = [NONE if e.seconds is None else f"{e.seconds:,.0f}", f"{e.draws_per_second:,.0f}"]
        leads = e.id in first
        rows.append([e.id.name if leads else "", label, stored, kept, *(spent if leads else ["", ""]), *measured])
    data, s = audit.data, audit.settings
    return table([*heads, *(g.words for g in Gain)], rows) + (
        f"\n\n{data.name}: {data.sizes}; {audit.model.latents} latents; ± one standard error; at most {s.rows} "
        f"held-out rows and {s.draws} draws for the likelihood gain; seed {audit.seed}. {audit.verdict.sentence}"
    )


def curve(audits: dict[str, Audit]) -> str:
    """K against bytes and the gain on the selection split, for the mixture of each run."""
    points = {
        n: {int(c.value): c for e in a.leading if e.id.name == "mixture" for c in e.curve} for n, a in audits.items()
    }
    heads = ["K", *(f"{n}: {what}" for n in audits for what in ("stored", "share of p", "ELBO gain"))]
    tried = sorted({k for p in points.values() for k in p})
    return table(heads, [[str(k), *(cell for p in points.values() for cell in _cells(p.get(k)))] for k in tried])


def _cells(point: CurvePoint | None) -> list[str]:
    if point is None:
        return ["", "", ""]
    return [size(point.bytes), proportion(point.epsilon), f"{point.gain:+.2f} ± {point.stderr or 0.0:.2f}"]


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
