"""mixture: K Gaussians whose weights, means and covariances are trained with encoder and decoder."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zprime.components import choose
from zprime.distribution import LatentDistribution
from zprime.encoding import encoded
from zprime.errors import UsageError
from zprime.kernels import trainable_full_mixture_log_prob, trainable_mixture_log_prob
from zprime.latent.gaussians import Mixture
from zprime.latent.reduction import least_rows
from zprime.learned.settings import LearnedPrior, at_least, check_kind
from zprime.posteriors import MemoryPosteriors
from zprime.rng import fork
from zprime.trainable_prior import Encode, TrainablePrior

COVARIANCES = ("diagonal", "full")


@final
@dataclass(frozen=True)
class MixturePrior(LearnedPrior):
    """`p(z) = sum_k w_k N(z; m_k, S_k)` (as in Dilokthanakul et al. 2016, with everything trained by gradients).

    Attributes:
        components: K.
        covariance: `diagonal` or `full`.
    """

    kind: ClassVar[str] = Mixture.kind
    components: int = 20
    covariance: str = "diagonal"

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        at_least("components", self.components, 1)
        if self.covariance not in COVARIANCES:
            raise UsageError(f"prior: covariance: expected {' or '.join(COVARIANCES)}, got {self.covariance!r}")

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return TrainableMixture(self.components, self.covariance)

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """From the components of `r`, with their form of covariance.

        Raises:
            UsageError: it is no mixture, or its covariances are of low rank.
        """
        check_kind(self, r)
        assert isinstance(r, Mixture)
        if r.factor is not None:
            raise UsageError(
                "prior: a mixture with covariances of low rank is not learned on yet; leave --learn-prior out, or fit "
                "one with mixture.covariance=full or diagonal"
            )
        full = r.scale_tril.ndim == 3
        return TrainableMixture(len(r.mean), "full" if full else "diagonal", r)


@final
class TrainableMixture(TrainablePrior):
    """Weights, means and scales.

    Attributes:
        logits: shape [k], of the weights.
        mean: shape [k, d].
        log_scale: shape [k, d], logarithms of the standard deviations, or of the diagonals of Cholesky factors.
        below: shape [k, d, d], what is below these diagonals, for full covariances only.
    """

    def __init__(self, components: int, covariance: str, start: Mixture | None = None) -> None:
        super().__init__()
        self.components, self.covariance, self.first = components, covariance, start

    def extra_repr(self) -> str:
        """What is not among its modules."""
        return f"components={self.components}, covariance={self.covariance}"

    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """Means are draws from the aggregated posterior, with its standard deviations; or where the start has them.

        The standard deviations are multiplied by K^(-1/d): all K components together then have the volume of one
        Gaussian with the standard deviations of the aggregated posterior.
        """
        self.codes = partial(encoded, encode, x)
        r = self.first or self._spread(self.codes(), rng)
        full = self.covariance == "full"
        diagonal = r.scale_tril.diagonal(dim1=1, dim2=2) if full else r.scale_tril
        like = encode(x[:1])[0]
        self.logits = nn.Parameter(r.log_weight.detach().clamp(min=-50).to(like))
        self.mean = nn.Parameter(r.mean.detach().to(like, copy=True))
        self.log_scale = nn.Parameter(diagonal.detach().log().to(like))
        if full:
            self.below = nn.Parameter(r.scale_tril.detach().tril(-1).to(like))

    def _spread(self, data: MemoryPosteriors, rng: torch.Generator) -> Mixture:
        k, device = self.components, data.mean.device
        uniform = torch.full((data.n,), -math.log(data.n), device=device)
        which = choose(uniform, k, fork(rng, "rows"))
        mean = data.take(which).draw(rng=fork(rng, "draws"))
        scale = (data.mean.var(0, correction=0) + data.scale.square().mean(0)).sqrt() * k ** (-1 / data.d)
        scale = scale.expand(k, -1)
        weight = torch.full((k,), -math.log(k), device=device)
        return Mixture(weight, mean, torch.diag_embed(scale) if self.covariance == "full" else scale.contiguous())

    @property
    def scale(self) -> Tensor:
        """Standard deviations [k, d], or Cholesky factors [k, d, d]."""
        own = self.log_scale.exp()
        return own if self.covariance == "diagonal" else self.below.tril(-1) + torch.diag_embed(own)

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Of a code; components belong to no row."""
        density = trainable_mixture_log_prob if self.covariance == "diagonal" else trainable_full_mixture_log_prob
        return density(z, self.mean, self.scale, self.logits.log_softmax(0))

    def frozen(self) -> Mixture:
        """The K Gaussians, and the effective training rows behind the one that has fewest."""
        with torch.no_grad():
            weight = self.logits.double().log_softmax(0).to(self.mean)
            r = Mixture(weight, self.mean.detach().clone(), self.scale.detach().clone())
            return replace(r, least_rows=least_rows(self.codes(), r))
