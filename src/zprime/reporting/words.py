"""Numbers and labels as an answer in prose has them."""

from dataclasses import replace

from zprime.results.audit import Audit, Entry
from zprime.statistics.estimate import Estimate, unsigned


def gloss(e: Entry) -> str:
    """What a label means, in brackets."""
    epsilon = e.chosen.epsilon
    words = [w for w in (e.gloss, f"with {100 * epsilon:g} % of p(Z) mixed in" if epsilon else "") if w]
    return f" ({', '.join(words)})" if words else ""


def plain(x: float) -> str:
    """Three figures."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def data_name(audit: Audit) -> str:
    """What the data are called."""
    return str(audit.data.name or "unnamed data")


def nats(x: float) -> str:
    """Two decimals, none from 100 on."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"


def shown(e: Estimate) -> str:
    """Value and standard error, without a plus sign."""
    if e.stderr is None:
        return nats(e.value)
    if abs(e.value) >= 100 and e.stderr >= 1:
        return f"{e.value:,.0f} ± {e.stderr:,.0f}"
    return unsigned(e)


def percent(e: Estimate) -> str:
    """A share in per cent, with its error."""
    return f"{100 * e.value:.0f} ± {100 * (e.stderr or 0.0):.0f} %"


def size_of(e: Estimate) -> str:
    """Size of a number, whatever its sign, with its error."""
    return shown(replace(e, value=abs(e.value)))


def bullets(points: list[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {p}" for p in points)
