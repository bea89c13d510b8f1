"""vamp: the frozen encoder's posteriors at K pseudo-inputs, learned after training, and mixed."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import is_full
from zprime.components import Diagonal, Full
from zprime.distribution import GaussianDistribution, LatentDistribution
from zprime.encoding import encoded
from zprime.errors import ArrayError, UsageError
from zprime.kernels import trainable_full_mixture_log_prob, trainable_mixture_log_prob
from zprime.latent.centre import GAUSSIANS
from zprime.latent.gradient import Problem, Schedule, ascend, at_least, score
from zprime.latent.kind import About, Fit, Need, Task
from zprime.latent.selection import Codes
from zprime.posteriors import Form, MemoryPosteriors
from zprime.results.facts import Chosen
from zprime.rng import fork
from zprime.schema import FACTOR, FINITE, LOG_WEIGHTS, POSITIVE, Array, Flag, Schema
from zprime.statistics.kmeans import lloyd

LLOYD = 10  # rounds of k-means for the starting rows
SUBSET = 20_000  # rows that are looked at for them
LEFT = 0.5  # of the distance to the nearest other code: so far out a pseudo-input has left its row
SAME = 1e-4  # of the codes' spread: what is as near as this has the same code, but for rounding


@final
@dataclass(frozen=True, repr=False, eq=False)
class Vamp(GaussianDistribution):
    """`r(z) = sum_k w_k q(z|u_k)` (Tomczak & Welling 2018, eq. 10), kept as K Gaussians and their weights.

    They have standard deviations, or in `scale` Cholesky factors where the encoder gives full covariances.
    The pseudo-inputs u_k stay behind. They start at training rows. Where all of them have left these (`learned`, by
    `all_left`), each depends on many rows and no rows are counted; else rows are stored.
    """

    kind: ClassVar[str] = "vamp"
    schema: ClassVar[Schema] = Schema(
        {"learned": Flag()},
        {
            "log_weight": Array({"k": LOG_WEIGHTS}),
            "mean": Array({"k d": FINITE}),
            "scale": Array({"k d": POSITIVE, "k d d": FACTOR}),
        },
    )
    log_weight: Float[Tensor, " k"]
    mean: Float[Tensor, "k d"]
    scale: Float[Tensor, "k d"] | Float[Tensor, "k d d"]
    learned: bool = True

    @cached_property
    def components(self) -> Diagonal | Full:
        """The K Gaussians."""
        form: type[Diagonal] | type[Full] = Full if is_full(self.mean, self.scale) else Diagonal
        return form(self.log_weight, self.mean, self.scale)

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return f"{len(self.mean)} posteriors of learned pseudo-inputs"

    @property
    def least_rows(self) -> float | None:
        """1 while a pseudo-input counts as a training row; learned ones have no rows to count behind them."""
        return None if self.learned else 1.0

    @property
    def label(self) -> str:
        """With the number of components."""
        return f"vamp({len(self.mean)})"

    def tensors(self) -> dict[str, Tensor]:
        """Log-weights, means, standard deviations or Cholesky factors."""
        return {"log_weight": self.log_weight, "mean": self.mean, "scale": self.scale}

    def config(self) -> dict[str, Any]:
        """Whether all pseudo-inputs have left the rows that they started at."""
        return {"learned": self.learned}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its tensors."""
        return cls(tensors["log_weight"], tensors["mean"], tensors["scale"], bool(config["learned"]))


@final
@dataclass(frozen=True)
class VampSettings(Schedule):
    """Raise `E_qbar[log r]` over pseudo-inputs and weights by Adam, with fresh posterior draws and a frozen encoder.

    Attributes:
        components: K; at most as many as there are rows.
        epochs, batch, lr, patience: see `Schedule`; lr is in units of each entry's range over the training rows.
    """

    kind: ClassVar[str] = Vamp.kind
    about: ClassVar[About] = About(
        "2 K d numbers",
        "a minute: gradients through the encoder",
        "components that the encoder itself could give",
    )
    takes: ClassVar[frozenset[Form]] = GAUSSIANS
    instead_of_parts: ClassVar[str] = "an encoder gives one Gaussian a datum; fit mixture or flow"
    needs: ClassVar[frozenset[Need]] = frozenset({"encoder", "rows"})
    components: int = 50
    _: KW_ONLY
    epochs: int = 20
    batch: int = 512
    lr: float = 1e-2
    patience: int = 5

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        super().check()
        at_least("components", self.components, 1)

    def fit(self, task: Task) -> Fit[Vamp]:
        """Start at the training rows nearest to k-means centres, keep each entry inside the range of the training rows.

        Raises:
            UsageError: no context, settings that cannot be used, or an encoder that gives no gradients.
            ArrayError: the rows are not the ones that the posteriors belong to.
        """
        context = task.need_context(self.kind)
        self.check()
        data, rows = task.train.gather(), context.train.x
        if len(rows) != data.n:
            raise ArrayError(f"context: expected the {data.n} rows that the posteriors belong to, got {len(rows)}")
        began = medoids(data, min(self.components, data.n), rng=fork(task.rng, "start"))
        inputs = PseudoInputs(rows, began)
        log_weight = torch.zeros(len(inputs.free), device=rows.device, requires_grad=True)
        codes = Codes.draw(task.selection, task.prior, rng=task.rng)

        def posteriors() -> tuple[Tensor, Tensor]:
            mean, scale = context.model.encode(inputs.rows())
            return mean, scale

        def now() -> Vamp:
            with torch.no_grad():
                mean, scale = posteriors()
                weight = log_weight.log_softmax(0)
            dtype = data.mean.dtype
            return Vamp(weight.to(dtype).detach(), mean.to(dtype).detach(), scale.to(dtype).detach())

        def objective(z: Tensor, stream: torch.Generator) -> Tensor:
            mean, scale = posteriors()
            if not mean.requires_grad:
                raise UsageError(
                    "kind vamp: the encoder's answer carries no gradient with respect to its input; "
                    "give a model whose encode() does not run under torch.no_grad()"
                )
            density = trainable_full_mixture_log_prob if is_full(mean, scale) else trainable_mixture_log_prob
            return density(z.to(mean.dtype), mean, scale, log_weight.log_softmax(0)).mean()

        problem = Problem(
            f"vamp({len(inputs.free)})",
            [inputs.free, log_weight],
            objective,
            lambda: score(codes, now()),
            start="the encoder's posteriors at chosen training rows",
            after_step=inputs.clamp,
        )
        ascent = ascend(problem, self, task)
        chosen = Chosen(settings={"epoch": ascent.epoch, "components": len(inputs.free)})
        found = now()
        own = encoded(context.model.encode, rows)  # the posteriors' means may be nearer to the exact ones than these
        left = ascent.epoch > 0 and all_left(own.mean, began, found.mean)
        return Fit(replace(found, learned=left), ascent.outcome, ascent.trace, chosen)


def all_left(codes: Float[Tensor, "n d"], began: Int[Tensor, " k"], mean: Float[Tensor, "k d"]) -> bool:
    """Whether every pseudo-input has left the training row that it began at.

    It is that row while its mean is less than half as far from the row's code as the nearest other code is. No other
    row's code can be as near to such a mean (triangle inequality): whoever has it knows about where the row is. Rows of
    one code count as one, so beside duplicates it has to leave them all, and where all rows have one code, none has
    left. Other rows than its own are not looked at: in few dimensions any point has one as near by chance (a share of
    about 1 / (1 + 2^d) of points).

    Args:
        codes: means of all training rows, by the encoder as it is now.
        began: the rows that pseudo-inputs began at.
        mean: of the posteriors at the pseudo-inputs.
    """
    codes, mean = codes.double(), mean.double()
    spread = (codes - codes.mean(0)).square().sum(1).mean().sqrt()
    for start, now in zip(codes[began], mean, strict=True):
        gap = (codes - start).norm(dim=1)
        nearest = gap.masked_fill(gap <= SAME * spread, torch.inf).amin()
        if not bool((now - start).norm() >= LEFT * nearest):
            return False
    return True


class PseudoInputs:
    """K inputs in the box that the training rows span, entry by entry.

    Attributes:
        free: shape [k, *datum], what is fitted: 0 is an entry's smallest value over the rows, 1 its largest. So one
            learning rate suits data of any scale, and entries that never vary stay as they are.
    """

    def __init__(self, rows: Float[Tensor, "n *datum"], chosen: Tensor) -> None:
        self.low, high = rows.amin(0), rows.amax(0)
        self.range = high - self.low
        unit = (rows[chosen] - self.low) / torch.where(self.range > 0, self.range, 1)
        self.free = unit.clone().requires_grad_()

    def rows(self) -> Float[Tensor, "k *datum"]:
        """In the units of the data."""
        return self.low + self.free * self.range

    def clamp(self) -> None:
        """Back into the box."""
        with torch.no_grad():
            self.free.clamp_(0, 1)


def medoids(data: MemoryPosteriors, k: int, *, rng: torch.Generator) -> Tensor:
    """Positions of k rows: the nearest to the k-means centres of the posterior means, whitened per dimension."""
    order = torch.randperm(data.n, generator=rng)[:SUBSET]
    points = data.mean[order].double()
    spread = points.std(0) if len(points) > 1 else torch.ones(data.d, dtype=torch.float64)
    points = points / torch.where(spread > 0, spread, 1)
    centres, _ = lloyd(points, points[:k].clone(), rounds=LLOYD)
    distance = torch.cdist(centres, points)
    taken: list[int] = []
    for row in distance:
        row[taken] = math.inf  # two centres may share their nearest row
        taken.append(int(row.argmin()))
    return order[taken]
