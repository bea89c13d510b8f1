"""Candidates over a prior p(z|c): in units of it an r(z) is another distribution for each row (theory.md, section 9).

In units of p(z|c_i), u = (z - loc_i) / scale_i, the prior of row i is N(0, I), and an r(z) is r(loc_i + scale_i u)
times the product of scale_i. An r(z|c) that shifts with c as the prior does is one distribution of u.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.bring.coordinates import Coordinates
from zprime.components import Tilted
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.affine import Affine
from zprime.latent.defensive import Defensive
from zprime.latent.wrapper import Wrapper
from zprime.measure.candidates import Candidates, mix
from zprime.results.names import SHARE, check_name
from zprime.rng import fork
from zprime.schema import Schema


@final
@dataclass(frozen=True, repr=False, eq=False)
class _InUnits(Wrapper):
    """An r(z|c) or an r(z) as a distribution of u; of rows in a block, as many of each and one row after the other.

    It is made for a comparison, and never saved.

    Attributes:
        base: of u, or of z.
        called: for the sentences.
        by_row: whether the base is of z.
        at: p(z|c) of the rows, [m, d]; None where it was not said yet which rows.
    """

    kind: ClassVar[str] = "in-units"
    schema: ClassVar[Schema] = Schema({}, {})
    called: str
    by_row: bool
    at: Coordinates | None = None

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.base.d

    @property
    def label(self) -> str:
        """Which sort it is, and its name."""
        return self.called

    @property
    def bytes(self) -> int:
        """Of the base; p(z|c) is the model's."""
        return self.base.bytes

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log-density in u, in nats, float64."""
        if not self.by_row:
            return self.base.log_prob(z)
        at = self._each(len(z))
        return self.base.log_prob(at.loc + at.scale * z.double()) + at.scale.log().sum(1)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws of u."""
        z = self.base.sample(n, rng=rng)
        if not self.by_row:
            return z
        at = self._each(n)
        return ((z.double() - at.loc) / at.scale).to(z.dtype)

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """In closed form where the base is a mixture of Gaussians, also with a share of another one."""
        if not self.by_row:
            return self.base.tilt(mean, scale, draws=draws, rng=rng)
        return _tilted(self.base, self._each(len(mean)), (mean, scale), draws, rng)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the base."""
        return self.base.tensors()

    def config(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """Not possible.

        Raises:
            UsageError: always.
        """
        raise UsageError("in-units: expected what was fitted, got what a comparison made of it; save that")

    def _each(self, n: int) -> Coordinates:
        """p(z|c) of each of `n` values of u.

        Raises:
            UsageError: it was not said for which rows, or they are not as many of each row.
        """
        if self.at is None or n % len(self.at.loc):
            known = 0 if self.at is None else len(self.at.loc)
            raise UsageError(f"{self.called}: expected as many values of each of {known} rows, got {n} values")
        k = n // len(self.at.loc)
        return Coordinates(self.at.loc.repeat_interleave(k, 0), self.at.scale.repeat_interleave(k, 0))


class ByRow(Candidates):
    """Distributions of u that differ by row or not, and N(0, I), which stands for p(z|c).

    What is told of a row is its p(z|c): means, and behind them standard deviations.
    """

    def check_name(self, name: str) -> None:
        """Refuse a name that ends in +p and a number: others are never those of a folder."""
        if SHARE.search(name):
            check_name(name)

    def told(self, rows: Float[Tensor, "n k"] | None) -> Candidates:
        """What they are for some rows, by p(z|c) of each."""
        if rows is None:
            return self
        at = Coordinates(*rows.chunk(2, 1))
        return ByRow({name: _for_rows(r, at) for name, r in self.given.items()}, prior=self.prior)


def in_units(r: LatentDistribution, called: str, *, by_row: bool) -> LatentDistribution:
    """An r(z|c), by its distribution of u, or an r(z) (`by_row`) as what `ByRow` takes."""
    if isinstance(r, Defensive) and not by_row:  # with a share of p(z|c)
        return replace(r, base=_InUnits(r.base, called, by_row=False))
    return _InUnits(r, called, by_row)


def units_of(at: Coordinates) -> Float[Tensor, "n k"]:
    """What is told of each row."""
    return torch.cat([at.loc, at.scale], 1)


def _for_rows(r: LatentDistribution, at: Coordinates) -> LatentDistribution:
    if isinstance(r, Defensive):
        return replace(r, base=_for_rows(r.base, at))
    return replace(r, at=at) if isinstance(r, _InUnits) and r.by_row else r


def _tilted(
    r: LatentDistribution, at: Coordinates, q: tuple[Tensor, Tensor], draws: int, rng: torch.Generator
) -> Tilted | None:
    """The tilt of an r(z) by each row's q, all rows of one condition at a time; None where no closed form is known."""
    while isinstance(r, Affine) and r.scale.ndim == 1:  # as its base, where p(z|c) and the row are moved instead
        at, r = Coordinates((at.loc - r.loc) / r.scale, at.scale / r.scale), r.base
    if isinstance(r, Defensive):
        parts = [_tilted(p, at, q, draws, fork(rng, name)) for name, p in (("base", r.base), ("prior", r.prior))]
        return None if parts[0] is None or parts[1] is None else _either(parts[0], parts[1], r.epsilon, rng)
    mean, scale = q
    ratio = torch.empty(len(mean), dtype=torch.float64)
    z = torch.empty(len(mean), draws, r.d, dtype=torch.float64)
    for rows in _alike(at):
        here = Coordinates(at.loc[rows[0]], at.scale[rows[0]]).inside(r)
        found = here.tilt(mean[rows], scale[rows], draws=draws, rng=rng)
        if found is None:
            return None
        ratio[rows], z[rows] = found.log_ratio, found.draws.double()
    return Tilted(ratio, z)


def _either(one: Tilted, other: Tilted, epsilon: float, rng: torch.Generator) -> Tilted:
    """The tilt of (1 - e) of one and e of the other."""
    both = mix(one.log_ratio, other.log_ratio, epsilon)
    weight = torch.exp(other.log_ratio + torch.tensor(epsilon).log() - both).nan_to_num(1.0)
    draws = one.draws.shape[1]
    coin = torch.rand(len(both), draws, generator=rng, dtype=torch.float64) < weight[:, None]
    return Tilted(both, torch.where(coin[..., None], other.draws, one.draws))


def _alike(at: Coordinates) -> Iterator[Int[Tensor, " m"]]:
    """Rows of one p(z|c)."""
    which, counts = torch.unique(units_of(at), dim=0, return_inverse=True, return_counts=True)[1:]
    yield from which.argsort(stable=True).split(counts.tolist())
