"""flow: a normalising flow as prior, trained with encoder and decoder. It begins as N(0, I)."""

import copy
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.flow import FLOWS, Chain, Flow
from zprime.latent.network import Whitening, build, frozen
from zprime.learned.settings import LearnedPrior, at_least, check_kind
from zprime.rng import fork
from zprime.trainable_prior import Encode, TrainablePrior


@final
@dataclass(frozen=True)
class FlowPrior(LearnedPrior):
    """`log p(z) = log N(e; 0, I) + log |det de/dz|`, e = net(z) (as a prior: Huang et al. 2017, Chen et al. 2017).

    Attributes:
        flow: `maf` (masked autoregressive, affine) or `nsf` (neural spline: more flexible, and slower).
        transforms: how many autoregressive transforms in a row.
        hidden: widths of the hidden layers of each transform's network.
    """

    kind: ClassVar[str] = Flow.kind
    flow: str = "maf"
    transforms: int = 3
    hidden: tuple[int, ...] = (64, 64)

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.flow not in FLOWS:
            raise UsageError(f"prior: flow: expected {' or '.join(FLOWS)}, got {self.flow!r}")
        at_least("transforms", self.transforms, 1)
        if not self.hidden:
            raise UsageError("prior: hidden: expected the width of one hidden layer or more, got none")
        for width in self.hidden:
            at_least("hidden", width, 1)

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        hidden = tuple(self.hidden)
        none = Whitening(torch.zeros(d), torch.eye(d))
        # the weights are those of `begin`, whose stream is known then
        return TrainableFlow(self.flow, self.transforms, hidden, none)

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """From the network of `r`, on the codes as it has whitened them."""
        check_kind(self, r)
        assert isinstance(r, Flow)
        return TrainableFlow(r.flow, len(r.net.parts), r.hidden, r.whitening, r)


@final
class TrainableFlow(TrainablePrior):
    """The network; the whitening in front of it stays as it is.

    Attributes:
        net: from whitened z to standard normal e.
    """

    def __init__(
        self, flow: str, transforms: int, hidden: tuple[int, ...], whitening: Whitening, start: Flow | None = None
    ) -> None:
        super().__init__()
        self.flow, self.transforms, self.hidden = flow, transforms, hidden
        self.whitening, self.first = whitening, start

    def extra_repr(self) -> str:
        """What is not among its modules."""
        return f"flow={self.flow}, transforms={self.transforms}, hidden={self.hidden}"

    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """As the identity, which makes p(z) N(0, I); or as the start is."""
        if self.first is not None:
            self.net = copy.deepcopy(self.first.net).requires_grad_(requires_grad=True).to(x.device)
            return
        d = self.whitening.d
        made = build(lambda: Chain(self.flow, d, self.transforms, self.hidden), rng=fork(rng, "weights"))
        self.net = made.to(x.device)

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Of a code; the flow belongs to no row."""
        w, dtype = self.whitening, next(self.net.parameters()).dtype
        gap = (z - w.mean.to(z)).T.to(dtype)
        u: Tensor = torch.linalg.solve_triangular(w.scale_tril.to(gap), gap, upper=False)
        e, log_det = self.net.forward(u.T)
        log_prob = log_det - 0.5 * e.square().sum(1) - 0.5 * w.d * LOG_2PI - w.log_det
        return log_prob.to(z)

    def frozen(self) -> Flow:
        """The flow as it is."""
        return Flow(frozen(self.net), self.whitening, self.flow, self.hidden)
