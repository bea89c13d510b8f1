"""Sentences that explain numbers: of those in several places here, of the others by their docstrings."""

import re
from inspect import cleandoc

from zprime.statistics.format import proportion
from zprime.tables import NONE, Cell

SAYS: dict[str, str] = {
    "median": "Median over held-out rows: where it is far from the mean, a few rows decide",
    "above": "Proportion of held-out rows whose gain over the prior is above 0",
    "below": "Proportion of held-out rows that lose more than {lost:g} nats: rows that a narrow r misses",
    "khat": "Proportion of rows whose Pareto k-hat is above {khat:g}: their importance weights have a heavy tail "
    "(Vehtari et al. 2024); no verdict depends on it",
    "stored": "Bytes of the arrays that a shipped model carries for this latent distribution",
    "mean_kl": "Mean of KL(q(z|x)‖p) over the rows, exact: the KL term of the ELBO",
    "information": "I, the mean of KL(q(z|x)‖q̄): what tells the rows apart; at most log N (Hoffman & Johnson 2016)",
    "told_apart": "exp(I): how many rows the code can tell apart",
    "log_n": "log N, the maximum of I; where I is near it, the code is a lookup table of its rows",
    "hole": "KL(q̄‖p) = mean KL − I: how far the aggregated posterior is from the prior",
    "gaussian_part": "KL of the Gaussian with q̄'s mean and covariance from p, exact: the part of the hole that is in "
    "mean and covariance",
    "active": "Latent dimensions whose posterior means vary by more than {active:g} over the data (Burda et al. 2016)",
}


def attributes(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each attribute."""
    _, _, block = cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    said: dict[str, str] = {}
    for names, says in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", block, re.M):
        said |= dict.fromkeys(names.split(", "), " ".join(says.split()))
    return said


def proportion_cell(value: float | None, says: str) -> Cell:
    """A proportion of rows as a percentage."""
    if value is None:
        return Cell(NONE, says)
    return Cell(proportion(value), says + ".", value, f"{value:.0%}")
