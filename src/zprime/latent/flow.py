"""flow: a normalising flow, neural spline or masked autoregressive, fitted to fresh posterior draws. Exact density."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zprime.arrays import LOG_2PI, standard_log_prob
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.gradient import Problem, Schedule, ascend, at_least, score, widths
from zprime.latent.kind import FORMS, About, Fit, Task
from zprime.latent.network import (
    HIDDEN,
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
from zprime.results.facts import Chosen
from zprime.rng import fork
from zprime.schema import Schema, Text, Whole

FLOWS = ("nsf", "maf")
BINS = 8
SLOPE = 0.02  # smallest of an affine step: with zuko's 1e-3 a fit gave -4e6 nats to a point just outside the codes


class Chain(nn.Module):
    """Autoregressive transforms in a row, from u to standard normal e, features in reverse order in every second one.

    nsf: `e_i = spline(u_i; theta(u_<i))`, rational-quadratic with 8 bins on [-5, 5] and the identity beyond it (Durkan
    et al. 2019). maf: `e_i = exp(a(u_<i)) u_i + b(u_<i)` (Papamakarios et al. 2017). The networks' last layers start at
    zero, so that the chain starts as the identity. |a| stays below 3.9 a transform.
    """

    def __init__(self, flow: str, d: int, transforms: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        order = torch.arange(d)
        self.parts = nn.ModuleList(
            _autoregressive(flow, d, order if i % 2 == 0 else order.flip(0), hidden) for i in range(transforms)
        )

    def forward(self, u: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """e, and log |det de/du| in nats."""
        log_det = u.new_zeros(len(u))
        for part in self.parts:
            u, step = part().call_and_ladj(u)
            log_det = log_det + step
        return u, log_det

    def inverse(self, e: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From e back to u: d passes through each transform."""
        for part in reversed(self.parts):
            e = part().inv(e)
        return e


def _autoregressive(flow: str, d: int, order: Tensor, hidden: tuple[int, ...]) -> nn.Module:
    """One transform of zuko's.

    Importing zuko switches off the validation of arguments in all of torch.distributions, for the whole process. So
    it is imported here and nowhere else, and what it changed is put back (but for a method that it adds to
    torch's Transform, which its transforms need).
    """
    from torch.distributions import Distribution, transforms

    switch, constraints = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
    name = transforms._InverseTransform.__name__
    try:
        from zuko.flows.autoregressive import MaskedAutoregressiveTransform
        from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform
    except ImportError as error:
        raise UsageError("kind flow: needs the package zuko, which is not installed; pip install zuko") from error
    finally:
        Distribution._validate_args = switch
        Distribution.arg_constraints = constraints  # type: ignore[method-assign]
        transforms._InverseTransform.__name__ = name
    options: dict[str, Any] = {"hidden_features": hidden}
    if flow == "nsf":
        options |= {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    else:
        options |= {"univariate": partial(MonotonicAffineTransform, slope=SLOPE), "shapes": [(), ()]}
    transform: Any = MaskedAutoregressiveTransform(d, order=order, **options) if d > 1 else _single(options)
    for p in (transform.hyper[-1] if d > 1 else transform).parameters():
        nn.init.zeros_(p)
    module: nn.Module = transform
    return module


def _single(options: Mapping[str, Any]) -> nn.Module:
    """For one dimension, where no feature comes before: the univariate transform with free parameters."""
    from zuko.flows.gaussianization import ElementWiseTransform

    transform: nn.Module = ElementWiseTransform(1, **{k: v for k, v in options.items() if k != "hidden_features"})
    return transform


@final
@dataclass(frozen=True, repr=False, eq=False)
class Flow(NetworkDistribution[Chain]):
    """`log r(z) = log N(e; 0, I) + log |det de/du| - log det L`, e = net(u), u = L^-1 (z - m) (see `Whitening`)."""

    kind: ClassVar[str] = "flow"
    schema: ClassVar[Schema] = Schema({"flow": Text(FLOWS), "transforms": Whole(1, 1 << 12), "hidden": HIDDEN}, TENSORS)
    flow: str
    hidden: tuple[int, ...]

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return "a network fitted to the posteriors"

    @property
    def label(self) -> str:
        """With the kind of flow."""
        return f"flow ({self.flow})"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64, computed in z's own precision."""
        net = precise(self.net, z.dtype)
        dtype = next(net.parameters()).dtype

        def density(u: Tensor) -> Tensor:
            e, log_det = net.forward(u.to(dtype))
            return standard_log_prob(e) + log_det.double()

        return by_rows(density, self.whitening.whiten(z)) - self.whitening.log_det

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Standard normal draws, brought back through the chain."""
        e = self.whitening.noise(n, rng=rng)
        return self.whitening.colour(by_rows(self.net.inverse, e))

    def config(self) -> dict[str, Any]:
        """The architecture."""
        return {"flow": self.flow, "transforms": len(self.net.parts), "hidden": list(self.hidden)}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the architecture and the weights."""
        whitening = Whitening.stored(tensors)
        flow, transforms, hidden = str(config["flow"]), int(config["transforms"]), tuple(config["hidden"])
        d = whitening.d
        layers = (d, *hidden, d) if d > 1 else ()  # one dimension takes no network
        net = skeleton(lambda: Chain(flow, d, transforms, hidden), tensors, *layers, times=transforms)
        return cls(net, whitening, flow, hidden)


@final
@dataclass(frozen=True)
class FlowSettings(Schedule):
    """Maximum likelihood on fresh posterior draws: the flow with the least KL(qbar || r) that early stopping allows.

    Attributes:
        flow: `nsf` (neural spline) or `maf` (masked autoregressive, affine: faster, and weaker on separate clusters).
        transforms: how many autoregressive transforms in a row.
        hidden: widths of the hidden layers of each transform's network.
        epochs, batch, lr, patience: see `Schedule`.
    """

    kind: ClassVar[str] = Flow.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "a network", "minutes: likelihood by gradient", "a shape that few Gaussians cannot follow"
    )
    flow: str = "nsf"
    transforms: int = 3
    hidden: tuple[int, ...] = (64, 64)
    _: KW_ONLY
    epochs: int = 25
    batch: int = 512
    lr: float = 2e-3
    patience: int = 5

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        super().check()
        if self.flow not in FLOWS:
            raise UsageError(f"flow: expected {' or '.join(FLOWS)}, got {self.flow!r}")
        at_least("transforms", self.transforms, 1)
        widths("hidden", self.hidden)

    def fit(self, task: Task) -> Fit[Flow]:
        """Start at the moment match, raise E_qbar[log r] by Adam, stop by the ELBO gain on the selection split.

        Raises:
            UsageError: settings that cannot be used.
        """
        self.check()
        hidden, train = tuple(self.hidden), task.train
        whitening = Whitening.of(train)
        net = build(lambda: Chain(self.flow, train.d, self.transforms, hidden), rng=fork(task.rng, "weights"))
        codes = Codes.draw(task.selection, task.prior, rng=task.rng)
        constant = -0.5 * train.d * LOG_2PI - whitening.log_det

        def objective(z: Tensor, stream: torch.Generator) -> Tensor:
            e, log_det = net.forward(whitening.whiten(z).float())
            return (log_det - 0.5 * e.square().sum(1)).mean() + constant

        def current() -> float:
            return score(codes, Flow(net, whitening, self.flow, hidden))

        ascent = ascend(Problem(f"flow ({self.flow})", list(net.parameters()), objective, current), self, task)
        flow = Flow(frozen(net), whitening, self.flow, hidden)
        return Fit(flow, ascent.outcome, ascent.trace, Chosen(settings={"epoch": ascent.epoch}))
