"""Numbers that explain themselves: what a figure is, how sure, on which rows, and where it comes from."""

import re
from dataclasses import dataclass
from inspect import cleandoc

from zprime.results.audit import Score
from zprime.results.names import Gain
from zprime.statistics.estimate import Estimate, unsigned

SAYS: dict[str, str] = {
    Gain.ELBO: "Mean of E_q[log r(z) − log p(z)]: the exact change of the ELBO with the encoder as it is "
    "(Hoffman & Johnson 2016)",
    Gain.EXACT_POSTERIOR: "Mean of log E_q[r(z)/p(z)]: the change of log p(x), if the encoder were exact",
    Gain.LIKELIHOOD: "Mean of log p_r(x) − log p_p(x) with the decoder, by importance sampling on draws that all "
    "candidates share (Burda et al. 2016)",
    "median": "Median over held-out rows: where it is far from the mean, a few rows decide",
    "above": "Share of held-out rows that are more likely than under the prior",
    "below": "Share of held-out rows that lose more than 5 nats: rows that a sharp r has missed",
    "khat": "Share of rows whose Pareto k-hat is above 0.7: their importance weights have a heavy tail (Vehtari et al. "
    "2024); reported, no gate",
    "stored": "Bytes of the arrays that a shipped model carries for this latent distribution",
    "mean_kl": "Mean of KL(q(z|x)‖p) over the rows, exact: the KL term of the ELBO",
    "information": "I, the mean of KL(q(z|x)‖q̄): what tells the rows apart; at most log N (Hoffman & Johnson 2016)",
    "told_apart": "exp(I): how many rows the code can tell apart",
    "log_n": "log N: I can be no more, so where it comes near, the code is a lookup table of its rows",
    "hole": "KL(q̄‖p) = mean KL − I: how far the aggregated posterior is from the prior",
    "gaussian_part": "KL of the Gaussian with q̄'s mean and covariance from p, exact: the part of the hole that "
    "a Gaussian sees",
    "active": "Latent dimensions whose posterior means vary by more than 0.01 over the data (Burda et al. 2016)",
}


@dataclass(frozen=True)
class Number:
    """What is shown, what it sorts by, and the sentence behind it."""

    text: str
    why: str = ""
    key: int | float | None = None


def attributes(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each attribute."""
    _, _, block = cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    out: dict[str, str] = {}
    for names, says in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", block, re.M):
        out |= dict.fromkeys(names.split(", "), " ".join(says.split()))
    return out


def estimate(e: Estimate | None, says: str, *, plain: bool = False) -> Number:
    """An estimate with its error; a question mark where its own check failed."""
    if e is None:
        return Number("–", says)
    text = unsigned(e) if plain else str(e)
    parts = [says.rstrip(".")]
    if e.stderr is not None:
        parts.append(f"95 % interval {_short(e.low)} to {_short(e.high)} {e.unit}")
    else:
        parts.append("exact for these rows")
    seed = "" if e.seed is None else f", seed {e.seed}"
    parts.append(f"{e.n:,} rows of the {e.split} split{seed}" if e.split else f"{e.n:,} rows{seed}")
    if e.because:
        parts.append(e.because)
    if not e.stable:
        parts.append("not to be stable")
    return Number(text + ("" if e.stable else " ?"), "; ".join(parts) + ".", e.value)


def gain(score: Score | None, which: Gain) -> Number:
    """One gain of one row of the table."""
    return estimate(score.gain if score else None, SAYS[which])


def share(value: float | None, says: str) -> Number:
    """A share as a percentage."""
    return Number("–", says) if value is None else Number(f"{value:.0%}".replace("%", " %"), says + ".", value)


def _short(x: float) -> str:
    """Four figures, never in powers of ten below a million."""
    return f"{x:,.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.4g}"
