"""What each latent distribution costs: to fit, to keep, to draw from; and how its fit ended."""

from zprime.reporting.numbers import SAYS, Number
from zprime.reporting.table import size, spent, title
from zprime.results.audit import Audit

HEADS = ["", "fit, CPU s", "stored", "draws z′ per CPU s", "outcome"]


def rows(audit: Audit) -> list[tuple[str, list[Number]]]:
    """One row for every latent distribution that can be chosen, under `HEADS`."""
    out = []
    for e in audit.entries:
        if not e.eligible:
            continue
        decided = "; ".join(f"{k} {_short(v)}" for k, v in e.chosen.items() if isinstance(v, bool | int | float | str))
        numbers = [
            Number(spent(e), "CPU time of the fit, all threads together.", e.seconds),
            Number(size(e.bytes), f"{SAYS['stored']}: {e.bytes:,}.", e.bytes),
            Number(f"{e.rate:,.0f}", "Draws z′ per CPU second, in one call of 10,000.", e.rate),
            Number(e.outcome or "–", f"How the fit ended. Decided on the selection split: {decided or 'nothing'}."),
        ]
        out.append((title(e).strip(), numbers))
    return out


def _short(value: int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
