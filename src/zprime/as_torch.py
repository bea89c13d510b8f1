"""A latent distribution as a `torch.distributions.Distribution`, for torch, Pyro and whatever takes one."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@runtime_checkable
class Density(Protocol):
    """What is wrapped: a latent distribution."""

    @property
    def d(self) -> int:
        """Latent dimension."""
        ...

    @property
    def label(self) -> str:
        """A short name."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log r(z)."""
        ...

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        """Draws z'."""
        ...


class TorchDistribution(Distribution):
    """Independent copies of one latent distribution: batch shape as expanded, event shape [d].

    Draws come from torch's global generator, as torch's contract has it: `torch.manual_seed` decides them. There are no
    reparameterised draws (`has_rsample` is False); `log_prob` has a gradient in its argument.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, latent: Density, batch_shape: torch.Size = torch.Size(), *, validate_args: bool | None = None
    ) -> None:
        self.latent = latent
        super().__init__(batch_shape, torch.Size([latent.d]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "TorchDistribution":
        """Independent copies in this batch shape.

        Raises:
            ValueError: the present batch shape does not broadcast to it.
        """
        shape = torch.Size(batch_shape)
        try:
            torch.empty(self.batch_shape).expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"expand: batch shape {list(self.batch_shape)} does not broadcast to {list(shape)}"
            ) from error
        return TorchDistribution(self.latent, shape, validate_args=self._validate_args)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws, shape sample_shape + batch_shape + [d]."""
        shape = self._extended_shape(torch.Size(sample_shape))
        seed = int(torch.randint(2**62, ()))
        n = shape[:-1].numel()
        if n == 0:
            return torch.empty(shape)
        return self.latent.sample(n, rng=torch.Generator().manual_seed(seed)).reshape(shape)

    def __call__(self, sample_shape: Any = torch.Size()) -> Tensor:
        """A draw: Pyro calls its distributions."""
        return self.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log r(z) in nats, shape of `value` without its last dimension, broadcast with the batch shape.

        Raises:
            ValueError: shapes do not fit, or `value` is not finite (where arguments are validated).
        """
        if self._validate_args:
            self._validate_sample(value)
        shape: torch.Size = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        log_prob = self.latent.log_prob(value.expand(*shape, value.shape[-1]).reshape(-1, value.shape[-1]))
        return log_prob.to(value.dtype).reshape(shape)

    def __repr__(self) -> str:
        return f"TorchDistribution({self.latent.label}, batch_shape={list(self.batch_shape)})"
