"""resampled: a Gaussian re-weighted by a network, by learned accept/reject or by energy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks, standard_log_prob
from zprime.distribution import Density, LatentDistribution, need_standard
from zprime.errors import UsageError
from zprime.latent.gradient import Problem, Schedule, ascend, at_least, score, widths
from zprime.latent.kind import FORMS, About, Fit, Outcome, Task
from zprime.latent.network import (
    HIDDEN,
    MLP,
    ROWS,
    TENSORS,
    NetworkDistribution,
    Whitening,
    build,
    by_rows,
    frozen,
    precise,
    skeleton,
)
from zprime.latent.selection import Codes
from zprime.posteriors import Form
from zprime.results.facts import Chosen, Setting
from zprime.rng import fork, stream
from zprime.schema import FINITE, Array, Number, Real, Schema, Text, Whole, need

METHODS = ("rejection", "energy")
BASES = ("gaussian", "prior")
PROPOSALS = 256  # a draw, by default
SETS = 1024  # sets of proposals behind an energy density
SCORE_SETS = 256  # the same while fitting
NORMALISER = 1 << 19  # base draws behind Z
SCORE_NORMALISER = 1 << 16  # the same while fitting, at every look the same draws
LEFT_OVER = 0.2  # proportion of draws taken unaccepted above which the outcome warns
EFFECTIVE = 4.0  # effective proposals of a draw below which it warns
REPLICATES = 8  # resamples of the sets, by which an audit measures the error of an energy density
AT_ONCE = 1 << 16  # proposals, or pairs of point and set, handled at once


@dataclass(frozen=True)
class Normaliser:
    """What stands in for the integrals over the base Gaussian pi, estimated once from independent base draws.

    Attributes:
        log_z: log E_pi[a] (rejection) or log E_pi[exp f] (energy), nats.
        stderr: its standard error, nats (delta method).
        effective: effective number of T proposals, `T (E_pi weight)^2 / E_pi[weight^2]`.
        log_sums: energy only: log of the summed weights of sets of T - 1 proposals, shape [sets].
    """

    log_z: float
    stderr: float
    effective: float
    log_sums: Float[Tensor, " sets"]

    @classmethod
    def estimate(cls, method: str, log_weight: Float[Tensor, " s"], proposals: int) -> "Normaliser":
        """From the log-weights at base draws; sums in float64."""
        log_weight = log_weight.double()
        log_z = float(torch.logsumexp(log_weight, 0)) - math.log(len(log_weight))
        ratio = (log_weight - log_z).exp()
        stderr = float(ratio.std()) / math.sqrt(len(ratio)) if len(ratio) > 1 else math.inf
        sets = 0 if method == "rejection" else len(log_weight) // (proposals - 1)
        log_sums = log_weight[: sets * (proposals - 1)].reshape(sets, proposals - 1).logsumexp(1)
        return cls(log_z, stderr, proposals / float(ratio.square().mean()), log_sums)


@final
@dataclass(frozen=True, repr=False, eq=False)
class Resampled(NetworkDistribution[MLP]):
    """The law of the one of T proposals from a base Gaussian pi that a network f picks.

    rejection (Bauer & Mnih 2019): a proposal is accepted with probability a = sigmoid(f), and the T-th taken as it
    comes: `r(z) = pi(z) [(1 - t) a(z)/Z + t]`, `Z = E_pi[a]`, `t = (1 - Z)^(T-1)`.
    energy (Aneja et al. 2021): one of the T is taken in proportion to w = exp f (importance resampling):
    `r(z) = pi(z) E[T w(z) / (w(z) + S)]`, S the sum of w over T - 1 proposals; the paper's `pi(z) w(z) / E_pi[w]` is
    its limit for large T. With either, r <= T pi: no network makes up for more than log T nats.
    Z, and the mean over S, are estimated once from base draws and kept, so log r is a fixed function of z.

    Attributes:
        net: f, of the whitened z.
        whitening: the map that whitens pi.
        method: `rejection` or `energy`.
        hidden: widths of the hidden layers of f.
        proposals: T.
        normaliser: Z, or sets of S.
    """

    kind: ClassVar[str] = "resampled"
    schema: ClassVar[Schema] = Schema(
        {
            "method": Text(METHODS),
            "hidden": HIDDEN,
            "proposals": Whole(2, 1 << 16),
            "log_normaliser": Real(),
            "log_normaliser_stderr": Number(),
            "effective_proposals": Number(),
        },
        {**TENSORS, "log_sums": Array({"sets": FINITE}, "real", optional=True)},
    )
    density_of_kind: ClassVar[Density] = "estimate"
    method: str
    hidden: tuple[int, ...]
    proposals: int
    normaliser: Normaliser

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "a Gaussian, re-weighted by a network"

    @property
    def label(self) -> str:
        """With the method."""
        return f"resampled ({self.method})"

    @property
    def left_over(self) -> float:
        """Rejection: proportion of draws that are a T-th proposal, taken unaccepted."""
        return math.exp((self.proposals - 1) * math.log1p(-min(math.exp(self.normaliser.log_z), 1 - 1e-12)))

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Estimate log r(z) in nats, float64, up to the error of the normaliser; computed in z's own precision."""
        net = precise(self.net, z.dtype)
        dtype = next(net.parameters()).dtype

        def density(u: Tensor) -> Tensor:
            log_weight = _log_weight(self.method, net(u.to(dtype))[:, 0]).double()
            return standard_log_prob(u) + self._log_ratio(log_weight)

        rows = ROWS if self.method == "rejection" else max(1, 4 * AT_ONCE // SETS)
        return by_rows(density, self.whitening.whiten(z), rows) - self.whitening.log_det

    def replicates(self) -> Sequence[LatentDistribution]:
        """Rejection: Z one standard error higher and lower. Energy: 8 bootstrap resamples of the sets of proposals."""
        z = self.normaliser
        if self.method == "rejection":
            others = [replace(z, log_z=z.log_z + sign * z.stderr) for sign in (1, -1)]
        else:
            n = len(z.log_sums)
            picked = [torch.randint(n, (n,), generator=stream(i, "resampled")) for i in range(REPLICATES)]
            others = [replace(z, log_sums=z.log_sums[at.to(z.log_sums.device)]) for at in picked]
        return [replace(self, normaliser=other) for other in others]

    def _log_ratio(self, log_weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """By how many nats r exceeds the base."""
        if self.method == "rejection":
            log_z = log_weight.new_tensor(self.normaliser.log_z)
            return _truncated(log_weight - log_z, log_z, self.proposals)
        # log w/(w + S) = -softplus(log S - log w)
        log_chance = -F.softplus(self.normaliser.log_sums.to(log_weight) - log_weight[:, None])
        return torch.logsumexp(log_chance, 1) + math.log(self.proposals / log_chance.shape[1])

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws by accept/reject, or by importance resampling."""
        u = self._rejection(n, rng) if self.method == "rejection" else self._energy(n, rng)
        return self.whitening.colour(u)

    def _rejection(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Every draw that is not accepted yet gets another proposal, T in all; the T-th is always taken."""
        u = self.whitening.noise(n, rng=rng)
        left = torch.arange(n, device=u.device)
        for _ in range(self.proposals - 1):
            accept = by_rows(lambda v: torch.sigmoid(self.net(v)[:, 0]), u[left])
            left = left[torch.rand(len(left), generator=rng, device=u.device) >= accept]
            if not len(left):
                break
            u[left] = self.whitening.noise(len(left), rng=rng)
        return u

    def _energy(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Each draw has its own T proposals, so draws are independent."""
        parts = [self.whitening.noise(0, rng=rng)]
        for part in blocks(n, max(1, AT_ONCE // self.proposals)):
            many = self.whitening.noise(part.stop - part.start, self.proposals, rng=rng)
            f = by_rows(lambda u: self.net(u)[:, 0], many.flatten(0, 1)).reshape(many.shape[:2])
            which = torch.multinomial(torch.softmax(f, 1), 1, generator=rng)[:, 0]
            parts.append(many[torch.arange(len(many), device=f.device), which])
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the network, mean and Cholesky factor of the base, sums over sets of proposals (energy only)."""
        tensors = super().tensors()
        return tensors if self.method == "rejection" else {**tensors, "log_sums": self.normaliser.log_sums}

    def config(self) -> dict[str, Any]:
        """Method, architecture, proposals, and the normaliser with its standard error."""
        z = self.normaliser
        return {
            "method": self.method,
            "hidden": list(self.hidden),
            "proposals": self.proposals,
            "log_normaliser": z.log_z,
            "log_normaliser_stderr": z.stderr,
            "effective_proposals": z.effective,
        }

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the configuration and the weights."""
        base, method = Whitening.stored(tensors), str(config["method"])
        hidden = tuple(config["hidden"])
        wanted = "stored sums of sets for energy, none for rejection"
        need("log_sums", (method == "energy") == ("log_sums" in tensors), wanted, sorted(tensors))
        net = skeleton(lambda: MLP(base.d, hidden, 1), tensors, base.d, *hidden, 1)
        log_sums = tensors["log_sums"] if method == "energy" else torch.empty(0, dtype=torch.float64)
        numbers = (config["log_normaliser"], config["log_normaliser_stderr"], config["effective_proposals"])
        log_z, stderr, effective = (float(v) for v in numbers)
        z = Normaliser(log_z, stderr, effective, log_sums)
        return cls(net, base, method, hidden, int(config["proposals"]), z)


def _log_weight(method: str, f: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The log of the acceptance probability, or the energy."""
    return F.logsigmoid(f) if method == "rejection" else f


def _truncated(log_ratio: Float[Tensor, " n"], log_z: Tensor, proposals: int) -> Float[Tensor, " n"]:
    """Give log[(1 - t) a/Z + t], `t = (1 - Z)^(T-1)`, from log a/Z and log Z."""
    # a float32 Z near 1 rounds to 1, whose log(1 - Z) is -inf and has no gradient
    log_t = (proposals - 1) * torch.log1p(-log_z.exp().clamp(max=1 - 1e-6))
    return torch.logaddexp(log_ratio + torch.log(-torch.expm1(log_t)), log_t.expand_as(log_ratio))


@final
@dataclass(frozen=True)
class ResampledSettings(Schedule):
    """Fit the network by maximum likelihood (rejection) or as a classifier of codes against base draws (energy).

    rejection: raise `E_qbar[log r]`, Z from fresh base draws at every step. energy: noise-contrastive estimation,
    `max E_qbar[log sigmoid(f)] + E_pi[log sigmoid(-f)]`, whose optimum is f = log qbar/pi.

    Attributes:
        method: `rejection` (learned accept/reject), which is fitted by log r itself, or `energy`.
        base: `gaussian`, the moment match, or `prior`, N(0, I).
        hidden: widths of the hidden layers.
        proposals: T, a draw: at most (rejection), or in all (energy). The gain over the base ends at log T.
        epochs, batch, lr, patience: see `Schedule`.
    """

    kind: ClassVar[str] = Resampled.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "a network", "a minute", "re-weights a Gaussian by what it lacks; density is an estimate"
    )
    method: str = "rejection"
    base: str = "gaussian"
    hidden: tuple[int, ...] = (128, 128)
    proposals: int = PROPOSALS
    _: KW_ONLY
    epochs: int = 40
    batch: int = 512
    lr: float = 2e-3
    patience: int = 8

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        super().check()
        if self.method not in METHODS:
            raise UsageError(f"method: expected {' or '.join(METHODS)}, got {self.method!r}")
        if self.base not in BASES:
            raise UsageError(f"base: expected {' or '.join(BASES)}, got {self.base!r}")
        at_least("proposals", self.proposals, 2)
        widths("hidden", self.hidden)

    def fit(self, task: Task) -> Fit[Resampled]:
        """Start at the base, fit by Adam, stop by the ELBO gain on the selection split, then estimate Z.

        Raises:
            UsageError: settings that cannot be used, or the base `prior` where that is not N(0, I).
        """
        self.check()
        if self.base == "prior":
            need_standard(task.prior, "resampled with base prior")
        hidden, train, rng = tuple(self.hidden), task.train, task.rng
        base = Whitening.of(train) if self.base == "gaussian" else Whitening.none(train)
        net = build(lambda: MLP(train.d, hidden, 1), rng=fork(rng, "weights"))
        codes = Codes.draw(task.selection, task.prior, rng=rng)
        looks = self._draws(NORMALISER, SETS), self._draws(SCORE_NORMALISER, SCORE_SETS)

        def normalised(f: MLP, draws: int, name: str) -> Resampled:
            stream = fork(rng, name)
            # blocks have streams of their own: memory is bounded, and the draws are the same at every look
            log_weight = [
                by_rows(lambda u: _log_weight(self.method, f(u)[:, 0]), base.noise(len(b), rng=fork(stream, b.start)))
                for b in (range(draws)[part] for part in blocks(draws, 16 * ROWS))
            ]
            z = Normaliser.estimate(self.method, torch.cat(log_weight), self.proposals)
            return Resampled(f, base, self.method, hidden, self.proposals, z)

        def objective(z: Tensor, stream: torch.Generator) -> Tensor:
            u = base.whiten(z).float()
            many = 2 * len(u) if self.method == "rejection" else len(u)
            f, g = net(torch.cat([u, base.noise(many, rng=stream)]))[:, 0].split([len(u), many])
            if self.method == "energy":
                return F.logsigmoid(f).mean() + F.logsigmoid(-g).mean()
            log_z = torch.logsumexp(F.logsigmoid(g), 0) - math.log(many)
            ratio = _truncated(F.logsigmoid(f) - log_z, log_z, self.proposals)
            return (ratio + standard_log_prob(u)).mean() - base.log_det

        def current() -> float:
            return score(codes, normalised(net, looks[1], "score"))

        label, start = f"resampled ({self.method})", "the base Gaussian"
        ascent = ascend(Problem(label, list(net.parameters()), objective, current, start), self, task)
        best = normalised(frozen(net), looks[0], "normaliser")
        z = best.normaliser
        decided: dict[str, Setting] = {
            "epoch": ascent.epoch,
            "log_normaliser": z.log_z,
            "log_normaliser_stderr": z.stderr,
            "effective_proposals": z.effective,
        }
        return Fit(best, _outcome(ascent.outcome, best), ascent.trace, Chosen(settings=decided))

    def _draws(self, normaliser: int, sets: int) -> int:
        """Base draws that a normaliser takes."""
        return max(2, sets * (self.proposals - 1)) if self.method == "energy" else normaliser


def _outcome(outcome: Outcome, r: Resampled) -> Outcome:
    """Warn where T proposals are too few for what the network asks."""
    if not outcome.ok:
        return outcome
    if r.method == "rejection" and r.left_over > LEFT_OVER:
        return Outcome(
            ok=False,
            message=f"{r.left_over:.0%} of the draws would be taken unaccepted, after {r.proposals} proposals: the "
            "codes are too far from the base Gaussian; raise proposals, or take kind mixture or flow",
        )
    if r.method == "energy" and r.normaliser.effective < EFFECTIVE:
        return Outcome(
            ok=False,
            message=f"the {r.proposals} proposals of a draw are worth {r.normaliser.effective:.2g} effective ones: the "
            "codes are too far from the base Gaussian; raise proposals, or take kind mixture or flow",
        )
    return outcome
