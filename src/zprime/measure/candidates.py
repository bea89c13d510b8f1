"""All candidates evaluated together: what they share (the prior, a base, a tilt) is computed once."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Tilted
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent import Defensive, Prior
from zprime.latent.defensive import defended, has_candidate, is_prior
from zprime.latent.selection import EPSILONS
from zprime.measure.prior import prior_log_prob, prior_width, tilt
from zprime.results.names import PRIOR, CandidateId, check_name
from zprime.rng import fork


@dataclass(frozen=True)
class Blend:
    """One distribution that is reported on: a base with weight 1 - epsilon, and the prior with weight epsilon.

    Attributes:
        base: name of the base.
        epsilon: weight of the prior, from 0 to below 1.
    """

    base: str
    epsilon: float


class Candidates:
    """Latent distributions, each itself and, if it was given with a share of this prior, as the candidate it makes.

    Attributes:
        prior: p(z); called `prior`.
        given: name -> what was given, the prior first.
        distributions: id -> distribution: the prior, then of each name the candidate, if there is one, and the
            distribution itself.
        bases: name -> the distribution itself; only of kinds that have a density.
        blends: id -> what is reported under it; the prior is always there.
    """

    def __init__(
        self, candidates: Mapping[str, LatentDistribution], *, prior: LatentDistribution | None = None
    ) -> None:
        """Split candidates into bases and blends; a `prior` of None is N(0, I).

        Raises:
            UsageError: there are none, their dimensions differ, or a name cannot be used.
        """
        dims = {r.d for r in candidates.values()}
        if len(dims) > 1:
            raise UsageError(f"candidates: expected one latent dimension, got {sorted(dims)}")
        if not candidates:
            raise UsageError("candidates: expected at least one latent distribution, got none")
        for name in candidates:
            self.check_name(name)
        self.prior = Prior(next(iter(dims))) if prior is None else prior
        if self.prior.d not in dims:
            raise UsageError(f"prior: expected {next(iter(dims))} latents as the candidates have, got {self.prior.d}")
        self.given = {PRIOR: self.prior, **{k: v for k, v in candidates.items() if k != PRIOR}}
        self.distributions: dict[CandidateId, LatentDistribution] = {}
        self.bases: dict[str, LatentDistribution] = {}
        self.blends: dict[CandidateId, Blend] = {}
        for name, r in self.given.items():
            itself = r
            if isinstance(r, Defensive) and is_prior(r.prior, self.prior):  # else no blend can tell its density
                itself = r.base
                if has_candidate(itself, self.prior):
                    self._report(CandidateId.of(name, r.epsilon), r, r.epsilon)
            self._report(CandidateId(name), itself, 0.0)

    def check_name(self, name: str) -> None:
        """Raise `UsageError` for a name that cannot be used."""
        check_name(name)

    def _report(self, wanted: CandidateId, r: LatentDistribution, epsilon: float) -> None:
        self.distributions[wanted] = r
        if r.density != "none":
            self.blends[wanted] = Blend(wanted.name, epsilon)
            if not epsilon:
                self.bases[wanted.name] = r

    @cached_property
    def width(self) -> Float[Tensor, " d"]:
        """Standard deviation of the prior in each dimension, float64."""
        return prior_width(self.prior, self.prior.d)

    @property
    def ids(self) -> list[CandidateId]:
        """All that is reported on, in the order of `distributions`."""
        return list(self.blends)

    @property
    def eligible(self) -> list[CandidateId]:
        """What a verdict may choose: the prior, and what has a share of it."""
        return [i for i in self.blends if i.eligible]

    @property
    def leading(self) -> list[CandidateId]:
        """One of each name: the candidate, or the distribution itself where there is none."""
        return list({i.name: i for i in reversed(self.distributions)}.values())[::-1]

    def distribution(self, wanted: CandidateId) -> LatentDistribution:
        """The latent distribution that is reported on under an id."""
        return self.distributions[wanted]

    def only(self, names: Iterable[str]) -> "Candidates":
        """Some of the names, and the prior."""
        kept = set(names) | {PRIOR}
        return type(self)({k: r for k, r in self.given.items() if k in kept}, prior=self.prior)

    def told(self, rows: Float[Tensor, "n k"] | None) -> "Candidates":
        """What they are for some rows, by what is told of these (`Split.told`). These here are the same for all."""
        return self

    def base_log_probs(
        self, z: Float[Tensor, "n d"], names: Iterable[str] | None = None
    ) -> dict[str, Float[Tensor, " n"]]:
        """Log r(z) in nats of every base, or of those named: each is evaluated once."""
        return {name: self.bases[name].log_prob(z) for name in (self.bases if names is None else names)}

    def blend_log_probs(
        self, base: Mapping[str, Float[Tensor, "*n"]], prior: Float[Tensor, "*n"]
    ) -> dict[CandidateId, Float[Tensor, "*n"]]:
        """Log r of every blend whose base is among those given: no density is evaluated."""
        return {i: mix(base[b.base], prior, b.epsilon) for i, b in self.blends.items() if b.base in base}

    def log_probs(self, z: Float[Tensor, "n d"]) -> dict[CandidateId, Float[Tensor, " n"]]:
        """Log r(z) in nats of every blend."""
        return self.blend_log_probs(self.base_log_probs(z), prior_log_prob(self.prior, z))

    def tilts(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: Mapping[str, int],
        rng: torch.Generator,
    ) -> dict[str, Tilted]:
        """The tilt of every base that has one in closed form, with the stated number of draws (default 0).

        Under another prior than N(0, I) only the prior itself has one.
        """
        tilts = {}
        for name, r in self.bases.items():
            rng_of = fork(rng, "tilt", name)
            tilted = tilt(self.prior, r, mean, scale, draws=draws.get(name, 0), rng=rng_of)
            if tilted is not None:
                tilts[name] = tilted
        return tilts


def candidate_of(r: LatentDistribution, epsilon: float | None, prior: LatentDistribution) -> LatentDistribution:
    """What an audit makes of a latent distribution: its candidate, where a verdict may choose it.

    Args:
        r: the distribution itself, or one that mixes in at least 1 % of this prior, which is a candidate already.
        epsilon: share of the prior; None where none was chosen: the smallest, 1 %.
        prior: p(z).
    """
    if isinstance(r, Defensive) and is_prior(r.prior, prior) and r.epsilon >= EPSILONS[0]:
        return r
    return defended(r, epsilon or EPSILONS[0], prior) if has_candidate(r, prior) else r


def mix(log_r: Tensor, log_p: Tensor, epsilon: float) -> Tensor:
    """log[(1 - e) r + e p]."""
    if epsilon == 0:
        return log_r
    return torch.logaddexp(log_r + math.log1p(-epsilon), log_p + math.log(epsilon))
