"""All candidates evaluated together: what they share (the prior, a base, a tilt) is computed once."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.components import Tilted
from zprime.distribution import LatentDistribution, is_standard
from zprime.errors import UsageError
from zprime.latent import Defensive, Prior
from zprime.measure.prior import prior_log_prob
from zprime.results.names import CandidateId
from zprime.rng import fork


@dataclass(frozen=True)
class Blend:
    """One distribution that is reported on: a base with weight 1 - epsilon, and the prior with weight epsilon.

    Attributes:
        base: name of the candidate that the base belongs to.
        epsilon: weight of the prior, from 0 to below 1.
    """

    base: str
    epsilon: float


class Candidates:
    """Candidates and, for those that mix in this prior, their bases alone.

    Attributes:
        prior: p(z); the candidate called `prior`.
        distributions: name -> candidate, the prior first.
        bases: name -> distribution without the prior mixed in; only of kinds that have a density.
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
            if "/" in name or not name:
                raise UsageError(f"candidates: expected names without a slash, got {name!r}; call it something else")
        self.prior = Prior(next(iter(dims))) if prior is None else prior
        if self.prior.d not in dims:
            raise UsageError(f"prior: expected {next(iter(dims))} latents as the candidates have, got {self.prior.d}")
        self.distributions = {"prior": self.prior, **{k: v for k, v in candidates.items() if k != "prior"}}
        self.bases: dict[str, LatentDistribution] = {}
        self.blends: dict[CandidateId, Blend] = {}
        for name, r in self.distributions.items():
            if r.density == "none":
                continue
            if isinstance(r, Defensive) and self._mixes_in_prior(r):
                self.bases[name] = r.base
                self.blends[CandidateId(name)] = Blend(name, r.epsilon)
                self.blends[CandidateId(name, alone=True)] = Blend(name, 0.0)
            else:
                self.bases[name] = r
                self.blends[CandidateId(name)] = Blend(name, 0.0)

    def _mixes_in_prior(self, r: Defensive) -> bool:
        """Whether what it mixes in is the prior of these candidates; only then `blends` can tell its density."""
        return r.prior is self.prior or (is_standard(r.prior) and is_standard(self.prior))

    @property
    def ids(self) -> list[CandidateId]:
        """All that is reported on, candidates first to last, each followed by its base alone."""
        return list(self.blends)

    @property
    def eligible(self) -> list[CandidateId]:
        """What a verdict may choose."""
        return [i for i in self.blends if not i.alone]

    def distribution(self, wanted: CandidateId) -> LatentDistribution:
        """The latent distribution that is reported on under an id."""
        return self.bases[wanted.name] if wanted.alone else self.distributions[wanted.name]

    def only(self, names: Iterable[str]) -> "Candidates":
        """Some of the candidates, and the prior."""
        kept = set(names) | {"prior"}
        return Candidates({k: r for k, r in self.distributions.items() if k in kept}, prior=self.prior)

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
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: Mapping[str, int], rng: torch.Generator
    ) -> dict[str, Tilted]:
        """The tilt of every base that has one in closed form, with the stated number of draws (default 0)."""
        tilts = {}
        for name, r in self.bases.items():
            tilted = r.tilt(mean, scale, draws=draws.get(name, 0), rng=fork(rng, "tilt", name))
            if tilted is not None:
                tilts[name] = tilted
        return tilts


def mix(log_r: Tensor, log_p: Tensor, epsilon: float) -> Tensor:
    """log[(1 - e) r + e p]."""
    if epsilon == 0:
        return log_r
    return torch.logaddexp(log_r + math.log1p(-epsilon), log_p + math.log(epsilon))
