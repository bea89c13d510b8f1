"""Names of what is measured: the three gains, and candidates."""

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
    """A candidate, or its base alone: what mixes in a share of the prior is also measured without it.

    Attributes:
        name: as the candidate was called.
        alone: without the share of the prior; shown for information, never chosen.
    """

    name: str
    alone: bool = False

    def __str__(self) -> str:
        """As JSON and tensors are keyed: the name, or `alone/` and the name."""
        return f"{ALONE}{self.name}" if self.alone else self.name

    @classmethod
    def parse(cls, text: str) -> "CandidateId":
        """Read what `str` wrote."""
        return cls(text.removeprefix(ALONE), text.startswith(ALONE))


ALONE = "alone/"
"""No name of a candidate may hold a slash, so that this is never part of one."""


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
