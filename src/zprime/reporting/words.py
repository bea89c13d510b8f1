"""Names and labels in prose."""

from zprime.results.audit import Audit, Entry


def gloss(e: Entry) -> str:
    """What a label means, in brackets."""
    epsilon = e.chosen.epsilon
    words = [w for w in (e.gloss, f"with {100 * epsilon:g} % of p(Z) mixed in" if epsilon else "") if w]
    return f" ({', '.join(words)})" if words else ""


def data_name(audit: Audit) -> str:
    """What the data are called."""
    return audit.data.name or "unnamed data"


def bullets(points: list[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {p}" for p in points)
