"""flow-matching: an ordinary differential equation that carries N(0, I) to the aggregated posterior."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import standard_log_prob
from zprime.distribution import Density, LatentDistribution
from zprime.latent.gradient import Problem, Schedule, ascend, at_least, score, some_codes
from zprime.latent.kind import FORMS, About, Fit, Outcome, Task
from zprime.latent.network import TENSORS, NetworkDistribution, Whitening, build, by_rows, frozen, precise, skeleton
from zprime.latent.selection import Codes
from zprime.posteriors import Form
from zprime.results.facts import Chosen
from zprime.rng import fork
from zprime.schema import FINITE, Array, Number, Schema, Whole

WAVES = 6  # frequencies of the time features
STEPS_TRIED = (8, 16, 32, 64)  # Runge-Kutta steps that are tried for the density
ENOUGH = 0.01  # nats that doubling the steps may move the density by, on average
SCORE_ROWS, SCORE_POINTS, SCORE_STEPS = 2000, 2000, 8


class Velocity(nn.Module):
    """v(x, t) = c(t) x + net(x, t), with `c(t) = (2t - 1) / (t^2 + (1-t)^2)`; the net's last layer starts at zero.

    c(t) x is the exact answer for data N(0, I), so a fit starts at the moment match. Two hidden layers with SiLU:
    then the divergence is `c(t) d + a^T M b`, with a and b the activations' slopes and
    `M = W2 * (W1 W3)^T` entry by entry: exact, for the price of one more matrix product whatever the dimension.
    """

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        features = 1 + 2 * WAVES
        self.first = nn.Linear(d, width)
        self.first_time = nn.Linear(features, width, bias=False)
        self.second = nn.Linear(width, width)
        self.second_time = nn.Linear(features, width, bias=False)
        self.last = nn.Linear(width, d)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Float[Tensor, "n d"], t: Float[Tensor, "t 1"]) -> Float[Tensor, "n d"]:
        """Velocity at times t, one a row or one for all."""
        features = _features(t)
        h = F.silu(self.first(x) + self.first_time(features))
        h = F.silu(self.second(h) + self.second_time(features))
        velocity: Tensor = self.last(h) + _linear(t) * x
        return velocity

    def divergence_matrix(self) -> Float[Tensor, "h h"]:
        """M of the class docstring."""
        return self.second.weight * (self.first.weight @ self.last.weight).T

    def with_divergence(
        self, x: Float[Tensor, "n d"], t: Float[Tensor, "1 1"], matrix: Float[Tensor, "h h"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Velocity and the trace of its Jacobian."""
        features = _features(t)
        one = self.first(x) + self.first_time(features)
        h, slope_one = _silu(one)
        h, slope_two = _silu(self.second(h) + self.second_time(features))
        velocity = self.last(h) + _linear(t) * x
        trace = ((slope_one @ matrix.T) * slope_two).sum(1) + x.shape[1] * _linear(t)[0, 0]
        return velocity, trace


def _features(t: Float[Tensor, "t 1"]) -> Float[Tensor, "t f"]:
    """Time, and sines and cosines of it."""
    angles = math.pi * t * torch.arange(1, WAVES + 1, dtype=t.dtype, device=t.device)
    return torch.cat([t, angles.sin(), angles.cos()], 1)


def _linear(t: Float[Tensor, "t 1"]) -> Float[Tensor, "t 1"]:
    """c(t) of `Velocity`."""
    return (2 * t - 1) / (t.square() + (1 - t).square())


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its derivative."""
    s = torch.sigmoid(x)
    h = x * s
    return h, torch.addcmul(s, h, 1 - s)


def integrate(net: Velocity, x: Float[Tensor, "n d"], *, steps: int) -> Float[Tensor, "n d"]:
    """From t = 0 to t = 1 by the classical Runge-Kutta method in equal steps."""
    h = 1 / steps
    for i in range(steps):
        a, b, c = (x.new_full((1, 1), (i + s) * h) for s in (0.0, 0.5, 1.0))
        k1 = net(x, a)
        k2 = net(x + 0.5 * h * k1, b)
        k3 = net(x + 0.5 * h * k2, b)
        k4 = net(x + h * k3, c)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def integrate_back(
    net: Velocity, x: Float[Tensor, "n d"], *, steps: int
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """From t = 1 to t = 0, and the integral over time of the divergence along the way (float64)."""
    matrix = net.divergence_matrix()
    h = 1 / steps
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for i in reversed(range(steps)):
        a, b, c = (x.new_full((1, 1), (i + s) * h) for s in (1.0, 0.5, 0.0))
        k1, d1 = net.with_divergence(x, a, matrix)
        k2, d2 = net.with_divergence(x - 0.5 * h * k1, b, matrix)
        k3, d3 = net.with_divergence(x - 0.5 * h * k2, b, matrix)
        k4, d4 = net.with_divergence(x - h * k3, c, matrix)
        x = x - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total += h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, total


@final
@dataclass(frozen=True, repr=False, eq=False)
class FlowMatching(NetworkDistribution[Velocity]):
    """`log r(z) = log N(x_0; 0, I) - int_0^1 div v(x_t, t) dt - log det L`, dx/dt = v the path that ends in x_1 = u.

    u is z whitened. The divergence is exact and the integral is not: `density` is an estimate, and `error` says how
    far doubling the steps moved it. Draws follow the same equation, with the same steps, from N(0, I).

    Attributes:
        net: the velocity.
        whitening: between z and u.
        steps: Runge-Kutta steps.
        error: mean absolute change of log r in nats from `steps` to twice as many, on selection codes.
    """

    kind: ClassVar[str] = "flow-matching"
    schema: ClassVar[Schema] = Schema(
        {"steps": Whole(1, 1 << 14), "error": Number()},
        {**TENSORS, "net.second.bias": Array({"width": FINITE}, "real")},
    )
    density_of_kind: ClassVar[Density] = "estimate"
    steps: int
    error: float

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Estimate log r(z) in nats, float64, computed in z's own precision."""
        net = precise(self.net, z.dtype)
        dtype = net.last.weight.dtype

        def density(u: Tensor) -> Tensor:
            e, divergence = integrate_back(net, u.to(dtype), steps=self.steps)
            return standard_log_prob(e) - divergence

        return by_rows(density, self.whitening.whiten(z), 1024) - self.whitening.log_det

    def replicates(self) -> Sequence[LatentDistribution]:
        """The density by twice as many steps; what is left of the error then is about a sixteenth."""
        return [replace(self, steps=2 * self.steps)]

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Standard normal draws, carried from t = 0 to t = 1."""
        e = self.whitening.noise(n, rng=rng)
        return self.whitening.colour(by_rows(lambda x: integrate(self.net, x, steps=self.steps), e, 1024))

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "a network fitted to the posteriors"

    def config(self) -> dict[str, Any]:
        """The steps and the error that they leave."""
        return {"steps": self.steps, "error": self.error}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the weights, whose shapes give the architecture."""
        whitening = Whitening.stored(tensors)
        width = len(tensors["net.second.bias"])
        net = skeleton(lambda: Velocity(whitening.d, width), tensors, whitening.d, width, width, whitening.d)
        return cls(net, whitening, int(config["steps"]), float(config["error"]))


@final
@dataclass(frozen=True)
class FlowMatchingSettings(Schedule):
    """Conditional flow matching with straight paths (Lipman et al. 2023) from N(0, I) to fresh posterior draws.

    `min E |v(x_t, t) - (u - e)|^2`, x_t = (1-t) e + t u, e ~ N(0, I), u a whitened posterior draw, t uniform on [0, 1].

    Attributes:
        width: of the two hidden layers.
        steps: Runge-Kutta steps; 0 takes the fewest of 8, 16, 32, 64 that leave an error below 0.01 nats.
        epochs, batch, lr, patience: see `Schedule`.
    """

    kind: ClassVar[str] = FlowMatching.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "a network", "minutes; density by an ODE", "as flow, with a density that is an estimate"
    )
    width: int = 192
    steps: int = 0
    _: KW_ONLY
    epochs: int = 50
    batch: int = 512
    lr: float = 3e-3
    patience: int = 10

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        super().check()
        at_least("width", self.width, 1)
        at_least("steps", self.steps, 0)

    def fit(self, task: Task) -> Fit[FlowMatching]:
        """Regress the velocity, stop by the ELBO gain on selection codes, then choose the number of steps.

        Raises:
            UsageError: settings that cannot be used.
        """
        self.check()
        train, whitening = task.train, Whitening.of(task.train)
        net = build(lambda: Velocity(train.d, self.width), rng=fork(task.rng, "weights"))
        codes = some_codes(task, rows=SCORE_ROWS, points=SCORE_POINTS)

        def objective(z: Tensor, stream: torch.Generator) -> Tensor:
            u = whitening.whiten(z).float()
            e = whitening.noise(len(u), rng=stream)
            # one time from each of len(u) equal parts of [0, 1]: less noise than independent times
            t = torch.rand(len(u), 1, generator=stream, device=u.device)
            t = (torch.arange(len(u), device=u.device)[:, None] + t) / len(u)
            return -0.5 * (net.forward((1 - t) * e + t * u, t) - (u - e)).square().sum(1).mean()

        def current() -> float:
            return score(codes, FlowMatching(net, whitening, SCORE_STEPS, math.nan))

        ascent = ascend(Problem(self.kind, list(net.parameters()), objective, current), self, task)
        net = frozen(net)
        errors = step_errors(net, whitening, codes, self.steps)
        steps, error = int(errors["steps"][-1]), errors["error"][-1]
        outcome = ascent.outcome
        if error > ENOUGH:
            outcome = Outcome(
                ok=False,
                message=("" if outcome.ok else f"{outcome.message}; and ")
                + f"{steps} steps leave an error of {error:.2g} nats in the density (what twice as many change): "
                "the posteriors are narrow beside their spread; raise steps, or take kind flow, which is exact",
            )
        chosen = Chosen(settings={"epoch": ascent.epoch, "steps": steps, "error": error})
        return Fit(FlowMatching(net, whitening, steps, error), outcome, {**ascent.trace, **errors}, chosen)


def step_errors(net: Velocity, whitening: Whitening, codes: Codes, steps: int) -> dict[str, list[float]]:
    """Numbers of Runge-Kutta steps that were tried, and how far twice as many would move the density, in nats.

    Returns:
        `steps`, and at each of them the mean (`error`) and the `largest` change over codes; the last one is taken.
    """
    z = codes.z[:1000]
    errors: dict[str, list[float]] = {"steps": [], "error": [], "largest": []}
    now = FlowMatching(net, whitening, steps or STEPS_TRIED[0], 0.0).log_prob(z)
    for s in (steps,) if steps else STEPS_TRIED:
        finer = FlowMatching(net, whitening, 2 * s, 0.0).log_prob(z)
        gap = (finer - now).abs()
        for name, value in (("steps", float(s)), ("error", float(gap.mean())), ("largest", float(gap.max()))):
            errors[name].append(value)
        if errors["error"][-1] < ENOUGH:
            break
        now = finer
    return errors
