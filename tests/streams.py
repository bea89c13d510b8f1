"""Every random stream that is made while a block runs, by its seed and its name."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from zprime import rng


class Made:
    """Seed of each stream -> its first name, once for every time that it was made; of a fork, what it is forked by."""

    def __init__(self) -> None:
        self.calls: dict[int, list[str]] = {}

    def repeated(self) -> set[str]:
        """Names of streams that were made more than once."""
        return {names[0] for names in self.calls.values() if len(names) > 1}

    def shared(self, other: "Made") -> set[str]:
        """Names of streams that both made."""
        return {self.calls[seed][0] for seed in self.calls.keys() & other.calls.keys()}

    def names(self) -> Counter[str]:
        """How many different streams there are of each name."""
        return Counter(names[0] for names in self.calls.values())


@contextmanager
def watched() -> Iterator[Made]:
    """Watch `zprime.rng` make streams."""
    made = Made()

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            names = sys._getframe(1).f_locals["names"]
            made.calls.setdefault(seed, []).append(str(names[1] if names[0] == "fork" else names[0]))
            return super().manual_seed(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "torch", SimpleNamespace(Generator=Generator))
        yield made
