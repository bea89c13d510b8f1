"""two-stage: a second variational autoencoder, on the codes of the first. Its density is a lower bound."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import LOG_2PI
from zprime.distribution import Density, LatentDistribution
from zprime.latent.gradient import Problem, Schedule, ascend, at_least, score, some_codes, widths
from zprime.latent.kind import FORMS, About, Fit, Task
from zprime.latent.network import (
    HIDDEN,
    MLP,
    TENSORS,
    NetworkDistribution,
    Whitening,
    build,
    by_rows,
    frozen,
    precise,
    skeleton,
)
from zprime.posteriors import Form
from zprime.results.facts import Chosen
from zprime.rng import fork, stream
from zprime.schema import LOG_SCALES, Array, Schema, Whole

START = 0.5  # decoder scale at the start, in whitened units
BOUND = 6.0  # of the log-scale of q(w|u), about its start
SEED = 0  # of the fixed draws behind the bound
REPLICATES = 8  # other seeds, by which an audit measures the error of the bound
PAIRS = 1 << 13  # pairs of point and draw handled at once: their numbers stay in cache
SCORE_ROWS, SCORE_POINTS, SCORE_DRAWS = 2000, 4000, 16


class Second(nn.Module):
    """q(w|u) = N(A u + enc(u), diag(s(u)^2)) and p(u|w) = N(B w + dec(w), diag(gamma^2)), w as long as u.

    The networks' last layers start at zero, and A, B, s at the posterior of `u = sqrt(1 - gamma^2) w + gamma e`: so a
    fit starts at N(0, I) for u, the moment match of z, with w in use. (If all started at zero, w would stay unused.)
    """

    def __init__(self, d: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        gain = math.sqrt(1 - START**2)
        self.encoder, self.decoder = MLP(d, hidden, 2 * d), MLP(d, hidden, d)
        self.into, self.out = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        with torch.no_grad():
            self.into.weight.copy_(gain * torch.eye(d))
            self.out.weight.copy_(gain * torch.eye(d))
        self.log_scale = nn.Parameter(torch.full((d,), math.log(START)))

    def encode(self, u: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n d"], Float[Tensor, "*n d"]]:
        """Mean and log-scale of q(w|u)."""
        shift, log_scale = self.encoder(u).chunk(2, -1)
        # bounded, so that far from all codes nothing overflows
        return self.into(u) + shift, math.log(START) + BOUND * torch.tanh(log_scale / BOUND)

    def decode(self, w: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Mean of p(u|w); its scale is exp(log_scale)."""
        mean: Tensor = self.out(w) + self.decoder(w)
        return mean

    def log_ratio(self, u: Float[Tensor, "n d"], noise: Float[Tensor, "k #n d"]) -> Float[Tensor, "k n"]:
        """Give log p(u|w) p(w) / q(w|u) at w = mean + scale * noise: its mean over noise is the ELBO of u (nats)."""
        mean, log_scale = self.encode(u)
        w = mean + log_scale.exp() * noise
        gap = (u - self.decode(w)) * torch.exp(-self.log_scale)
        terms = noise.square() - w.square() - gap.square()
        return 0.5 * terms.sum(-1) + log_scale.sum(-1) - self.log_scale.sum() - 0.5 * u.shape[-1] * LOG_2PI


@final
@dataclass(frozen=True, repr=False, eq=False)
class TwoStage(NetworkDistribution[Second]):
    """`E[log 1/K sum_k p(u|w_k) p(w_k) / q(w_k|u)] - log det L <= log r(z)` over K draws w_k ~ q(w|u); u is z whitened.

    The importance-weighted bound (Burda et al. 2016), made with K standard normal draws from a fixed seed, the same for
    every point: so it is a function of z alone, whatever else is in the batch. Its expectation over seeds is a lower
    bound at every z. With one seed it may lie above, and as all points share the draws the mean over many points does
    not average that away: `fit` reports by how much the mean moves with the seed. Draws are exact: w ~ N(0, I), then
    u ~ p(u|w), noise included.

    Attributes:
        net: the second VAE.
        whitening: between z and u.
        hidden: widths of its hidden layers.
        draws: K.
        seed: of the K normal draws.
    """

    kind: ClassVar[str] = "two-stage"
    schema: ClassVar[Schema] = Schema(
        {"hidden": HIDDEN, "draws": Whole(1, 1 << 16), "seed": Whole()},
        {**TENSORS, "net.log_scale": Array({"d": LOG_SCALES}, "real")},
    )
    density_of_kind: ClassVar[Density] = "bound"
    hidden: tuple[int, ...]
    draws: int
    seed: int = SEED

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """A lower bound of log r(z), in expectation over seeds, in nats; float64, computed in z's own precision."""
        net = precise(self.net, z.dtype)
        noise = torch.randn(self.draws, 1, self.d, generator=stream(self.seed, "two-stage"), dtype=torch.float64)
        noise = noise.to(device=z.device, dtype=net.log_scale.dtype)

        def bound(u: Tensor) -> Tensor:
            return torch.logsumexp(net.log_ratio(u.to(noise.dtype), noise).double(), 0) - math.log(self.draws)

        rows = max(1, PAIRS // self.draws)
        return by_rows(bound, self.whitening.whiten(z), rows) - self.whitening.log_det

    def replicates(self) -> Sequence[LatentDistribution]:
        """The bound by 8 other seeds."""
        return [replace(self, seed=self.seed + i) for i in range(1, REPLICATES + 1)]

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws: w from N(0, I), u from p(u|w)."""
        u = by_rows(self.net.decode, self.whitening.noise(n, rng=rng))
        return self.whitening.colour(u + self.net.log_scale.exp() * self.whitening.noise(n, rng=rng))

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "a second VAE fitted to the posteriors"

    def config(self) -> dict[str, Any]:
        """The architecture, and the draws behind the bound."""
        return {"hidden": list(self.hidden), "draws": self.draws, "seed": self.seed}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the architecture and the weights."""
        whitening, hidden = Whitening.stored(tensors), tuple(config["hidden"])
        d = whitening.d
        net = skeleton(lambda: Second(d, hidden), tensors, d, *hidden, 2 * d)
        return cls(net, whitening, hidden, int(config["draws"]), int(config["seed"]))


@final
@dataclass(frozen=True)
class TwoStageSettings(Schedule):
    """A second VAE on fresh, whitened posterior draws (Dai & Wipf 2019), with learned decoder scales.

    Fitted by the importance-weighted bound of `importance` draws, as it is scored by that of `draws`: on a ring of
    codes the ELBO (1 draw) left a KL of 0.33 nats, 4 draws 0.08, 16 draws 0.02 (one Gaussian: 1.02).

    Attributes:
        hidden: widths of the hidden layers of encoder and decoder.
        draws: of w behind the density of one z: more make the bound tighter and cost in proportion.
        importance: draws of w for one code in a step; 1 is the paper's ELBO.
        epochs, batch, lr, patience: see `Schedule`.
    """

    kind: ClassVar[str] = TwoStage.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "a network", "minutes: a second VAE", "comparison with Dai & Wipf 2019; density is a bound"
    )
    hidden: tuple[int, ...] = (128, 128)
    draws: int = 64
    importance: int = 8
    _: KW_ONLY
    epochs: int = 50
    batch: int = 128
    lr: float = 2e-3
    patience: int = 10

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        super().check()
        widths("hidden", self.hidden)
        at_least("draws", self.draws, 1)
        at_least("importance", self.importance, 1)

    def fit(self, task: Task) -> Fit[TwoStage]:
        """Start at the moment match, raise the bound by Adam, stop by the ELBO gain of the bound on selection codes.

        Raises:
            UsageError: settings that cannot be used.
        """
        self.check()
        hidden, whitening = tuple(self.hidden), Whitening.of(task.train)
        net = build(lambda: Second(task.train.d, hidden), rng=fork(task.rng, "weights"))
        codes = some_codes(task, rows=SCORE_ROWS, points=SCORE_POINTS)
        few = min(self.draws, SCORE_DRAWS)

        def objective(z: Tensor, stream: torch.Generator) -> Tensor:
            u = whitening.whiten(z).float()
            log_ratio = net.log_ratio(u, whitening.noise(self.importance, len(u), rng=stream))
            return (torch.logsumexp(log_ratio, 0) - math.log(self.importance)).mean() - whitening.log_det

        def current() -> float:
            return score(codes, TwoStage(net, whitening, hidden, few))

        ascent = ascend(Problem(self.kind, list(net.parameters()), objective, current), self, task)
        r = TwoStage(frozen(net), whitening, hidden, self.draws)
        chosen = Chosen(settings={"epoch": ascent.epoch, "bound_stderr": spread(r, codes.z)})
        return Fit(r, ascent.outcome, ascent.trace, chosen)


def spread(r: TwoStage, z: Float[Tensor, "n d"], seeds: int = 8) -> float:
    """Standard deviation, over seeds of the draws behind it, of the mean bound at `z`, in nats."""
    means = [float(replace(r, seed=s).log_prob(z).mean()) for s in range(SEED, SEED + seeds)]
    return float(torch.tensor(means, dtype=torch.float64).std())
