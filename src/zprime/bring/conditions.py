"""Models that are told a condition c beside x and z: encoder, decoder and prior of a class, a batch, an embedding.

A row is x and, behind it, c. So log p(x|z, c) takes c from the row itself; draws take it from the training rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from zprime.arrays import blocks, check_finite
from zprime.bring.conditional_priors import NARROWER, Gaussians, of_prior
from zprime.bring.coordinates import Coordinates
from zprime.bring.places import Place, back, tensor
from zprime.bring.readings import read
from zprime.bring.splits import need_mapping, whole
from zprime.data.conditions import SHOWN, Layout
from zprime.decoders import evaluating
from zprime.errors import ArrayError, UsageError

PX = Callable[[Tensor, Tensor], Distribution]
BATCH = 512


class Conditioned(Distribution):
    """p(x|z, c) of rows that hold x and c.

    `log_prob` takes c from the row itself. A draw takes that of a row of the pool at random. The mean goes through some
    of them in turn. `given` has one c for each z instead.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)

    def __init__(
        self,
        px: PX,
        z: Float[Tensor, "n d"],
        layout: Layout,
        pool: Float[Tensor, "m c"],
        *,
        shown: Float[Tensor, "k c"] | None = None,
    ) -> None:
        """Take what it consists of.

        Args:
            px: (z, c) -> p(x|z, c).
            z: latents.
            layout: of a row.
            pool: conditions that draws take.
            shown: conditions that means take in turn; by default the first of the pool.
        """
        self.px, self.z, self.layout, self.pool = px, z, layout, pool
        self.shown = pool[:SHOWN] if shown is None else shown
        self.fixed: Tensor | None = None
        super().__init__(z.shape[:1], torch.Size([layout.entries]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Of a row."""
        return self.layout.support

    def log_prob(self, value: Tensor) -> Float[Tensor, " n"]:
        """Log p(x|z, c) in nats a row."""
        x, c = self.layout.parts(value)
        log_density: Tensor = self.px(self.z, c).log_prob(x)
        return log_density.reshape(len(self.z), -1).sum(1)  # entries of x may be a batch

    @property
    def mean(self) -> Tensor:
        """Means of p(x|z, c), c as it was given, else in turn."""
        c = self.shown[torch.arange(len(self.z)) % len(self.shown)] if self.fixed is None else self.fixed
        return self._rows(c, lambda p: p.mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """One row for each z."""
        with torch.no_grad():
            c = self.pool[torch.randint(len(self.pool), (len(self.z),))] if self.fixed is None else self.fixed
            return self._rows(c, lambda p: p.sample())

    def conditions(self, given: Any, n: int) -> Float[Tensor, "n c"]:
        """Conditions of n rows, from one for all of them or one for each.

        Raises:
            ArrayError: neither, or not finite.
            UsageError: whole numbers that no training row has.
        """
        c, width, flat = tensor(given), self.layout.width, self.layout.flat
        one: tuple[int, ...] = () if flat else (width,)
        if c.shape not in (one, (n, *one)):
            raise ArrayError(
                f"given: expected one condition, shape {list(one)}, or one for each of {n} samples, shape "
                f"{[n, *one]}, got {list(c.shape)}"
            )
        c = c.expand(n, *one).reshape(n, width).to(self.pool.dtype)
        check_finite("given", c)
        self.layout.check(c, self.pool)
        return c

    def given(self, c: Float[Tensor, "n c"]) -> "Conditioned":
        """The same with one condition for each z, which draws and means take; `conditions` makes them."""
        p = Conditioned(self.px, self.z, self.layout, self.pool, shown=self.shown)
        p.fixed = c
        return p

    def like(self, rows: Float[Tensor, "n e"]) -> "Conditioned":
        """The same with the conditions of some rows, one for each z."""
        return self.given(self.layout.parts(rows)[1])

    def beside(self, value: Tensor) -> tuple[Distribution, Tensor]:
        """p(x|z, c) under the conditions of some rows, one for each z, and the data of these rows."""
        x, c = self.layout.parts(value)
        return self.px(self.z, c), x

    def _rows(self, c: Tensor, answer: Callable[[Distribution], Tensor]) -> Tensor:
        return self.layout.join(answer(self.px(self.z, c)), c)


def _numbers(split: str, c: Any) -> Tensor:
    """Conditions of a split.

    Raises:
        UsageError: they are no numbers.
    """
    try:
        return whole(c)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"conditions: expected numbers in {split}, got {type(c).__name__} ({error}); number the names, the same in "
            "all splits: e.g. [names.index(c) for c in conditions]"
        ) from error


def joined(data: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layout]:
    """Rows that hold x and c, and how.

    Raises:
        UsageError: conditions that are not given by split, are no numbers, or of other splits than there are data.
        ArrayError: not one c for each row, or c of several forms.
    """
    need_mapping("conditions", conditions, "conditions")
    if set(data) != set(conditions):
        raise UsageError(
            f"conditions: expected those of {', '.join(data)}, as there are data, got {', '.join(conditions) or 'none'}"
        )
    x = {s: whole(v) for s, v in data.items()}
    c = {s: _numbers(s, v) for s, v in conditions.items()}
    for s, given in c.items():
        if given.ndim not in (1, 2) or len(given) != len(x[s]):
            raise ArrayError(
                f"conditions: expected {len(x[s])} numbers, or as many rows, in {s}, got shape {list(given.shape)}; "
                "flatten what has more dimensions"
            )
    forms = {(given.shape[1:], given.is_floating_point()) for given in c.values()}
    if len(forms) > 1:
        raise ArrayError(f"conditions: expected one form in all splits, got {sorted(map(str, forms))}")
    one = next(iter(c.values()))
    layout = Layout(
        tuple(next(iter(x.values())).shape[1:]),
        1 if one.ndim == 1 else one.shape[1],
        whole=not one.is_floating_point(),
        flat=one.ndim == 1,
    )
    floating = {s: v if v.is_floating_point() else v.float() for s, v in x.items()}
    return {s: layout.join(floating[s], c[s]) for s in x}, layout


@dataclass(frozen=True)
class Told:
    """Encoder, decoder and prior that are told c, as callables on rows that hold it.

    Attributes:
        encoder: (x, c) -> mean and spread, as the model answers them.
        decoder: (z, c) -> p(x|z, c).
        prior: c -> means and standard deviations of p(z|c), both [n, d]; None for a prior that does not depend on c.
        gives: what the spread is.
        layout: of a row.
        pool: conditions that draws take.
        place: where the networks compute.
    """

    encoder: Callable[[Tensor, Tensor], Any]
    decoder: PX
    prior: Gaussians | None
    gives: str
    layout: Layout
    pool: Float[Tensor, "m c"]
    place: Place

    def encode(self, row: Float[Tensor, "n e"]) -> Any:
        """Mean and spread of q(u|x, c), u in units of p(z|c); what else the encoder answers is left as it is."""
        x, c = self.layout.parts(row)
        with evaluating(self.place.networks):
            answer = self.encoder(self.place.go(x), self.go(c))
            if self.prior is None or not isinstance(answer, tuple | list) or len(answer) < 2:
                return answer
            loc, width = self.prior(self.go(c))
        mean, raw = (self.place.back(t) for t in answer[:2])
        return [
            ((mean.double() - loc) / width).to(mean),
            NARROWER[self.gives](raw.double(), width).to(raw),
            *answer[2:],
        ]

    def decode(self, u: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z, c), z = loc(c) + scale(c) u."""
        return Conditioned(self._px, self.place.back(u), self.layout, self.pool)

    @torch.no_grad()
    def prior_of(self, row: Float[Tensor, "n e"]) -> Coordinates:
        """Means and standard deviations of p(z|c) of some rows.

        Raises:
            UsageError: the prior does not depend on c.
        """
        if self.prior is None:
            raise UsageError("prior: expected a function of conditions, got none")
        c = self.layout.parts(row)[1]
        with evaluating(self.place.networks):
            asked = [self.prior(self.go(c[i])) for i in blocks(len(c), BATCH)]
        return Coordinates(*(torch.cat([a[i] for a in asked]) for i in range(2)))

    def _px(self, u: Tensor, c: Tensor) -> Distribution:
        with evaluating(self.place.networks):
            if self.prior is not None:
                loc, width = self.prior(self.go(c))
                u = (loc + width * u.double()).to(u.dtype)
            return back(self.decoder(self.place.go(u), self.go(c)))

    def go(self, c: Tensor) -> Tensor:
        """Conditions to the networks; whole numbers stay such."""
        told = self.layout.told(c)
        return told.to(self.place.device) if self.layout.whole else self.place.go(told)


def spoken(told: Told, row: Float[Tensor, "n e"]) -> tuple[str, ...]:
    """What to know of a model that is told conditions, by its training rows."""
    says = (
        "x and its conditions stand side by side in a row; draws of x' take the conditions of training rows at random"
    )
    return (says,) if told.prior is None else (says, of_prior(told.prior_of(row)))


@torch.no_grad()
def in_units(
    mean: Mapping[str, Any],
    scale: Mapping[str, Any],
    gives: str,
    prior: Gaussians | None,
    conditions: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Means and spreads in units of p(z|c), and p(z|c) itself as loc and scale beside each other, float64; by split.

    Raises:
        UsageError: the prior is no function of conditions; an unknown reading; conditions of other splits.
        ArrayError: not one c for each row, or shapes that do not fit.
    """
    if prior is None:
        raise UsageError("conditions: expected a prior that is a function of them, for bare arrays have no decoder")
    rows, layout = joined(mean, conditions)
    means, raws, priors = {}, {}, {}
    for s, row in rows.items():
        m, c = layout.parts(row)
        raw = whole(scale[s])
        read(raw, gives)  # is it one?
        at = Coordinates(*prior(layout.told(c)))
        if not raw.shape == m.shape == at.loc.shape:
            raise ArrayError(
                f"prior: expected means and scales of shape {list(m.shape)} in {s}, as mean has, got scale "
                f"{list(raw.shape)} and p(z|c) {list(at.loc.shape)}"
            )
        means[s] = ((m.double() - at.loc) / at.scale).to(m)
        raws[s] = NARROWER[gives](raw.double(), at.scale).to(m)
        priors[s] = torch.cat([at.loc, at.scale], 1)
    return means, raws, priors
