"""What latents are to be scaled by: mean and standard deviation of each channel, and what a config says instead.

Errors are over data (images, clips): positions of one datum depend on each other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.bring.places import tensor
from zprime.bring.shaped import Grid, Layout
from zprime.errors import ArrayError
from zprime.latent.selection import TIE, WORTH
from zprime.statistics.design import Design
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.statistics.format import figures, unsigned

UNIT = "of a latent"
OFF = "nats a number"


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of each datum's latents, channel by channel: means over its positions, float64.

    Attributes:
        first: of z.
        means: of the squares of posterior means.
        noise: of posterior variances; 0 for codes.
        design: which data belong together.
    """

    first: Float[Tensor, "n c"]
    means: Float[Tensor, "n c"]
    noise: Float[Tensor, "n c"]
    design: Design

    @classmethod
    def of(cls, grid: Grid, design: Design, scaling: "Scaling | None" = None) -> "Moments":
        """Of a split, perhaps scaled."""
        one = torch.ones(1, grid.mean.shape[2], dtype=torch.float64)
        shift, factor = (0 * one, one) if scaling is None else (scaling.shift, scaling.factor)
        parts = [
            (
                g.mean.mean(1),
                g.mean.square().mean(1),
                g.mean.new_zeros(len(g), g.mean.shape[2]) if g.scale is None else g.scale.square().mean(1),
            )
            for g in grid.scaled(shift, factor)
        ]
        first, means, noise = (torch.cat(p) for p in zip(*parts, strict=True))
        return cls(first, means, noise, design)

    @property
    def second(self) -> Float[Tensor, "n c"]:
        """Of the squares of draws."""
        return self.means + self.noise

    def mean(self, channel: int) -> Estimate:
        """Of z in one channel."""
        return mean_estimate(self.first[:, channel], unit=UNIT, split="train", seed=None, design=self.design)

    def std(self, channel: int, *, draws: bool) -> Estimate:
        """Of draws z ~ q(z|x), or of posterior means, in one channel; its error by the delta method."""
        first, second = self.first[:, channel], (self.second if draws else self.means)[:, channel]
        m = first.mean()
        variance = mean_estimate(
            second - 2 * m * first + m.square(), unit=UNIT, split="train", seed=None, design=self.design
        )
        root = math.sqrt(max(variance.value, 0.0))
        error = variance.stderr or 0.0
        return replace(
            variance,
            value=root,
            stderr=error / (2 * root) if root else error,
            low=math.sqrt(max(variance.low, 0.0)),
            high=math.sqrt(max(variance.high, 0.0)),
        )

    def off(self) -> Estimate:
        """Nats by which N(0, 1) is off these numbers: `1/2 (s^2 + m^2 - 1 - log s^2)`, averaged over channels.

        It is KL(N(m, s^2) || N(0, 1)). By the jackknife over data or groups of them (Busing, Meijer & van der Leeden
        1999, for groups of different sizes), which takes the bias of a finite sample off: near 0 the value itself is of
        the order of that bias, so that it may come out below 0.
        """
        groups = self.design.groups
        codes = torch.arange(len(self.first)) if groups is None else torch.unique(groups, return_inverse=True)[1]
        size = torch.bincount(codes).double()
        total = float(size.sum())
        sums = [size.new_zeros(len(size), t.shape[1]).index_add(0, codes, t) for t in (self.first, self.second)]
        whole = _off(*(t.sum(0) / total for t in sums))
        if len(size) < 2:
            values = whole.expand(len(self.first))
            return mean_estimate(values, unit=OFF, split="train", seed=None, design=self.design)
        rest = _off(*((t.sum(0) - t) / (total - size)[:, None] for t in sums))
        h = total / size
        design = Design(weights=None if groups is None else size)
        e = mean_estimate(h * whole - (h - 1) * rest, unit=OFF, split="train", seed=None, design=design)
        return replace(e, n=int(total), groups=0 if groups is None else e.n)


def _off(first: Float[Tensor, "*n c"], second: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
    variance = second - first.square()
    return 0.5 * (second - 1 - variance.log()).mean(-1)


@dataclass(frozen=True)
class Measured:
    """Mean and standard deviation of each channel over training data, with standard errors over data.

    Attributes:
        mean: of a latent at a random position of a random datum.
        std: of a draw z ~ q(z|x) there: what scales latents that are drawn, as diffusion models are trained on.
        std_of_means: of a posterior mean there; the same as `std` where there are codes alone.
        overall: mean and standard deviation (of draws) of all channels together.
        off: nats a number by which N(0, 1) is off these latents as they are, without any scaling.
    """

    mean: tuple[Estimate, ...]
    std: tuple[Estimate, ...]
    std_of_means: tuple[Estimate, ...]
    overall: tuple[float, float]
    off: Estimate

    @classmethod
    def of(cls, grid: Grid, design: Design) -> "Measured":
        """Measure the training split.

        Raises:
            ArrayError: a channel is the same number everywhere.
        """
        m = Moments.of(grid, design)
        first, second = m.first.mean(0), m.second.mean(0)
        variance = second - first.square()
        constant = (variance <= 1e-12 * second).nonzero().flatten().tolist()
        if constant:
            raise ArrayError(
                f"vae: expected latents that vary, got {float(first[constant[0]]):.3g} in channel {constant[0]} at "
                "every position of all training data; such a channel cannot be scaled: leave it out of what encode "
                "answers"
            )
        channels = range(len(first))
        overall = float(first.mean()), float((second.mean() - first.mean().square()).sqrt())
        return cls(
            tuple(m.mean(j) for j in channels),
            tuple(m.std(j, draws=True) for j in channels),
            tuple(m.std(j, draws=False) for j in channels),
            overall,
            m.off(),
        )

    @property
    def normalised(self) -> bool:
        """Whether latents come out of the encoder with mean 0 and standard deviation 1 (see `Comparison.agrees`)."""
        return _none(self.off)

    @property
    def sentence(self) -> str:
        """Means and standard deviations, of draws and of means; the least and the largest where they are many."""
        draws, means = _span(self.std), _span(self.std_of_means)
        of = "draws and of posterior means" if draws == means else f"draws; of posterior means {means}"
        return (
            f"Measured on {_counted(self.mean[0])}: latents_mean {_span(self.mean)}; latents_std {draws} (of {of}); "
            "standard errors are over data, not positions."
        )


def _none(off: Estimate) -> bool:
    return off.low <= WORTH and off.value <= TIE


def _counted(e: Estimate) -> str:
    return f"{e.n:,} training data" + (f" in {e.groups:,} groups" if e.groups else "")


def _span(values: tuple[Estimate, ...]) -> str:
    if len(values) <= 4:
        return ", ".join(map(unsigned, values))
    low, high = (f(values, key=lambda e: e.value) for f in (min, max))
    return f"from {unsigned(low)} to {unsigned(high)} in {len(values)} channels"


@dataclass(frozen=True, eq=False)
class Scaling:
    """What a pipeline does to latents: `(z - shift) * factor`.

    Attributes:
        shift, factor: a number for each channel, or for each channel of each position.
        says: the fields of the config it is made of, e.g. "scaling_factor 0.2325 and no shift".
        each: whether they are `latents_mean` and `latents_std`.
    """

    shift: Float[Tensor, "#p c"]
    factor: Float[Tensor, "#p c"]
    says: str
    each: bool


@dataclass(frozen=True)
class Comparison:
    """A config beside what was measured.

    Attributes:
        scaling: what pipelines do by that config.
        off: nats a number by which N(0, 1) is off the latents after it; 0 where the config is right.
    """

    scaling: Scaling
    off: Estimate

    @property
    def agrees(self) -> bool:
        """Whether it may be off by 0.01 nats a number or less, and is not measured to be off by more than 0.05."""
        return _none(self.off)

    def sentence(self, measured: Measured) -> str:
        """The config, the measurement, and the nats between them."""
        off = f"{unsigned(self.off)} nats a number off"
        if self.agrees:
            return f"Your config says {self.scaling.says}: that agrees with what was measured ({off})."
        found = "other means and standard deviations"
        if not self.scaling.each:
            mean, std = measured.overall
            shift = "a shift of" if abs(mean) > 0.1 * std else "shift"
            found = f"{1 / std:.3g} and {shift} {figures(mean, 3)}"
        return f"Your config says {self.scaling.says}; measured {found}: {off}."


def scaling_of(vae: Any, layout: Layout) -> Scaling | None:
    """What pipelines of diffusers do to the latents of a VAE, by its config; None where that has no such field.

    `(z - latents_mean) * scaling_factor / latents_std` where both of these are there, else `(z - shift_factor) *
    scaling_factor`. The config is a mapping or an object; a field that it lacks may be an attribute of the VAE.

    Raises:
        ArrayError: a field with numbers neither for each channel nor for each number of the grid, or a std of 0.
    """
    config = getattr(vae, "config", None)

    def field(name: str) -> Tensor | None:
        value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        value = getattr(vae, name, None) if value is None else value
        return None if value is None else _numbers(name, value, layout)

    mean, std, factor, shift = (field(n) for n in ("latents_mean", "latents_std", "scaling_factor", "shift_factor"))
    one = torch.ones(1, layout.width, dtype=torch.float64)
    scale = one if factor is None else factor * one
    if mean is not None and std is not None:
        by = "" if factor is None or bool((factor == 1).all()) else f" and scaling_factor {float(factor.mean()):.5g}"
        return Scaling(mean * one, scale / std, f"latents_mean, latents_std{by}", each=True)
    if factor is None and shift is None:
        return None
    zero = shift is None or not bool(shift.any())
    says = f"scaling_factor {'1' if factor is None else f'{float(factor.mean()):.5g}'}"
    says = f"{says} and {'no shift' if shift is None or zero else f'shift_factor {float(shift.mean()):.5g}'}"
    return Scaling(0 * one if shift is None else shift * one, scale, says, each=False)


def _numbers(name: str, value: Any, layout: Layout) -> Float[Tensor, "#p #c"]:
    """The numbers of a field, for each channel or each channel of each position."""
    t = tensor(value).detach().cpu().double()
    if t.numel() == 1:
        found = t.reshape(1, 1)
    elif t.numel() == layout.width:
        found = t.reshape(1, -1)
    elif t.numel() == layout.width * layout.positions:
        found = layout.flat(t.reshape(1, *layout.shape))[0]
    else:
        raise ArrayError(
            f"config: expected {layout.width} numbers in {name}, one a channel, got {t.numel()} of shape "
            f"{list(t.shape)}"
        )
    if not bool(torch.isfinite(found).all()) or (name == "latents_std" and not bool((found > 0).all())):
        raise ArrayError(f"config: expected finite numbers in {name}, above 0 for a std, got {float(found.min()):g}")
    return found
