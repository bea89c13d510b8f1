"""p(x|z) as a torch Distribution of one datum, from the output of a decoder."""

import functools
import math
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Poisson as TorchPoisson

from zprime import per_entry
from zprime.arrays import LOG_2PI, need_positive
from zprime.errors import ArrayError, UsageError
from zprime.per_entry import PerEntry

_GLOBAL = threading.Lock()  # one thread at a time uses torch's global generator
RARE = 0.01  # the least proportion of ones in a pixel that a decoder begins at


class _Spherical(Independent):  # type: ignore[type-arg]
    """N(mean, scale^2 I), by one squared distance; torch would sum a log-density for each pixel."""

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        super().__init__(Normal(mean, log_scale.exp(), validate_args=False), mean.ndim - 1, validate_args=False)
        self.log_scale = log_scale

    def log_prob(self, value: Tensor) -> Tensor:
        log_density = self._log_prob(value, self.base_dist.loc, self.log_scale)
        if log_density.dtype == torch.float64 or bool(torch.isfinite(log_density).all()):
            return log_density
        # beyond float32: a scale whose square it cannot hold, or rows that lie too far off
        return self._log_prob(value.double(), self.base_dist.loc.double(), self.log_scale.double())

    def _log_prob(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        square = (value - mean).square()
        if self.event_shape:
            square = square.flatten(-len(self.event_shape)).sum(-1)
        constant = self.event_shape.numel() * (log_scale + 0.5 * LOG_2PI)
        log_density: Tensor = -0.5 * square * (-2 * log_scale).exp() - constant
        return log_density

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Distribution:
        plain = Independent(self.base_dist, len(self.event_shape), validate_args=False)
        expanded: Distribution = plain.expand(torch.Size(batch_shape))  # type: ignore[no-untyped-call]
        return expanded


class Gaussian(nn.Module):
    """N(x; output, scale^2 I): one standard deviation for all pixels, learned with the decoder or fixed."""

    def __init__(self, *, scale: float | None = None, init: float = 0.3) -> None:
        """Fix the standard deviation at `scale`, or learn it from `init` (Rybkin 2021, sigma-VAE)."""
        super().__init__()
        if scale is not None and not 0 < scale < math.inf:
            raise UsageError(f"scale: expected a standard deviation above 0, got {scale}")
        start = torch.tensor(math.log(scale if scale is not None else init))
        if scale is None:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @classmethod
    def from_loss(
        cls,
        *,
        reconstruction: str = "sum",
        weight: float = 1.0,
        entries: int | None = None,
        kl: str = "sum",
        beta: float = 1.0,
        latents: int | None = None,
    ) -> "Gaussian":
        """The p(x|z) of a loss `weight * squared error + beta * KL`, each a sum or a mean over the numbers of a row.

        Such a loss is, times a constant, the negative ELBO of a Gaussian with `scale^2 = beta D / (2 weight d)`, where
        D counts only for a mean of the squared error, and d only for a mean of the KL (Rybkin 2021; Lucas et al. 2019).

        Args:
            reconstruction: `sum` or `mean` of the squared error over the entries of a row.
            weight: of the reconstruction term.
            entries: D, numbers in a row; for a `mean` of the squared error.
            kl: `sum` or `mean` of the KL over the latents.
            beta: weight of the KL term.
            latents: d; for a `mean` of the KL.

        Raises:
            UsageError: another word, a mean without the number that it is over, or a number that is not above 0.
        """
        for name, word in (("reconstruction", reconstruction), ("kl", kl)):
            if word not in ("sum", "mean"):
                raise UsageError(f"{name}: expected sum or mean, got {word!r}")
        D = _mean_over("entries", entries, f"reconstruction={reconstruction!r}", "numbers there are in a row")
        d = _mean_over("latents", latents, f"kl={kl!r}", "latents there are")
        for name, value in (("weight", weight), ("beta", beta), ("entries", D), ("latents", d)):
            need_positive(name, value)
        variance = beta / (2 * weight) * D / d
        return cls(scale=math.sqrt(variance))

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch, shape [n, *datum]."""
        return _Spherical(output, self.log_scale)


class Bernoulli(nn.Module):
    """Independent 0/1 pixels; `output` are their logits."""

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch, shape [n, *datum]."""
        return Independent(TorchBernoulli(logits=output, validate_args=False), output.ndim - 1, validate_args=False)


class BernoulliProbs(nn.Module):
    """Independent 0/1 pixels; `output` are their probabilities, as behind a sigmoid."""

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch, shape [n, *datum].

        Raises:
            ArrayError: outputs that are no probabilities, e.g. logits.
        """
        # a branch on values cannot be exported
        low, high = (0.0, 1.0) if torch.compiler.is_compiling() else map(float, output.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ArrayError(
                f"decode: expected probabilities from 0 to 1, got {low:.3g} to {high:.3g}; for logits take "
                "likelihood='bernoulli'"
            )
        return Independent(TorchBernoulli(probs=output, validate_args=False), output.ndim - 1, validate_args=False)


class Laplace(nn.Module):
    """Independent entries with Laplace errors of one scale b: what a loss of absolute differences stands for.

    Sum of absolute differences plus KL is b = 1.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        """Fix b, which is the standard deviation over the square root of 2.

        Raises:
            UsageError: a scale that is not above 0.
        """
        super().__init__()
        if not 0 < scale < math.inf:
            raise UsageError(f"scale: expected a number above 0, got {scale}")
        self.b = scale

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch, shape [n, *datum]."""
        p = TorchLaplace(output, torch.full_like(output, self.b), validate_args=False)
        return Independent(p, output.ndim - 1, validate_args=False)


class Poisson(nn.Module):
    """Independent counts; `output` are the logs of their rates."""

    def forward(self, output: Tensor) -> Distribution:
        """The distribution of a batch, shape [n, *datum]."""
        return Independent(TorchPoisson(output.exp(), validate_args=False), output.ndim - 1, validate_args=False)


class Autoregressive(Distribution):
    """Rows of tokens, each given z and the tokens before it: p(x|z) = prod_t p(x_t|x_<t, z), e.g. sentences.

    Tokens are names, which have no mean: `mean` is the row that takes the most likely token at every step.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)
    support = constraints.independent(constraints.nonnegative_integer, 1)  # type: ignore[no-untyped-call]

    def __init__(self, logits: Callable[[Tensor, Tensor], Tensor], z: Tensor, *, steps: int) -> None:
        """Take what it consists of.

        The networks behind `logits` compute when a density or a draw is asked for: put them into evaluation mode.

        Args:
            logits: (z, tokens [n, steps], int64) -> scores of all tokens at every step, [n, steps, vocabulary]; those
                of a step depend on the tokens before it alone. Log-probabilities will do.
            z: shape [n, d].
            steps: tokens in a row; shorter sentences are padded as in training.
        """
        # not an attribute of its own: the place of z is that of the networks
        self._scores, self._device = functools.partial(logits, z), z.device
        super().__init__(z.shape[:1], torch.Size([steps]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x|z) in nats a row, shape [n]."""
        tokens = value.to(self._device).long()
        log_p = self._log_softmax(tokens).gather(2, tokens[:, :, None])
        return log_p.sum((1, 2)).to(value.device)

    @property
    def mean(self) -> Tensor:
        """The most likely token at every step, one step after the other; shape [n, steps]."""
        return self._written(lambda log_p: log_p.argmax(1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """One row for each z, shape [n, steps]."""
        return self._written(lambda log_p: torch.multinomial(log_p.exp(), 1)[:, 0])

    def _log_softmax(self, tokens: Tensor) -> Tensor:
        scores = self._scores(tokens)
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(2)

    @torch.no_grad()
    def _written(self, pick: Callable[[Tensor], Tensor]) -> Tensor:
        tokens = torch.zeros(*self.batch_shape, *self.event_shape, dtype=torch.long, device=self._device)
        for step in range(tokens.shape[1]):
            tokens[:, step] = pick(self._log_softmax(tokens)[:, step])
        return tokens.cpu().float()


def _mean_over(name: str, count: int | None, word: str, what: str) -> int:
    """What a mean is over; 1 for a sum.

    Raises:
        UsageError: a mean, and it is not said over how many.
    """
    if "mean" not in word:
        return 1
    if count is None:
        raise UsageError(f"{name}: expected how many {what}, beside {word}, got None; give {name}=")
    return count


def draw(p: Distribution, *, rng: torch.Generator) -> Tensor:
    """One draw from each distribution of a batch; `rng` decides it."""
    # torch's Distributions take no generator: the global one is seeded for the draw, and restored
    with _GLOBAL, torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.initial_seed())
        return p.sample()


NAMES = (
    "gaussian",
    "bernoulli",
    "laplace",
    "gaussian-per-entry",
    "logistic",
    "categorical",
    "poisson",
    "negative-binomial",
)
"""Likelihoods of the VAEs that zprime builds."""
SCALED = ("gaussian", "laplace")
"""Those whose scale may be fixed. That given with `bernoulli` was never read, and runs that have one stay readable."""


def build(name: str, *, scale: float | None = None, components: int = 1, classes: int = 0) -> nn.Module:
    """Make the likelihood called `name`.

    Args:
        name: one of `NAMES`.
        scale: fixed one of a Gaussian or Laplace; None learns it.
        components: logistics in the mixture of `logistic`.
        classes: codes of `categorical`.

    Raises:
        UsageError: unknown name, or a setting that belongs to another likelihood.
    """
    given = {
        "scale": (None if name == "bernoulli" else scale, None, SCALED),
        "components": (components, 1, ("logistic",)),
    }
    given |= {"classes": (classes, 0, ("categorical",))}
    if name not in NAMES:
        raise UsageError(f"likelihood: expected one of {', '.join(NAMES)}, got {name!r}")
    for what, (value, usual, owners) in given.items():
        if value != usual and name not in owners:
            raise UsageError(f"{what}: it is of the likelihood {' or '.join(owners)}, got {value:g} with {name}")
    if components < 1:
        raise UsageError(f"components: expected at least 1, got {components}")
    made: dict[str, Callable[[], nn.Module]] = {
        "gaussian": lambda: Gaussian(scale=scale),
        "bernoulli": Bernoulli,
        "laplace": lambda: per_entry.ScaledLaplace(scale=scale),
        "gaussian-per-entry": per_entry.ScaledGaussian,
        "logistic": lambda: per_entry.DiscretisedLogistic(components=components),
        "categorical": lambda: per_entry.Categorical(classes=classes),
        "poisson": per_entry.Counts,
        "negative-binomial": per_entry.NegativeBinomial,
    }
    return made[name]()


def start(likelihood: nn.Module, mean: Tensor) -> Tensor:
    """The output that a new decoder begins at, from the mean of the training rows."""
    if isinstance(likelihood, Bernoulli):
        return mean.clamp(RARE, 1 - RARE).logit()
    return likelihood.start(mean) if isinstance(likelihood, PerEntry) else mean


def check_rows(likelihood: nn.Module, x: Tensor, *, first: int = 0) -> None:
    """Raise unless the likelihood can take these rows, which are those from `first` on.

    Raises:
        ArrayError: names the row and the value.
    """
    if isinstance(likelihood, Bernoulli):
        name, odd, expected = "bernoulli", (x != 0) & (x != 1), "0 and 1 only"
        way = "use binarise for grey images, or the gaussian likelihood"
    elif isinstance(likelihood, PerEntry):
        name, odd, expected, way = likelihood.name, likelihood.odd(x), likelihood.expected, likelihood.way
    else:
        return
    if bool(odd.any()):
        row = int(odd.flatten(1).any(1).nonzero()[0])
        raise ArrayError(
            f"likelihood {name}: expected {expected}, got {x[row][odd[row]][0].item():g} in row {first + row}; {way}"
        )
