"""The gradient of a batch in the training of a VAE: from one process, or from the processes of a job, each with a part.

Several processes train as one does: the same batches in the same order with the same noise. Each takes its part of
every batch, and DistributedDataParallel averages the gradients. What differs is rounding, for sums are made in another
order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from zprime import distributed
from zprime.errors import ArtifactError
from zprime.objectives import Elbo, Objective
from zprime.trainable_prior import TrainablePrior
from zprime.vae import VAE


def of_first(value: float) -> float:
    """The number that the first of the processes has that work together; this one's own where it works alone."""
    if distributed.share()[1] == 1:
        return value
    held = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(held, 0)
    return float(held)


def check_start(checkpoint: Path | None, reached: Mapping[str, int]) -> None:
    """Raise `ArtifactError` unless all processes of a job go on from the same epoch."""
    for what, own in reached.items():
        first = int(of_first(float(own)))
        if first != own:
            raise ArtifactError(
                f"{checkpoint}: expected the checkpoint that process 0 has, of {what} {first}, got {own}; let all "
                "processes see the same folder"
            )


@final
class BatchLoss:
    """The loss of a batch: of all of it, or of the part of this process, in nats a row of the whole batch.

    It has to be kept until after the backward pass: it averages the gradients of the processes.
    """

    def __init__(self, vae: VAE, objective: Objective = Elbo()) -> None:
        """Of this VAE, which all processes have with the same parameters, by an objective."""
        self.vae, self.objective, self.rank, self.size = vae, objective, *distributed.share()
        self._terms = DistributedDataParallel(_Loss(vae, objective)) if self.size > 1 else None

    def __call__(self, x: Tensor, at: Tensor, *, beta: float, rng: torch.Generator) -> tuple[Tensor, float]:
        """A number to go down by its gradient, and the mean loss of the whole batch, without a prior's own.

        Args:
            x: the whole batch, in every process.
            at: which training rows these are.
            beta: weight of the KL term.
            rng: of the noise, the same in every process.
        """
        if isinstance(self.vae.prior, TrainablePrior):
            self.vae.prior.before_batch(at, rng)
        if self._terms is None:
            loss = self.objective.drawn(self.vae, x, rng, beta=beta, at=at).mean()
            own = _own_loss(self.vae, x, at)
            return loss if own is None else loss + own / len(x), loss.item()
        n, noise = len(x), self.objective.noise(self.vae, x, rng)
        # a batch with fewer rows than processes, or whose rows count together, is done by all of them
        shared = n >= self.size and not self.objective.together
        mine = slice(self.rank * n // self.size, (self.rank + 1) * n // self.size) if shared else slice(0, n)
        parts = self.size if shared else 1
        rows, own = self._terms(x[mine], noise[mine], at[mine], beta)
        loss = rows.sum() * (parts / n)  # the gradients are averaged
        whole = loss.detach().double().clone()
        dist.all_reduce(whole)
        return loss if own is None else loss + own * (parts / n), float(whole) / self.size


def _own_loss(vae: VAE, x: Tensor, at: Tensor) -> Tensor | None:
    """What a prior that is being trained goes down by itself, summed over these rows; None for nothing."""
    return vae.prior.own_loss(x, at) if isinstance(vae.prior, TrainablePrior) else None


class _Loss(nn.Module):
    """The loss of each row, and the prior's own, as DistributedDataParallel calls them."""

    def __init__(self, vae: VAE, objective: Objective) -> None:
        super().__init__()
        self.vae, self.objective = vae, objective

    def forward(self, x: Tensor, noise: Tensor, at: Tensor, beta: float) -> tuple[Tensor, Tensor | None]:
        return self.objective.rows(self.vae, x, noise, beta=beta, at=at), _own_loss(self.vae, x, at)
