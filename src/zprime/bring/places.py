"""Where a model lives: the modules behind a callable, their device and precision, and what comes back from there."""

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

STEPS = 6  # functions, partials and methods inside each other
INSIDE = ("module", "_orig_mod")
"""Where a wrapper keeps what it wraps: DataParallel and DistributedDataParallel, torch.compile."""


def modules_of(f: object) -> list[nn.Module]:
    """The torch modules that a callable is, is a method of, or reaches: through partials, wrappers and closures.

    A function reaches what its closure, its defaults and the globals that it names hold, and the functions there what
    theirs do. What an object other than a module holds is not looked at.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(f: object, steps: int) -> None:
        if isinstance(f, nn.Module):
            inner = unwrapped(f)
            found[id(inner)] = inner
        elif steps and id(f) not in seen and not _library(f):
            seen.add(id(f))
            for part in _parts(f):
                look(part, steps - 1)

    look(f, STEPS)
    return list(found.values())


def _library(f: object) -> bool:
    """Whether a function is of torch or numpy: those hold no model."""
    return isinstance(f, FunctionType) and (f.__module__ or "").split(".")[0] in ("torch", "numpy", "jax")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = next((getattr(module, n) for n in INSIDE if isinstance(getattr(module, n, None), nn.Module)), None)
        wraps = type(module).__name__ in ("DataParallel", "DistributedDataParallel", "OptimizedModule")
        if inner is None or not wraps:
            return module
        module = inner


def _parts(f: object) -> Iterator[object]:
    if isinstance(f, functools.partial):
        yield from (f.func, *f.args, *f.keywords.values())
    elif isinstance(f, MethodType):
        yield from (f.__self__, f.__func__)
    elif isinstance(f, FunctionType):
        original = getattr(f, "_torchdynamo_orig_callable", getattr(f, "__wrapped__", None))
        if original is not None:
            yield original
        for cell in f.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from f.__defaults__ or ()
        yield from (f.__globals__[n] for n in f.__code__.co_names if n in f.__globals__)


@dataclass(frozen=True)
class Place:
    """Where networks compute, and in what.

    Attributes:
        device: of their parameters.
        dtype: of their parameters, e.g. float16.
        networks: those whose mode is evaluation while they compute.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    networks: tuple[nn.Module, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> "Place | None":
        """That of the first module that has parameters; None where none has any."""
        for module in modules:
            for p in (*module.parameters(), *module.buffers()):
                if p.is_floating_point():
                    return cls(p.device, p.dtype, tuple(modules))
        return None

    @property
    def wide(self) -> torch.dtype:
        """What results are kept in: float32 at least, since 1/s^2 of a half-precision scale overflows."""
        return torch.promote_types(self.dtype, torch.float32)

    def go(self, x: Tensor) -> Tensor:
        """To the networks."""
        return x.to(self.device, self.dtype)

    def back(self, x: Any) -> Tensor:
        """From the networks: on the CPU, in float32 at least where it is floating point; also what is no tensor."""
        t = tensor(x).cpu()
        return t.to(torch.promote_types(t.dtype, torch.float32)) if t.is_floating_point() else t


def tensor(x: Any) -> Tensor:
    """A tensor of what torch, numpy, jax or lists hold."""
    return x if isinstance(x, Tensor) else torch.as_tensor(np.array(x))


def back(p: Distribution) -> Distribution:
    """The same distribution with its parameters on the CPU and in float32 at least."""
    moved = copy.copy(p)
    for name, value in vars(p).items():
        if isinstance(value, Tensor):
            there = value.cpu()
            moved.__dict__[name] = there.float() if there.dtype in (torch.float16, torch.bfloat16) else there
        elif isinstance(value, Distribution):
            moved.__dict__[name] = back(value)
        elif isinstance(value, list | tuple) and any(isinstance(v, Transform) for v in value):
            moved.__dict__[name] = [_transform(v) for v in value]
    return moved


def _transform(t: Transform) -> Transform:
    moved = copy.copy(t)
    for name, value in vars(t).items():
        if isinstance(value, Tensor):
            moved.__dict__[name] = value.cpu()
    return moved
