"""Adam with a learning rate that falls, and the moving average of the parameters that it trains."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zprime.schema import need

DECAY = 0.998  # of the average a step: it is over about the last 500 steps
FLOOR = 0.2  # of the learning rate, at the end
SCALE = 10.0  # times the learning rate: that of the standard deviation of p(x|z)
ABOVE = 1e-7  # is added to the norm of a gradient before it is divided by it
FASTEST = 0.03  # no faster than so, unless all other parameters are


class Descent:
    """Steps of Adam, and an average of the parameters after them with exponentially falling weights.

    The average is a better model than the last step's (Polyak & Juditsky 1992; Izmailov et al. 2018), and its ELBO
    hardly varies from one epoch to the next. In the first steps it is over the last tenth of them.

    The log-scale of p(x|z) is one number that starts far from its optimum: it has a larger learning rate.
    """

    def __init__(self, vae: nn.Module, lr: float, *, normed: bool = False) -> None:
        """Of all parameters of `vae`, from learning rate `lr` on.

        With `normed` the gradient of each tensor is divided by its norm first: AdamNormGrad, with which Tomczak &
        Welling (2018) train their VampPrior.
        """
        self._normed = normed
        scale = getattr(getattr(vae, "likelihood", None), "log_scale", None)
        fast = [p for p in vae.parameters() if p is scale]
        rest = [p for p in vae.parameters() if p is not scale]
        self._first = [lr, max(lr, min(SCALE * lr, FASTEST))]
        self.adam = torch.optim.Adam([{"params": rest}, {"params": fast}], lr=lr, fused=True)
        self.fall(0.0)
        self._parameters = dict(vae.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._steps = 0

    def fall(self, done: float) -> None:
        """Set the learning rates for a proportion `done` of the training: half a cosine, from 1 to `FLOOR`."""
        part = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
        for group, first in zip(self.adam.param_groups, self._first, strict=True):
            group["lr"] = first * part

    def step(self, loss: Tensor) -> None:
        """One step down `loss`, a number."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._normed:
            self._norm()
        self.adam.step()
        self._steps += 1
        weight = max(1 - DECAY, 10 / (self._steps + 9))  # the first step is the first average
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), weight)

    def _norm(self) -> None:
        """Divide each gradient by its norm; one of zeros stays."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, ABOVE)
        torch._foreach_div_(gradients, norms)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged parameters within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, p in self._parameters.items():
            p.data, self._average[name] = self._average[name], p.data

    def tensors(self) -> dict[str, Tensor]:
        """A copy of all that the next step depends on beside the parameters and the number of steps, by name."""
        found = {f"mean.{name}": average.clone() for name, average in self._average.items()}
        for i, slots in self.adam.state_dict()["state"].items():
            found |= {f"adam.{i}.{name}": value.detach().clone() for name, value in slots.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on after so many steps from what `tensors` gave.

        Raises:
            Refused: names, shapes or numbers that cannot be those of this network.
        """
        ordered = [p.detach() for group in self.adam.param_groups for p in group["params"]]
        own = {name: value for name, value in tensors.items() if name.startswith(("mean.", "adam."))}
        wanted = {f"mean.{name}": p.shape for name, p in self._parameters.items()}
        if any(name.startswith("adam.") for name in own):
            for i, p in enumerate(ordered):
                shapes = {"exp_avg": p.shape, "exp_avg_sq": p.shape, "step": torch.Size()}
                wanted |= {f"adam.{i}.{slot}": shape for slot, shape in shapes.items()}
        check_shapes(own, wanted)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in own.items():
            if name.startswith("mean."):
                self._average[name.removeprefix("mean.")].copy_(value)
                continue
            _, place, slot = name.split(".")
            i = int(place)
            if slot != "exp_avg":
                need(name, value.numel() == 0 or bool(value.min() >= 0), "numbers from 0", float(value.min()))
            like = ordered[i]
            # fused Adam walks through memory: its moments must lie as the parameter does (channels_last)
            laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value.clone()
            slots.setdefault(i, {})[slot] = laid
        self.adam.load_state_dict({"state": slots, "param_groups": self.adam.state_dict()["param_groups"]})
        self._steps = steps


RISE = 0.3  # of a cycle's steps, in which the learning rate rises
FIRST, LAST = 25.0, 1e4  # the rate begins at a 25th of the largest, and ends at a 10,000th of that
MOMENTUM = (0.95, 0.85)  # at the ends of a cycle, and at the largest rate
BETA2, EPS = 0.999, 1e-8


class Cycle:
    """Adam along one cycle of learning rate and momentum (Smith & Topin 2019), by half cosines.

    To the bit what `torch.optim.Adam(fused=True)` does under `OneCycleLR`. To make an optimiser of torch's loads its
    compiler, which takes a second: as long as a small network is trained.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, steps: int) -> None:
        """Of these parameters, with largest learning rate `lr`, for so many steps."""
        self.parameters, self.lr, self.steps = list(parameters), lr, steps
        self._mean, self._square = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self._count = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]
        self._done = 0

    def step(self, loss: Tensor) -> None:
        """One step down `loss`, a number; no other parameters get a gradient.

        Raises:
            ValueError: all steps were taken.
        """
        if self._done == self.steps:
            raise ValueError(f"cycle: expected at most {self.steps} steps, got one more")
        lr, momentum = self.rates(self._done)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self._count, 1)
            torch._fused_adam_(
                self.parameters,
                [_laid_like(g, p) for g, p in zip(gradients, self.parameters, strict=True)],
                self._mean,
                self._square,
                [],
                self._count,
                lr=lr,
                beta1=momentum,
                beta2=BETA2,
                weight_decay=0.0,
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )
        self._done += 1

    def rates(self, done: int) -> tuple[float, float]:
        """Learning rate and momentum after so many steps."""
        top = RISE * self.steps - 1
        low, momentum = self.lr / FIRST, MOMENTUM
        if done <= top:
            part = done / top
            return _between(low, self.lr, part), _between(momentum[0], momentum[1], part)
        part = (done - top) / (self.steps - 1 - top)
        return _between(self.lr, low / LAST, part), _between(momentum[1], momentum[0], part)


def _laid_like(value: Tensor, like: Tensor) -> Tensor:
    """The same numbers in the order in which `like` lies in memory: fused Adam walks through memory."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


def check_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    """Raise `Refused` for tensors of other names or shapes than those wanted."""
    need("tensors", wanted.keys() == tensors.keys(), "those of this network", sorted(wanted.keys() ^ tensors.keys()))
    for name, value in tensors.items():
        need(name, value.shape == wanted[name], f"shape {list(wanted[name])}", list(value.shape))
