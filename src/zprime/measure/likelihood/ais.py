"""Annealed importance sampling of log p_r(x), forwards and in reverse: a sandwich on simulated data.

Neal 2001; bidirectional Monte Carlo: Grosse et al. 2015, and for decoders Wu et al. 2017. The chain goes through
`f_b(z) = start(z)^(1-b) [r(z) p(x|z)]^b` for b from 0 to 1, with Hamiltonian Monte Carlo (Neal 2011) at every b.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks, gaussian_log_prob, is_full, times, whitened
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError, UsageError
from zprime.posteriors import MemoryPosteriors
from zprime.progress import Progress, silent
from zprime.rng import fork
from zprime.vae import Decoder

DECODE = 256
STEEPNESS = 4.0  # of the sigmoid along which b goes from 0 to 1 (Wu et al. 2017): slow at both ends
ACCEPT = 0.75  # acceptance that the warm-up aims at
LEARN = 0.3  # change of the log step size for a unit of acceptance
FIRST = 0.4  # step size that the warm-up begins with, in units of the scales
JITTER = 0.2  # steps are drawn within 20 % of their size, or a trajectory may return to its start
SMOOTH = 4  # temperatures to either side whose step sizes are averaged
LEVEL = 0.01  # nats: so near to its mode a point that goes uphill stays where it is
SPREAD = 2000  # draws of r whose standard deviations are the scales, where there is no encoder to give them


@dataclass(frozen=True)
class AISSettings:
    """How long to anneal.

    Attributes:
        temperatures: values of b after 0; the bounds tighten about in proportion.
        chains: independent chains a row.
        leapfrog: steps of a trajectory; each is one gradient through the decoder.
    """

    temperatures: int = 200
    chains: int = 4
    leapfrog: int = 5

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        for name in ("temperatures", "chains", "leapfrog"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def schedule(self) -> list[float]:
        """Values of b, from 0 to 1."""
        t = [2 * i / self.temperatures - 1 for i in range(self.temperatures + 1)]
        raw = [1 / (1 + math.exp(-STEEPNESS * v)) for v in t]
        return [(v - raw[0]) / (raw[-1] - raw[0]) for v in raw]


@dataclass(frozen=True, eq=False)
class Target:
    """What the chains end in: r(z) p(x|z), for every row x.

    Attributes:
        r: latent distribution; its log-density needs a gradient in z.
        decoder: p(x|z); its log-density needs a gradient in z.
        x: data, scaled as the decoder's.
    """

    r: LatentDistribution
    decoder: Decoder
    x: Float[Tensor, "n *datum"]


@dataclass(frozen=True)
class Annealed:
    """What the chains give, row by row.

    Attributes:
        log_prob: log p_r(x) in nats: below the truth in expectation (forwards) or above it (in reverse).
        acceptance: mean proportion of accepted trajectories, by row.
        z: where the chains of each row ended.
    """

    log_prob: Float[Tensor, " n"]
    acceptance: Float[Tensor, " n"]
    z: Float[Tensor, "n chains d"]


@dataclass(frozen=True)
class _State:
    """Points of all chains with the three log-densities of the path and their gradients."""

    z: Float[Tensor, "m d"]
    start: Float[Tensor, " m"]
    end: Float[Tensor, " m"]
    start_gradient: Float[Tensor, "m d"]
    end_gradient: Float[Tensor, "m d"]

    def log(self, b: float) -> Float[Tensor, " m"]:
        """Unnormalised log-density at b."""
        return (1 - b) * self.start + b * self.end

    def gradient(self, b: float) -> Float[Tensor, "m d"]:
        """Its gradient."""
        return (1 - b) * self.start_gradient + b * self.end_gradient

    def where(self, take: Tensor, other: "_State") -> "_State":
        """Points of `other` where `take` is True, these elsewhere."""
        wide = take[:, None]
        return _State(
            torch.where(wide, other.z, self.z),
            torch.where(take, other.start, self.start),
            torch.where(take, other.end, self.end),
            torch.where(wide, other.start_gradient, self.start_gradient),
            torch.where(wide, other.end_gradient, self.end_gradient),
        )

    def take(self, at: Tensor) -> "_State":
        """Some of the points."""
        return _State(self.z[at], self.start[at], self.end[at], self.start_gradient[at], self.end_gradient[at])

    def put(self, at: Tensor, other: "_State") -> "_State":
        """Points of `other` at some places, these elsewhere."""
        return _State(
            self.z.index_copy(0, at, other.z),
            self.start.index_copy(0, at, other.start),
            self.end.index_copy(0, at, other.end),
            self.start_gradient.index_copy(0, at, other.start_gradient),
            self.end_gradient.index_copy(0, at, other.end_gradient),
        )


class Annealer:
    """Chains for some rows: from Gaussians (e.g. the encoder's posteriors), or from r itself, to r(z) p(x|z).

    The step sizes, one for every row and temperature, are set in a separate warm-up and are constant afterwards. So the
    estimates are bounds for any step sizes.

    Attributes:
        warm: where the chains of the warm-up ended, [n, chains, d]. They too went from the start to r(z) p(x|z), so
            they find what `forward` finds; no bound may be made of them.
    """

    def __init__(
        self,
        target: Target,
        settings: AISSettings = AISSettings(),
        *,
        rng: torch.Generator,
        start: MemoryPosteriors | None = None,
        progress: Progress = silent,
    ) -> None:
        """Set the step sizes.

        Args:
            target: latent distribution, decoder and rows.
            settings: how long to anneal.
            rng: source of randomness.
            start: one Gaussian a row, to start from and to take scales from; None starts from r.
            progress: called once a temperature.

        Raises:
            UsageError: settings that cannot be used, or a density that has no gradient.
            ArrayError: `start` has other rows.
        """
        settings.check()
        r, x = target.r, target.x
        if r.density == "none":
            raise UsageError(f"{r.label}: expected a latent distribution with a density, this kind has none")
        if start is not None and (start.n, start.d) != (len(x), r.d):
            raise ArrayError(f"start: expected {len(x)} rows of {r.d} latents, got {start.n} of {start.d}")
        self.r, self.decoder, self.x, self.settings, self.start = r, target.decoder, x, settings, start
        self.rng, self.progress = rng, progress
        self.schedule = settings.schedule()
        self.scale = self._scale()
        self.steps = torch.full((settings.temperatures, len(x)), FIRST, dtype=torch.float64)
        self.warm = self._tune().reshape(len(x), settings.chains, -1)

    def forward(self) -> Annealed:
        """Annealed importance sampling: log of the mean weight, a lower bound of log p_r(x) in expectation."""
        now, total = self._at(self._first("forward")), self._zeros()
        accepted = self._zeros()
        for t in range(1, len(self.schedule)):
            total += (self.schedule[t] - self.schedule[t - 1]) * (now.end - now.start)
            if t < len(self.schedule) - 1:
                now, acceptance = self._move(now, t, fork(self.rng, "forward", t))
                accepted += acceptance
            self.progress("annealing", t, len(self.schedule) - 1)
        return self._result(now, total, accepted, sign=1)

    def reverse(self, z: Float[Tensor, "n d"]) -> Annealed:
        """The same chains from exact posterior draws, in reverse: an upper bound of log p_r(x) in expectation.

        Args:
            z: one draw from each row's posterior under r: for simulated data, the z that made x.
        """
        now, total = self._at(z.double().repeat_interleave(self.settings.chains, 0)), self._zeros()
        accepted = self._zeros()
        for t in range(len(self.schedule) - 1, 0, -1):
            if t < len(self.schedule) - 1:
                now, acceptance = self._move(now, t, fork(self.rng, "reverse", t))
                accepted += acceptance
            total += (self.schedule[t] - self.schedule[t - 1]) * (now.end - now.start)
            self.progress("annealing in reverse", len(self.schedule) - t, len(self.schedule) - 1)
        return self._result(now, total, accepted, sign=-1)

    def climb(self, z: Float[Tensor, "n chains d"], *, steps: int) -> Float[Tensor, "n chains d"]:
        """Points moved uphill on log r(z) + log p(x|z), by gradients scaled with the squares of the scales.

        Where the posterior is a Gaussian of these scales, one step of size 1 ends in its mode. A step that leads
        downhill is not taken, and the next one of that point is half as long. A point stays where such a Gaussian
        would rise by less than 0.01 nats.
        """
        row = self._row()
        now, size = self._at(z.double().flatten(0, 1)), torch.ones(len(row), dtype=torch.float64)
        square = self.scale.square()[row]
        for _ in range(steps):
            on = (0.5 * (square * now.end_gradient.square()).sum(1) > LEVEL).nonzero().flatten()
            if not len(on):
                break
            here = now.take(on)
            moved = here.z + size[on, None] * square[on] * here.end_gradient
            there = torch.isfinite(moved).all(1)
            new = self._at(torch.where(there[:, None], moved, here.z), row[on])
            better = there & (new.end > here.end)
            now = now.put(on, here.where(better, new))
            size[on] = torch.where(better, size[on], size[on] / 2)
        return now.z.reshape(z.shape)

    def _result(self, now: _State, total: Tensor, accepted: Tensor, *, sign: int) -> Annealed:
        chains = self.settings.chains
        log_prob = sign * (torch.logsumexp(sign * total.reshape(-1, chains), 1) - math.log(chains))
        acceptance = accepted.reshape(-1, chains).mean(1) / max(1, len(self.schedule) - 2)
        return Annealed(log_prob, acceptance, now.z.reshape(len(self.x), chains, -1))

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.x) * self.settings.chains, dtype=torch.float64)

    def _scale(self) -> Float[Tensor, "n d"]:
        """Standard deviations that trajectories are measured in."""
        if self.start is not None:
            return self.start.deviation.double()
        spread = self.r.sample(SPREAD, rng=fork(self.rng, "spread")).double().std(0).clamp(min=1e-6)
        return spread.expand(len(self.x), -1)

    def _first(self, name: str) -> Float[Tensor, "m d"]:
        rng, chains = fork(self.rng, name, "start"), self.settings.chains
        if self.start is None:
            return self.r.sample(len(self.x) * chains, rng=rng).double()
        mean, scale = (v.double().repeat_interleave(chains, 0) for v in (self.start.mean, self.start.scale))
        return mean + times(scale, torch.randn(mean.shape, generator=rng, dtype=torch.float64))

    def _row(self) -> Int[Tensor, " m"]:
        """Which row each chain belongs to."""
        return torch.arange(len(self.x)).repeat_interleave(self.settings.chains)

    def _at(self, z: Float[Tensor, "m d"], row: Int[Tensor, " m"] | None = None) -> _State:
        """Densities and gradients, in blocks; of all chains, unless `row` says whose these are."""
        row = self._row() if row is None else row
        parts = [self._evaluate(z[i], row[i]) for i in blocks(len(z), DECODE)]
        start, end, start_gradient, end_gradient = (torch.cat(p) for p in zip(*parts, strict=True))
        return _State(z, start, end, start_gradient, end_gradient)

    def _evaluate(self, z: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_r = self.r.log_prob(z)
            log_x = self.decoder.decode(z.to(self.x.dtype)).log_prob(self.x[row]).double()
            for name, value in (("r", log_r), ("decoder", log_x)):
                if not value.requires_grad:
                    raise UsageError(f"{name}: expected a log-density with a gradient in z, got one without")
            (of_r,) = torch.autograd.grad(log_r.sum(), z)
            (of_x,) = torch.autograd.grad(log_x.sum(), z)
        log_r, log_x, z = log_r.detach(), log_x.detach(), z.detach()
        if self.start is None:
            return log_r, log_r + log_x, of_r, of_r + of_x
        mean, scale = self.start.mean[row].double(), self.start.scale[row].double()
        return gaussian_log_prob(z, mean, scale), log_r + log_x, _score(z, mean, scale), of_r + of_x

    def _move(self, now: _State, t: int, rng: torch.Generator) -> tuple[_State, Float[Tensor, " m"]]:
        """One trajectory of every chain at temperature t, accepted or not, and the chance that it was."""
        b, chains = self.schedule[t], self.settings.chains
        m = len(now.z)
        jitter = 1 + JITTER * (2 * torch.rand(m, generator=rng, dtype=torch.float64) - 1)
        e = (self.steps[t - 1].repeat_interleave(chains) * jitter)[:, None] * self.scale.repeat_interleave(chains, 0)
        p = torch.randn(now.z.shape, generator=rng, dtype=torch.float64)
        coin = torch.rand(m, generator=rng, dtype=torch.float64).log()
        new, momentum = now, p + 0.5 * e * now.gradient(b)
        lost = torch.zeros(m, dtype=torch.bool)
        for i in range(self.settings.leapfrog):
            z = new.z + e * momentum
            # a trajectory that leaves the finite numbers is rejected; until then it is evaluated where it began
            lost |= ~torch.isfinite(z).all(1)
            new = self._at(torch.where(lost[:, None], now.z, z))
            last = i == self.settings.leapfrog - 1
            momentum = momentum + (0.5 if last else 1.0) * e * new.gradient(b)
        log_ratio = new.log(b) - now.log(b) - 0.5 * (momentum.square().sum(1) - p.square().sum(1))
        log_ratio = log_ratio.masked_fill(lost | ~torch.isfinite(log_ratio), -torch.inf)
        return now.where(coin < log_ratio, new), log_ratio.clamp(max=0).exp()

    def _tune(self) -> Float[Tensor, "m d"]:
        """Run once, adapting each row's step size to its acceptance; keep the step size of every temperature.

        Returns:
            Where the chains ended.
        """
        first, log_step = self._first("warm-up"), torch.full((len(self.x),), math.log(FIRST), dtype=torch.float64)
        if len(self.schedule) == 2:  # no temperature between start and end
            return first
        now = self._at(first)
        for t in range(1, len(self.schedule) - 1):
            self.steps[t - 1] = log_step.exp()
            now, acceptance = self._move(now, t, fork(self.rng, "warm-up", t))
            log_step = log_step + LEARN * (acceptance.reshape(len(self.x), -1).mean(1) - ACCEPT)
            self.progress("annealing, warm-up", t, len(self.schedule) - 1)
        log_steps = self.steps.log()
        n = len(log_steps)
        windows = [log_steps[max(0, t - SMOOTH) : t + SMOOTH + 1].mean(0) for t in range(n)]
        self.steps = torch.stack(windows).exp()
        return now.z


def _score(z: Tensor, mean: Tensor, scale: Tensor) -> Float[Tensor, "m d"]:
    """Gradient in z of log N(z; mean, scale)."""
    if not is_full(mean, scale):
        return (mean - z) / scale.square()
    u = whitened(mean - z, scale)
    solved: Tensor = torch.linalg.solve_triangular(scale.mT, u[..., None], upper=True)
    return solved[..., 0]
