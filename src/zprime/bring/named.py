"""Likelihoods by name, for decoders that answer a plain tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from zprime.bring.conditions import Conditioned
from zprime.bring.places import tensor
from zprime.calls import theirs
from zprime.errors import UsageError
from zprime.likelihoods import Bernoulli, BernoulliProbs, Gaussian, Laplace, Poisson

Likelihood = str | Callable[[Tensor], Distribution] | None
NAMES = ("bernoulli", "bernoulli-probs", "gaussian", "laplace", "poisson")
LEAST = 1e-6
MEASURED = ("gaussian", "laplace")
"""Those whose scale is taken from the errors of reconstructions, where only the name is given."""


@dataclass(frozen=True)
class Usual:
    """What the usual loss of a likelihood stands for, where both of its terms are sums over the numbers of a row.

    Attributes:
        loss: in words.
        example: how the likelihood of that loss is written.
        deviation: its standard deviation.
        power: of 1 / deviation that the loss has as a factor.
        others: where the scales of other losses are told.
    """

    loss: str
    example: str
    deviation: float
    power: int
    others: str

    @property
    def says(self) -> str:
        """What to give."""
        return f"{self.loss} plus the KL is likelihood={self.example}"


USUAL = {
    "gaussian": Usual(
        "a summed squared error",
        "Gaussian(scale=2**-0.5)",
        2**-0.5,
        2,
        ", and likelihoods.Gaussian.from_loss(...) tells it of other losses",
    ),
    "laplace": Usual("a sum of absolute differences", "Laplace(scale=1.0)", 2**0.5, 1, ""),
}
"""Of the likelihoods whose scale is measured."""
LOSSES = {
    **dict.fromkeys(("mse", "l2", "mse-loss"), "'gaussian', or Gaussian.from_loss(...) for the sigma of the loss"),
    **dict.fromkeys(("bce", "bce-with-logits", "binary-cross-entropy"), "'bernoulli' (logits) or 'bernoulli-probs'"),
    **dict.fromkeys(("l1", "mae", "l1-loss"), "'laplace', or likelihoods.Laplace(scale=...)"),
    "normal": "'gaussian'",
}
"""Names of losses -> the likelihoods that they stand for."""


def need_callable(what: str, f: object) -> None:
    """Raise `UsageError` for an encoder or decoder that is none."""
    if not callable(f):
        raise UsageError(f"{what}: expected a module or a function, got {type(f).__name__}")


def distribution_of(likelihood: object, scale: float = 1.0) -> Callable[[Any], Any]:
    """What makes a distribution of a decoder's output; the output as it is where there is no likelihood.

    Args:
        likelihood: a name, or what makes the distribution.
        scale: of a Gaussian or Laplace that is given by name.

    Raises:
        UsageError: an unknown name, or something that cannot be called.
    """
    if likelihood is None:
        return lambda output: output
    if isinstance(likelihood, str):
        named = _named(likelihood, scale)
        return lambda output: named(_one(output))
    if not callable(likelihood):
        raise UsageError(
            f"likelihood: expected a name ({', '.join(NAMES)}), or what makes a torch Distribution of the decoder's "
            f"output, got {type(likelihood).__name__}"
        )
    if isinstance(likelihood, type) and issubclass(likelihood, nn.Module):
        name = likelihood.__name__
        raise UsageError(
            f"likelihood: expected what makes a torch Distribution of the decoder's output, got the class {name}; give "
            f"an object of it: {name}(), or {name}(scale=...) where it has a scale"
        )
    return lambda output: _made(likelihood, output)


def _made(likelihood: Callable[[Any], Any], output: Any) -> Any:
    """What a likelihood that was given makes of a decoder's output.

    Raises:
        UsageError: it fails; the message says with what it was called.
    """
    given = output if isinstance(output, Tensor) or not hasattr(output, "shape") else tensor(output)
    way = (
        "give a function from this output to a torch Distribution, e.g. likelihoods.Gaussian(scale=0.1)"
        if isinstance(given, Tensor)
        else "give a decoder that answers one tensor, e.g. `lambda z: decoder(z)[0]`, or a function that takes this"
    )

    def says(error: BaseException) -> str:
        what = f"likelihood: it fails when it is given the decoder's output, {_got(given)}"
        return f"{what} ({type(error).__name__}: {error}); {way}"

    with theirs(says):
        return likelihood(given)


def _one(output: Any) -> Tensor:
    """A decoder's output as one tensor.

    Raises:
        UsageError: it is several, or something else.
    """
    if isinstance(output, Tensor):
        return output
    if not hasattr(output, "shape"):
        raise UsageError(
            "decoder: expected one tensor or array, which a likelihood by name makes a distribution of, got "
            f"{_got(output)}; give e.g. `lambda z: decoder(z)[0]`, or as likelihood a function from this output to a "
            "torch Distribution"
        )
    return tensor(output)


def _got(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{list(output.shape)} {str(output.dtype).removeprefix('torch.')}"
    name = type(output).__name__
    return f"{len(output)} things in a {name}" if isinstance(output, tuple | list) else name


def measured(likelihood: object) -> bool:
    """Whether its scale has to be measured."""
    return isinstance(likelihood, str) and plain(likelihood) in MEASURED


def most_likely(likelihood: object, p: Distribution, x: Tensor) -> float:
    """The scale at which some rows are most likely: root mean square error, or mean absolute error for Laplace."""
    if isinstance(p, Conditioned):
        p, x = p.beside(x)
    gap = (x - p.mean).double()
    scale = float(gap.abs().mean() if plain(str(likelihood)) == "laplace" else gap.square().mean().sqrt())
    return max(scale, LEAST)


def plain(name: str) -> str:
    """A name without marks of spelling."""
    return name.lower().replace("_", "-").replace(" ", "-")


def _named(name: str, scale: float) -> Callable[[Tensor], Distribution]:
    known: dict[str, Callable[[], Callable[[Tensor], Distribution]]] = {
        "bernoulli": Bernoulli,
        "bernoulli-probs": BernoulliProbs,
        "gaussian": lambda: Gaussian(scale=scale),
        "laplace": lambda: Laplace(scale=scale),
        "poisson": Poisson,
    }
    if plain(name) not in known:
        loss = LOSSES.get(plain(name))
        raise UsageError(
            f"likelihood: expected one of {', '.join(NAMES)}, or what makes a torch Distribution of the decoder's "
            f"output, got {name!r}{'' if loss is None else f'; for that loss give {loss}'}"
        )
    return known[plain(name)]()
