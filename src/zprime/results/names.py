"""Names of what is measured: the three gains, candidates, tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar, runtime_checkable

from zprime.errors import UsageError


class Gain(StrEnum):
    """A gain over the prior, in nats a row; docs/theory.md, section 3."""

    ELBO = "elbo"
    """E_q[log r - log p]: the exact change of the ELBO with the encoder as it is."""
    EXACT_POSTERIOR = "exact_posterior"
    """log E_q[r/p]: what log p(x) would gain if q were the posterior."""
    LIKELIHOOD = "likelihood"
    """log p_r(x) - log p_p(x) with the decoder, by importance sampling."""

    @property
    def words(self) -> str:
        """As tables and sentences call it, e.g. `ELBO gain`."""
        return {"elbo": "ELBO gain", "exact_posterior": "exact-posterior gain", "likelihood": "likelihood gain"}[self]

    @property
    def few_words(self) -> str:
        """As the heading of a column that is ten characters wide."""
        return {"elbo": "ELBO", "exact_posterior": "exact post.", "likelihood": "likelihood"}[self]

    @property
    def says(self) -> str:
        """What it is, in a sentence."""
        return {
            "elbo": "Mean of E_q[log r(z) − log p(z)]: the exact change of the ELBO with the encoder as it is "
            "(Hoffman & Johnson 2016)",
            "exact_posterior": "Mean of log E_q[r(z)/p(z)]: the change of log p(x), if the encoder were exact",
            "likelihood": "Mean of log p_r(x) − log p_p(x) with the decoder, by importance sampling on draws that all "
            "candidates share (Burda et al. 2016)",
        }[self]


@dataclass(frozen=True, order=True)
class CandidateId:
    """A latent distribution itself, or the candidate that mixes a share of the prior into it.

    Attributes:
        name: as the fit was called; `prior` for the prior.
        percent: share of the prior; 0 for the distribution itself.
    """

    name: str
    percent: float = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a share that is none."""
        if not 0 <= self.percent < 100:
            raise UsageError(
                f"{self}: expected a share of the prior above 0 and below 100 percent, got {self.percent:g}"
            )

    @classmethod
    def of(cls, name: str, epsilon: float) -> "CandidateId":
        """With a share from 0 to below 1, in as many digits as `str` shows."""
        return cls(name, float(f"{100 * epsilon:g}"))

    def __str__(self) -> str:
        """As the command line, JSON and tensors call it: `aggregated`, or `aggregated+p10` with 10 % of the prior."""
        return f"{self.name}+p{self.percent:g}" if self.percent else self.name

    @classmethod
    def parse(cls, text: str) -> "CandidateId":
        """Read what `str` wrote.

        Raises:
            UsageError: the share of the prior is not above 0 and below 100 percent.
        """
        found = SHARE.search(text)
        if found is None:
            return cls(text)
        percent = float(found[1])
        if percent == 0:
            raise UsageError(f"{text}: expected a share of the prior above 0 and below 100 percent, got 0")
        return cls(text[: found.start()], percent)

    @property
    def epsilon(self) -> float:
        """The share of the prior, from 0 to below 1."""
        return self.percent / 100

    @property
    def eligible(self) -> bool:
        """Whether a verdict may choose it: the prior, or what has a share of it, so that no row can lose it all."""
        return self.name == PRIOR or self.percent > 0


PRIOR = "prior"
STANDARD = "N(0, I)"
"""What the prior of an audit is called where it is that."""
SHARE = re.compile(r"\+p(\d+(?:\.\d+)?(?:e[+-]?\d+)?)$")
"""What the name of a candidate ends in: `+p` and a share of the prior in percent."""


LONGEST = 64
"""Characters of a name, at most."""
NAME = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,{LONGEST - 2}}}[A-Za-z0-9])?")
"""What a name is: letters, digits, and between them also `-`, `_` and `.`."""
RESERVED = ("train", "selection", "heldout", "reconstructions")
"""What an audit calls splits and controls: no fit is called like one of them."""


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of a folder everywhere, or be told from what an audit itself calls so.

    Raises:
        UsageError: it ends in `+p` and a number; it has other characters than letters, digits and, between them, `-`,
            `_` and `.`, or more than 64; or it is that of a split or a control.
    """
    if SHARE.search(name):
        raise UsageError(
            f"name: expected one that does not end in +p and a number, got {name!r}: that names a candidate with a "
            "share of the prior; call it something else"
        )
    if not NAME.fullmatch(name):
        raise UsageError(
            f"name: expected 1 to {LONGEST} letters (a to z), digits and, between them, -, _ and ., got {name!r:.80}; "
            "call it something else"
        )
    if name in RESERVED:
        raise UsageError(f"name: {name} is what an audit calls a split or a control; call it something else")


CODES, LABELS, ROWS, RECONSTRUCTIONS = "data.codes", "data.labels", "data.rows", "data.reconstructions"
"""Tensors of an audit that are of held-out rows. Those of a latent distribution are `<what>.<id>` with another first
part, so that no name of one can be taken for these."""


@runtime_checkable
class Identified(Protocol):
    """Whatever is measured of a candidate."""

    @property
    def id(self) -> CandidateId:
        """Which candidate."""
        ...


E = TypeVar("E", bound=Identified)


def by_id(entries: Sequence[E], wanted: CandidateId) -> E:
    """The entry of one candidate.

    Raises:
        UsageError: there is none.
    """
    entry = next((e for e in entries if e.id == wanted), None)
    if entry is None:
        raise UsageError(f"name: expected one of {', '.join(str(e.id) for e in entries)}, got {str(wanted)!r}")
    return entry
