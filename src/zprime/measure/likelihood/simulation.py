"""Data simulated from a latent distribution and a decoder: one draw from the posterior of every row is known."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime import encoding
from zprime.arrays import blocks
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.likelihoods import draw
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.progress import silent
from zprime.rng import fork
from zprime.vae import Alike, Decoder, Encoder, Model

BATCH = 256  # part of the random streams' names, so a constant
SIMULATED = "simulated"


@dataclass(frozen=True, eq=False)
class Simulator:
    """What data are simulated from.

    Attributes:
        name: of the latent distribution.
        r: where z is drawn from.
        model: where x is drawn from, and what encodes it.
        dtype: what the decoder computes in.
    """

    name: str
    r: LatentDistribution
    model: Model
    dtype: torch.dtype

    def simulate(self, n: int, *, rng: torch.Generator) -> "Simulated":
        """Simulate `n` rows, and encode them."""
        z, rows = simulate(self.r, self.model, n, dtype=self.dtype, rng=rng)
        return Simulated(z, rows, encode(self.model, rows))


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulated rows.

    Attributes:
        z: what made each row: a draw from its posterior under r.
        rows: the rows.
        posteriors: what the encoder makes of them.
    """

    z: Float[Tensor, "n d"]
    rows: Rows
    posteriors: MemoryPosteriors


def simulate(
    r: LatentDistribution,
    model: Decoder,
    n: int,
    *,
    dtype: torch.dtype,
    rng: torch.Generator,
    like: Float[Tensor, "n *datum"] | None = None,
) -> tuple[Float[Tensor, "n d"], Rows]:
    """Draw z ~ r and x ~ p(x|z), noise included: each z is a draw from the posterior of its x under r.

    Args:
        r: where z is drawn from.
        model: where x is drawn from.
        n: how many.
        dtype: what the decoder computes in.
        rng: source of randomness.
        like: rows of data whose conditions the simulated ones have, one for each; None for what the model draws.
    """
    z = r.sample(n, rng=fork(rng, "z")).to(dtype)
    return z, simulate_from(z, model, rng=rng, like=like)


def simulate_from(
    z: Float[Tensor, "n d"], model: Decoder, *, rng: torch.Generator, like: Float[Tensor, "n *datum"] | None = None
) -> Rows:
    """Draw x ~ p(x|z), noise included, for given z; under the conditions of the rows `like`, if there are any."""
    n = len(z)
    with torch.no_grad():
        parts = [
            draw(_decoded(model, z[i], None if like is None else like[i]), rng=fork(rng, "x", i.start))
            for i in blocks(n, BATCH)
        ]
    return Rows(SIMULATED, torch.cat(parts), torch.arange(n))


def _decoded(model: Decoder, z: Tensor, like: Tensor | None) -> Distribution:
    p = model.decode(z)
    return p.like(like) if like is not None and isinstance(p, Alike) else p


def encode(model: Encoder, rows: Rows, draws: int = 0) -> MemoryPosteriors:
    """What the encoder makes of simulated rows; of flows so many draws a row, with log q there."""
    if draws:
        found = encoding.encode(model, rows, draws=max(draws, encoding.LEAST), progress=silent).gather()
        each = found.n // len(rows)  # brought draws may be fewer than can be asked for
        return found if each == draws else found.take((torch.arange(found.n) % each < draws).nonzero().flatten())
    with torch.no_grad():
        parts = [model.encode(rows.x[i]) for i in blocks(len(rows), BATCH)]
    return MemoryPosteriors(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def redrawn(split: Split, model: Encoder, draws: int) -> Split:
    """Rows whose posteriors are flows, each with so many draws: as many as the rows that they are compared with.

    Args:
        split: rows, and draws of their posteriors; without rows it is given back.
        model: that made them.
        draws: of each posterior.
    """
    if split.rows is None or split.posteriors.datum is None:
        return split
    first = ByDatum.of(split.posteriors).first.sort().values
    once = split.rows.take(first)
    posteriors = encode(model, replace(once, name=SIMULATED), draws)
    again = first[posteriors.row_of]
    if split.weights is not None:
        posteriors = posteriors.weighted(split.weights[again])
    groups = None if split.groups is None else split.groups[again]
    return Split(split.name, posteriors, once.take(posteriors.row_of), groups)
