"""The compiled kernels, where they were built: `zprime doctor` says so, `ZPRIME_KERNELS=torch` does without them."""

import importlib
import os
from typing import Any

from torch import Tensor

from zprime.errors import UsageError

INTERFACE = 8  # of the extension module; counted up with every change of it, here and in module.cpp
WORK = 1 << 36  # points x components x dimensions of one call, so that an interrupt is heard within seconds
SMALL = 1 << 22  # the same, below which one thread is faster than several


def load(wanted: str) -> tuple[Any, str]:
    """The extension module, or None, and in words why not.

    Args:
        wanted: `torch` does without; the name of an instruction set uses that; empty takes the best.

    Raises:
        UsageError: neither, or this machine cannot run it.
    """
    if wanted == "torch":
        return None, "ZPRIME_KERNELS=torch"
    try:
        module = importlib.import_module("zprime.kernels._compiled")
    except ModuleNotFoundError:
        return None, "not built; with a C++ compiler at hand, install zprime again"
    except ImportError as error:
        return None, f"cannot be loaded ({error}); install zprime again"
    if module.interface != INTERFACE:
        return None, "built from other sources than these; install zprime again"
    if wanted and wanted not in module.sets():
        known = ", ".join(module.sets())
        raise UsageError(f"ZPRIME_KERNELS: expected torch, or what this machine can run ({known}), got {wanted!r}")
    module.use(wanted or module.sets()[0])
    return module, ""


module, missing = load(os.environ.get("ZPRIME_KERNELS", ""))


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can take these tensors."""
    return module is not None and all(t.device.type == "cpu" for t in tensors)
