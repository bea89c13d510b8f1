"""Likelihoods of independent entries, some with several outputs of the decoder for each: pixels, codes, counts.

A module is called with the decoder's output, shape [n, *datum], or [n, outputs, *datum] where there are several, and
answers p(x|z) of the batch, with a datum as its event.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.nn.functional import logsigmoid, softplus

from zprime.errors import UsageError

LEVELS = 256
NARROWEST = -7.0  # log-scale of a logistic: a quarter of the distance of two levels
LEAST = math.log(1e-3)  # log-scale of an entry with a scale of its own: a constant pixel would have none
START = 0.3  # scale that is learned from there
RARE = 1e-2  # mean of a count that a decoder begins at, at least
TOTAL = 10.0  # the log of t of a negative binomial, at most, and least: beyond, it is a Poisson, or a point at 0


class PerEntry(nn.Module):
    """A likelihood of independent entries; what it takes, and what its decoder begins at."""

    outputs: int = 1
    """Numbers of the decoder for each entry."""
    name: ClassVar[str]
    expected: str = ""
    """The values that an entry may have, in words; empty for any."""
    way: ClassVar[str] = ""
    """What to do about other values."""

    def odd(self, x: Float[Tensor, "n *datum"]) -> Bool[Tensor, "n *datum"]:
        """Which entries it cannot take."""
        return torch.zeros_like(x, dtype=torch.bool)

    def start(self, mean: Float[Tensor, "*datum"]) -> Tensor:
        """The output that a decoder begins at, from the mean of the training rows."""
        return mean


def _independent(p: Distribution, entries: Tensor) -> Distribution:
    return Independent(p, entries.ndim - 1, validate_args=False)


@final
class ScaledLaplace(PerEntry):
    """Laplace errors of one scale b for all entries, learned with the decoder or fixed."""

    name = "laplace"

    def __init__(self, *, scale: float | None = None) -> None:
        """Fix b at `scale`, or learn it."""
        super().__init__()
        start = torch.tensor(math.log(START if scale is None else scale))
        if scale is None:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        return _independent(TorchLaplace(output, self.log_scale.exp(), validate_args=False), output)


@final
class ScaledGaussian(PerEntry):
    """A Gaussian with a standard deviation of each entry that the decoder answers: outputs are mean and log-scale.

    No scale is below 0.001, which a constant pixel would otherwise have.
    """

    name = "gaussian-per-entry"
    outputs = 2

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        mean, log_scale = output.unbind(1)
        return _independent(Normal(mean, log_scale.clamp(min=LEAST).exp(), validate_args=False), mean)

    def start(self, mean: Tensor) -> Tensor:
        """Mean, and a scale that is learned from there."""
        return torch.stack([mean, torch.full_like(mean, math.log(START))])


class _Levels(constraints.Constraint):
    """The 256 levels k / 255."""

    is_discrete = True

    def __init__(self, event_dim: int) -> None:
        self.event_dim = event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        fits = ~off_level(value)
        return fits.flatten(fits.ndim - self.event_dim).all(-1) if self.event_dim else fits


def off_level(x: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Which entries are none of the 256 levels from 0 to 1."""
    level = x * (LEVELS - 1)
    return ~((x >= 0) & (x <= 1) & ((level - level.round()).abs() < 1e-3))


@final
class Logistics(Distribution):
    """Mixtures of logistics, cut into the 256 levels k / 255 (Salimans et al. 2017): the ends take the tails."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, log_weight: Tensor, mean: Tensor, log_scale: Tensor) -> None:
        """Take mixtures of K: weights, means and log-scales of shape [n, K, *datum]."""
        self.log_weight, self.centre, self.log_scale = log_weight, mean, log_scale
        super().__init__(mean.shape[:1], mean.shape[2:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The levels."""
        return _Levels(len(self.event_shape))

    def log_prob(self, value: Float[Tensor, "n *datum"]) -> Float[Tensor, " n"]:
        """Log of the probability of the levels of a datum, nats."""
        x, half = value[:, None], 0.5 / (LEVELS - 1)
        inverse = (-self.log_scale).exp()
        above, below = (x - self.centre + half) * inverse, (x - self.centre - half) * inverse
        lowest, highest = x < half, x > 1 - half
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)); at an end one of the two sigmoids is 1
        inner = torch.log(-torch.expm1(-2 * half * inverse)).expand_as(above)
        log_p = torch.where(highest, 0.0, logsigmoid(above)) + torch.where(lowest, 0.0, logsigmoid(-below))
        log_p = log_p + torch.where(lowest | highest, 0.0, inner)
        return (log_p + self.log_weight).logsumexp(1).flatten(1).sum(1)

    @property
    def mean(self) -> Float[Tensor, "n *datum"]:
        """Of the logistics with tails at the ends, before they are cut into levels: within half a level."""
        scale = self.log_scale.exp()
        inside = scale * (softplus(self.centre / scale) - softplus((self.centre - 1) / scale))
        return (self.log_weight.exp() * inside).sum(1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """One datum of each."""
        weight = self.log_weight.exp().movedim(1, -1)
        pick = torch.multinomial(weight.reshape(-1, weight.shape[-1]), 1).reshape(weight.shape[:-1])
        mean, log_scale = (t.gather(1, pick[:, None])[:, 0] for t in (self.centre, self.log_scale))
        u = torch.rand_like(mean).clamp(1e-7, 1 - 1e-7)
        x = mean + log_scale.exp() * (u.log() - (-u).log1p())
        return (x.clamp(0, 1) * (LEVELS - 1)).round() / (LEVELS - 1)


@final
class DiscretisedLogistic(PerEntry):
    """Pixels of 256 levels from 0 to 1: a mixture of K logistics for each (Salimans et al. 2017).

    Outputs are K logits of the weights (none for K = 1), K means and K log-scales. Colours of a pixel are independent
    given z, other than there.
    """

    name = "logistic"
    expected = "pixels of 256 levels from 0 to 1"
    way = "this is the likelihood of 8-bit images; for other data use the gaussian or the laplace likelihood"

    def __init__(self, *, components: int = 1) -> None:
        """Take K."""
        super().__init__()
        self.components = components
        self.outputs = 2 if components == 1 else 3 * components

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        k = self.components
        mean, log_scale = output[:, -2 * k : -k], output[:, -k:].clamp(min=NARROWEST)
        log_weight = torch.zeros_like(mean) if k == 1 else output[:, :k].log_softmax(1)
        return Logistics(log_weight, mean, log_scale)

    def odd(self, x: Tensor) -> Tensor:
        """Which entries are no levels."""
        return off_level(x)

    def start(self, mean: Tensor) -> Tensor:
        """Equal weights, means spread about that of the rows, and scales that are learned from there."""
        k = self.components
        spread = torch.linspace(-START, START, k) if k > 1 else torch.zeros(1)
        centre = mean + spread.to(mean).reshape(k, *(1,) * mean.ndim)
        parts = [centre, torch.full_like(centre, math.log(0.1))]
        return torch.cat(parts if k == 1 else [torch.zeros_like(centre), *parts])


@final
class _Codes(Independent):  # type: ignore[type-arg]
    """Independent categories as numbers; their mean is the most likely code, since codes are names."""

    @property
    def mean(self) -> Tensor:
        logits: Tensor = self.base_dist.logits
        return logits.argmax(-1).to(logits.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        drawn: Tensor = super().sample(torch.Size(sample_shape))
        return drawn.to(self.base_dist.logits.dtype)


@final
class Categorical(PerEntry):
    """Each entry one of C codes, 0 to C - 1, which are names; outputs are their logits."""

    name = "categorical"
    way = "give --classes, one more than the largest code, and --as-stored, so that codes are not scaled"

    def __init__(self, *, classes: int) -> None:
        """Take C.

        Raises:
            UsageError: it is below 2.
        """
        super().__init__()
        if classes < 2:
            raise UsageError(f"classes: expected at least 2, one more than the largest code, got {classes}")
        self.outputs, self.expected = classes, f"codes 0 to {classes - 1}"

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        p = TorchCategorical(logits=output.movedim(1, -1), validate_args=False)
        return _Codes(p, output.ndim - 2, validate_args=False)

    def odd(self, x: Tensor) -> Tensor:
        """Which entries are no codes."""
        return ~((x >= 0) & (x < self.outputs) & (x == x.round()))

    def start(self, mean: Tensor) -> Tensor:
        """Codes of the same probability."""
        return mean.new_zeros(self.outputs, *mean.shape)


class _OfCounts(PerEntry):
    expected = "counts, whole numbers from 0"
    way = "give --as-stored, so that counts are not scaled, or use the gaussian likelihood"

    def odd(self, x: Tensor) -> Tensor:
        """Which entries are no counts."""
        return ~((x >= 0) & (x == x.round()))


@final
class _InDouble(TorchNegativeBinomial):
    """Its log-probabilities are differences of lgamma, of which float32 loses tenths of a nat where t is large."""

    def log_prob(self, value: Tensor) -> Tensor:
        total, logits = self.total_count.double(), self.logits.double()
        exact: Distribution = TorchNegativeBinomial(total, logits=logits, validate_args=False)
        log_p = exact.log_prob(value.double())
        return log_p.to(torch.result_type(value, self.logits))


@final
class NegativeBinomial(_OfCounts):
    """Counts with mean m and variance m + m^2 / t; outputs are log m and log t of each entry.

    Log t is from -10 to 10: above, where m is far below t, it is a Poisson.
    """

    name = "negative-binomial"
    outputs = 2

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        log_mean, log_total = output[:, 0], output[:, 1].clamp(-TOTAL, TOTAL)
        p = _InDouble(log_total.exp(), logits=log_mean - log_total, validate_args=False)
        return _independent(p, log_mean)

    def start(self, mean: Tensor) -> Tensor:
        """Logs of the mean, and t = 1."""
        log_mean = mean.clamp(min=RARE).log()
        return torch.stack([log_mean, torch.zeros_like(log_mean)])


@final
class Counts(_OfCounts):
    """Poisson counts; outputs are the logs of their rates."""

    name = "poisson"

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch."""
        return _independent(torch.distributions.Poisson(output.exp(), validate_args=False), output)

    def start(self, mean: Tensor) -> Tensor:
        """Log of the mean."""
        return mean.clamp(min=RARE).log()


@final
class OneHot(nn.Module):
    """What an encoder sees of codes: C numbers an entry; the first axis of a datum becomes C times as long."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Float[Tensor, "n *datum"]) -> Tensor:
        """Zeros and ones, shape [n, C * datum[0], ...]."""
        codes = torch.arange(self.classes, device=x.device, dtype=x.dtype)
        hot = x[:, None] == codes.reshape(1, -1, *(1,) * (x.ndim - 1))
        return hot.to(x.dtype).flatten(1, 2)


@final
class Log1p(nn.Module):
    """What an encoder sees of counts: log(1 + x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return x.log1p()


def sees(likelihood: nn.Module) -> nn.Module | None:
    """What stands before the encoder; None where it sees the rows as they are."""
    if isinstance(likelihood, Categorical):
        return OneHot(likelihood.outputs)
    return Log1p() if isinstance(likelihood, _OfCounts) else None


def width(likelihood: Any) -> int:
    """How many numbers an encoder sees of each entry."""
    return likelihood.outputs if isinstance(likelihood, Categorical) else 1
