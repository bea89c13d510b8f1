"""Models that are told a condition c beside x and z: encoder, decoder and prior of a class, a batch, an embedding.

A row is x and, behind it, c. So log p(x|z, c) takes c from the row itself; draws take it from the training rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

from zprime.arrays import blocks
from zprime.bring.places import Place, back
from zprime.bring.splits import whole
from zprime.errors import ArrayError, UsageError

PX = Callable[[Tensor, Tensor], Distribution]
SHOWN = 64  # conditions that means of p(x|z, c) go through
BATCH = 512


@dataclass(frozen=True)
class Layout:
    """How x and c stand in a row.

    Attributes:
        shape: of x.
        width: columns of c.
        whole: whether c is whole numbers, e.g. of classes, which an embedding wants as such.
        flat: whether c was given as one number a row, not as a matrix.
    """

    shape: tuple[int, ...]
    width: int
    whole: bool = False
    flat: bool = False

    def join(self, x: Tensor, c: Tensor) -> Tensor:
        """Rows of data and their conditions."""
        return torch.cat([x.flatten(1), c.reshape(len(c), -1).to(x.dtype)], 1)

    def parts(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Data and conditions of rows."""
        return row[:, : -self.width].reshape(-1, *self.shape), row[:, -self.width :]

    def told(self, c: Tensor) -> Tensor:
        """Conditions as the networks were given them in training."""
        c = c[:, 0] if self.flat else c
        return c.long() if self.whole else c


class Conditioned(Distribution):
    """p(x|z, c) of rows that hold x and c.

    `log_prob` takes c from the row itself. A draw takes that of a row of the pool at random. The mean goes through some
    of them in turn.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)
    support = constraints.real_vector

    def __init__(self, px: PX, z: Float[Tensor, "n d"], layout: Layout, pool: Float[Tensor, "m c"]) -> None:
        self.px, self.z, self.layout, self.pool = px, z, layout, pool
        size = int(torch.Size(layout.shape).numel()) + layout.width
        super().__init__(z.shape[:1], torch.Size([size]), validate_args=False)

    def log_prob(self, value: Tensor) -> Float[Tensor, " n"]:
        """Log p(x|z, c) in nats a row."""
        x, c = self.layout.parts(value)
        log_density: Tensor = self.px(self.z, c).log_prob(x)
        return log_density

    @property
    def mean(self) -> Tensor:
        """Means of p(x|z, c), c in turn."""
        at = torch.arange(len(self.z)) % min(len(self.pool), SHOWN)
        return self._rows(self.pool[at], lambda p: p.mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """One row for each z."""
        with torch.no_grad():
            which = torch.randint(len(self.pool), (len(self.z),))
            return self._rows(self.pool[which], lambda p: p.sample())

    def beside(self, value: Tensor) -> tuple[Distribution, Tensor]:
        """p(x|z, c) under the conditions of some rows, one for each z, and the data of these rows."""
        x, c = self.layout.parts(value)
        return self.px(self.z, c), x

    def _rows(self, c: Tensor, answer: Callable[[Distribution], Tensor]) -> Tensor:
        return self.layout.join(answer(self.px(self.z, c)), c)


def joined(data: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layout]:
    """Rows that hold x and c, and how.

    Raises:
        UsageError: conditions of other splits than there are data.
        ArrayError: not one c for each row, or c of several forms.
    """
    if set(data) != set(conditions):
        raise UsageError(
            f"conditions: expected those of {', '.join(data)}, as there are data, got {', '.join(conditions) or 'none'}"
        )
    x = {s: whole(v) for s, v in data.items()}
    c = {s: whole(v) for s, v in conditions.items()}
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
    prior: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    gives: str
    layout: Layout
    pool: Float[Tensor, "m c"]
    place: Place

    def encode(self, row: Float[Tensor, "n e"]) -> Any:
        """Mean and spread of q(u|x, c), u in units of p(z|c); what else the encoder answers is left as it is."""
        x, c = self.layout.parts(row)
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

    def _px(self, u: Tensor, c: Tensor) -> Distribution:
        if self.prior is not None:
            loc, width = self.prior(self.go(c))
            u = (loc + width * u.double()).to(u.dtype)
        return back(self.decoder(self.place.go(u), self.go(c)))

    def go(self, c: Tensor) -> Tensor:
        """Conditions to the networks; whole numbers stay such."""
        told = self.layout.told(c)
        return told.to(self.place.device) if self.layout.whole else self.place.go(told)


NARROWER: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "std": lambda raw, width: raw / width,
    "variance": lambda raw, width: raw / width.square(),
    "log-variance": lambda raw, width: raw - 2 * width.log(),
    "log-std": lambda raw, width: raw - width.log(),
}
"""What a spread is in units of a prior, for each way of giving it."""


def gaussians(prior: Callable[[Tensor], Any]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Means and standard deviations of p(z|c), float64, from a function that answers a torch Distribution.

    Raises:
        UsageError (when it is asked): it answers something else than Gaussians of independent dimensions.
    """

    def ask(c: Tensor) -> tuple[Tensor, Tensor]:
        p = prior(c)
        while isinstance(p, Independent):
            p = p.base_dist
        if not isinstance(p, Normal) or p.loc.ndim != 2 or len(p.loc) not in (1, len(c)):
            raise UsageError(
                "prior: expected a function from conditions to torch Normal distributions of shape [n, d] (in "
                f"Independent, or not), got {type(p).__name__}; a p(z|c) of another form is not supported"
            )
        loc, scale = p.loc.detach().double().cpu(), p.scale.detach().double().cpu()
        return loc.expand(len(c), -1), scale.expand(len(c), -1)

    return ask


@torch.no_grad()
def spoken(told: Told) -> tuple[str, ...]:
    """What to know of a model that is told conditions."""
    says = (
        "x and its conditions stand side by side in a row; draws of x' take the conditions of training rows at random"
    )
    if told.prior is None:
        return (says,)
    asked = [told.prior(told.go(told.pool[i])) for i in blocks(len(told.pool), BATCH)]
    loc, width = (torch.cat([a[i] for a in asked]) for i in range(2))
    return (
        says,
        f"the prior is p(z|c), with means up to {float(loc.abs().max()):.3g} and standard deviations from "
        f"{float(width.min()):.3g} to {float(width.max()):.3g}: latents are shown in units of it, "
        "(z - loc(c)) / scale(c), where it is N(0, I); what is fitted there is an r(z|c) that shifts with c as the "
        "prior does",
    )
