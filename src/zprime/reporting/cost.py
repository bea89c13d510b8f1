"""What each latent distribution costs: to fit, to keep, to draw from; and how its fit ended."""

from zprime.reporting.numbers import SAYS, Number
from zprime.reporting.table import size, spent, title
from zprime.results.audit import Audit, Entry
from zprime.results.facts import Setting

HEADS = ["", "fit, CPU s", "stored", "draws z′ per CPU s", "outcome"]


def rows(audit: Audit) -> list[tuple[str, list[Number]]]:
    """One row for every latent distribution that can be chosen, under `HEADS`."""
    out = []
    for e in audit.entries:
        if not e.eligible:
            continue
        decided = "; ".join(
            f"{k} {_short(v)}" for k, v in decisions(e).items() if isinstance(v, bool | int | float | str)
        )
        numbers = [
            Number(spent(e), "CPU time of the fit, all threads together.", e.seconds),
            Number(size(e.bytes), f"{SAYS['stored']}: {e.bytes:,}.", e.bytes),
            Number(f"{e.draws_per_second:,.0f}", "Draws z′ per CPU second, in one call of 10,000.", e.draws_per_second),
            Number(e.outcome or "–", f"How the fit ended. Decided on the selection split: {decided or 'nothing'}."),
        ]
        out.append((title(e).strip(), numbers))
    return out


def decisions(e: Entry) -> dict[str, Setting]:
    """What the selection split decided in a fit, by name; the kind's own settings first."""
    c = e.chosen
    common: dict[str, Setting] = {"epsilon": c.epsilon, "gain": c.gain, "weights": c.weights or None}
    return {**c.settings, **{k: v for k, v in common.items() if v is not None}}


def _short(value: int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
