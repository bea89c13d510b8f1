"""Any decoder as p(x|z): an object with `decode(z)`, a torch module, or a function of z."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime.errors import ArrayError, UsageError
from zprime.vae import VAE, Decoder


def as_decoder(decoder: object) -> Decoder:
    """What answers `decode(z)` with a Distribution, of any decoder.

    Args:
        decoder: an object with `decode(z)`, a torch module, or another callable. It answers p(x|z) as a torch
            Distribution, or its mean as an array, a row for each z.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(decoder, VAE):
        return decoder
    own = getattr(decoder, "decode", None)
    answer = own if callable(own) else decoder
    if not callable(answer):
        raise UsageError(
            f"decoder: expected an object with decode(z), a torch module or a function of z, got "
            f"{type(decoder).__name__}; for a model from zprime.bring use mine.generator(latent)"
        )
    owner = getattr(answer, "__self__", answer)
    return AnyDecoder(answer, owner if isinstance(owner, nn.Module) else None)


@dataclass(frozen=True)
class AnyDecoder:
    """A decoder that somebody else wrote.

    Attributes:
        answer: z -> a Distribution, or the means of one.
        module: the torch module that answers, where it is one, or a method of one. It computes where its parameters
            are, in their precision and in evaluation mode; afterwards it is in the mode that it was in.
    """

    answer: Callable[..., object]
    module: nn.Module | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of z: that of the module's parameters, float32 at least."""
        return torch.promote_types(self._place.dtype, torch.float32)

    @property
    def _place(self) -> Tensor:
        parts = () if self.module is None else (*self.module.parameters(), *self.module.buffers())
        return next((t for t in parts if t.is_floating_point()), torch.zeros(()))

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z).

        Raises:
            ArrayError: the answer is neither a Distribution nor an array with a row for each z.
        """
        there = self._place
        with evaluating(() if self.module is None else (self.module,)):
            found = self.answer(z.to(there.device, there.dtype) if self.module is not None else z)
        if isinstance(found, Distribution):
            return found
        rows = getattr(found, "shape", ())
        if not rows or rows[0] != len(z):
            got = f"shape {list(rows)}" if hasattr(found, "shape") else type(found).__name__
            raise ArrayError(
                f"decoder: expected a torch Distribution, or its means with a row for each of {len(z)} z, got {got}; "
                "give a function of z that returns one of these"
            )
        means = found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
        return Means(means.detach())


class Means(Distribution):
    """The mean of p(x|z), where nothing else of it is known: there are no draws and no density.

    Raises:
        UsageError: a draw is asked for.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)
        self._mean = mean

    @property
    def mean(self) -> Tensor:
        """As the decoder answered it."""
        return self._mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refused."""
        raise UsageError(
            "noise: expected mean, for this decoder answers an array, which is taken for the mean of p(x|z), got draw; "
            "for draws give a function of z that returns a Distribution, e.g. "
            "lambda z: zprime.likelihoods.Gaussian(scale=0.1)(decoder(z))"
        )


_MODES = threading.Lock()
_INSIDE: dict[nn.Module, int] = {}  # modules that were in training mode -> how many threads hold them in evaluation


@contextmanager
def evaluating(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode; each of their modules is as it was afterwards, once no thread computes with it."""
    with _MODES:
        held = [m for network in networks for m in network.modules() if m.training or m in _INSIDE]
        for m in held:
            _INSIDE[m] = _INSIDE.get(m, 0) + 1
            m.training = False
    try:
        yield
    finally:
        with _MODES:
            for m in held:
                _INSIDE[m] -= 1
                if not _INSIDE[m]:
                    del _INSIDE[m]
                    m.training = True
