"""Names and labels in prose."""

from zprime.results.audit import Audit, Entry
from zprime.results.names import STANDARD


def gloss(e: Entry) -> str:
    """What a label means, in brackets."""
    mixed = f"with {e.id.percent:g} % of p(Z) mixed in" if e.id.percent else ""
    words = [w for w in (e.gloss, mixed) if w]
    return f" ({', '.join(words)})" if words else ""


def drawn(audit: Audit) -> list[tuple[str, str]]:
    """Name and label of every distribution itself that has draws for the latent map."""
    named = [(e.name, e.label) for e in audit.entries]
    named += [(name, name) for name in without_density(audit)]
    return [(name, label) for name, label in named if f"map.{name}" in audit.tensors]


def without_density(audit: Audit) -> list[str]:
    """Names of what was drawn from but knows no log r(z), and so has no row in the table."""
    known = {e.name for e in audit.entries}
    names = (k.removeprefix("map.") for k in audit.tensors if k.startswith("map."))
    return sorted(name for name in names if name not in known)


def data_name(audit: Audit) -> str:
    """What the data are called."""
    return audit.data.name or "unnamed data"


def bullets(points: list[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {p}" for p in points)


def prior_name(audit: Audit) -> str:
    """The prior in the middle of a sentence: N(0, I), or what stands for p(Z) in this model."""
    return STANDARD if audit.prior == STANDARD else f"its own prior, {audit.prior}"
