"""All candidates evaluated together: what they share (the prior, a base, a tilt) is computed once."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import standard_log_prob
from zprime.components import Tilted
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent import Defensive, Prior
from zprime.rng import fork

PURE = " (e = 0)"
"""What is put behind a candidate's name for its base alone, without the share of the prior; shown, never chosen."""


@dataclass(frozen=True)
class Blend:
    """One candidate: its base, and the share of the prior mixed in."""

    base: str
    share: float


class Candidates:
    """Candidates and, for those that mix in the prior, their bases alone.

    Attributes:
        bases: name -> distribution without any share of the prior.
        blends: name -> what is reported under that name; `prior` is always there.
    """

    def __init__(self, candidates: Mapping[str, LatentDistribution]) -> None:
        dims = {r.d for r in candidates.values()}
        if len(dims) > 1:
            raise UsageError(f"candidates: expected one latent dimension, got {sorted(dims)}")
        if not candidates:
            raise UsageError("candidates: expected at least one latent distribution, got none")
        self.distributions = {"prior": Prior(next(iter(dims))), **{k: v for k, v in candidates.items() if k != "prior"}}
        self.bases: dict[str, LatentDistribution] = {}
        self.blends: dict[str, Blend] = {}
        for name, r in self.distributions.items():
            if r.density == "none":
                continue
            if isinstance(r, Defensive):
                self.bases[name] = r.base
                self.blends[name] = Blend(name, r.epsilon)
                self.blends[name + PURE] = Blend(name, 0.0)
            else:
                self.bases[name] = r
                self.blends[name] = Blend(name, 0.0)

    @property
    def names(self) -> list[str]:
        """All names that are reported on, candidates first to last, each followed by its pure form."""
        return list(self.blends)

    @property
    def eligible(self) -> list[str]:
        """Names that a verdict may choose."""
        return [n for n in self.blends if not n.endswith(PURE)]

    def only(self, names: Iterable[str]) -> "Candidates":
        """Some of the candidates, and the prior."""
        return Candidates(
            {name: self.distributions[name] for name in self.distributions if name in set(names) | {"prior"}}
        )

    def base_log_probs(
        self, z: Float[Tensor, "n d"], names: Iterable[str] | None = None
    ) -> dict[str, Float[Tensor, " n"]]:
        """Log r(z) in nats of every base, or of those named: each is evaluated once."""
        return {name: self.bases[name].log_prob(z) for name in (self.bases if names is None else names)}

    def blend_log_probs(
        self, base: Mapping[str, Float[Tensor, "*n"]], prior: Float[Tensor, "*n"]
    ) -> dict[str, Float[Tensor, "*n"]]:
        """Log r of every blend whose base is among those given: no density is evaluated."""
        return {name: mix(base[v.base], prior, v.share) for name, v in self.blends.items() if v.base in base}

    def log_probs(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, " n"]]:
        """Log r(z) in nats of every blend."""
        return self.blend_log_probs(self.base_log_probs(z), standard_log_prob(z))

    def tilts(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: Mapping[str, int], rng: torch.Generator
    ) -> dict[str, Tilted]:
        """The tilt of every base that has one in closed form, with the stated number of draws (default 0)."""
        out = {}
        for name, r in self.bases.items():
            tilted = r.tilt(mean, scale, draws=draws.get(name, 0), rng=fork(rng, "tilt", name))
            if tilted is not None:
                out[name] = tilted
        return out


def mix(log_r: Tensor, log_p: Tensor, share: float) -> Tensor:
    """log[(1 - e) r + e p]."""
    if share == 0:
        return log_r
    return torch.logaddexp(log_r + math.log1p(-share), log_p + math.log(share))
