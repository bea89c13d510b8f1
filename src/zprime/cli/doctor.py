"""zprime doctor."""

import platform

import torch

from zprime import __version__
from zprime.cli.console import give, product
from zprime.kernels import compiled


def doctor() -> None:
    """Say which versions, kernels and instruction set are in use, and why no better ones."""
    module = compiled.module
    kernels = {
        "in_use": "torch" if module is None else module.used(),
        "why_not_compiled": compiled.missing or None,
        "built": [] if module is None else list(module.built),
        "can_run": [] if module is None else module.sets(),
    }
    python = platform.python_version()
    product(f"zprime {__version__}, Python {python}, torch {torch.__version__} on {platform.machine()}")
    if module is None:
        product(f"kernels: torch; no compiled ones: {compiled.missing}")
        product("Results are the same but for rounding; densities and neighbours take several times as long, EM twice.")
    else:
        product(f"kernels: compiled, {kernels['in_use']}; in torch for tensors that are not on the CPU")
        for name in kernels["built"]:
            product(f"  {name}: {'can be run here' if name in kernels['can_run'] else 'this machine cannot run it'}")
    product("ZPRIME_KERNELS=torch, or the name of an instruction set, chooses another.")
    give({"zprime": __version__, "python": python, "torch": torch.__version__, "kernels": kernels})
