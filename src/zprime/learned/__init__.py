"""Priors that are learned in training: one file a kind, with its settings and what is trained.

A `LearnedPrior` says how; a `TrainablePrior` is what the VAE holds while it is trained; what is left in the end is an
ordinary latent distribution of the same kind.
"""

import difflib
from collections.abc import Mapping

from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.priors import Given, prior_of
from zprime.learned.aggregated import AggregatedPrior
from zprime.learned.coreset import CoresetPrior
from zprime.learned.exemplars import ExemplarsPrior
from zprime.learned.flow import FlowPrior
from zprime.learned.mixture import MixturePrior
from zprime.learned.settings import GoingOn, Learned, LearnedPrior, words
from zprime.learned.vamp import VampPrior

PRIORS: Mapping[str, type[LearnedPrior]] = {
    p.kind: p for p in (VampPrior, MixturePrior, FlowPrior, ExemplarsPrior, AggregatedPrior, CoresetPrior)
}
"""Kind -> class of its settings."""
Asked = Given | str | Learned
"""A prior as it is asked for: one that stays as it is (None: N(0, I)), or one that is learned, by kind or settings."""

__all__ = [
    "PRIORS",
    "AggregatedPrior",
    "Asked",
    "CoresetPrior",
    "ExemplarsPrior",
    "FlowPrior",
    "GoingOn",
    "Learned",
    "LearnedPrior",
    "MixturePrior",
    "VampPrior",
    "going_on_from",
    "prior_for",
    "settings_for",
    "settings_of",
    "words",
]


def settings_for(kind: str) -> LearnedPrior:
    """Default settings of a kind.

    Raises:
        UsageError: no such kind can be learned.
    """
    if kind not in PRIORS:
        near = difflib.get_close_matches(kind, PRIORS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"prior: expected one of {', '.join(PRIORS)}, which can be learned, got {kind!r}{meant}")
    return PRIORS[kind]()


def settings_of(prior: "str | Learned") -> Learned:
    """Settings of a prior that is given by its kind, or as settings; they can be used.

    Raises:
        UsageError: no such kind can be learned, or a value cannot be used.
    """
    settings = settings_for(prior) if isinstance(prior, str) else prior
    settings.check()
    return settings


def prior_for(asked: Asked, d: int) -> LatentDistribution | Learned | None:
    """A prior that stays as it is, in `d` dimensions, or settings of one that is learned.

    Raises:
        UsageError: it cannot be used.
    """
    if isinstance(asked, str | LearnedPrior | GoingOn):
        return settings_of(asked)
    return None if asked is None else prior_of(asked, d)


def going_on_from(r: LatentDistribution) -> GoingOn:
    """Settings by which a prior is learned on from `r`.

    Raises:
        UsageError: its kind cannot be learned.
    """
    return GoingOn(settings_for(r.kind), r)
