"""One seed, many independent and named streams of random numbers.

A stream depends on the seed and its name only, so the draws of one part do not change those of another. A loop that
names its streams by epoch or by block can be resumed, or run in another order, and gives the same numbers.
"""

import hashlib
import operator

import torch

from zprime.errors import UsageError


def stream(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Give the stream called `names` under `seed`; raise `UsageError` for a seed that is no whole number.

    >>> a, b = stream(0, "train", 3), stream(0, "train", 3)
    >>> bool((torch.randn(4, generator=a) == torch.randn(4, generator=b)).all())
    True
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise UsageError(f"seed: expected a whole number, got {seed!r}") from error
    name = "\x1f".join([str(number), *(str(n) for n in names)])
    digest = hashlib.sha256(name.encode()).digest()
    rng = torch.Generator(device=device)
    rng.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return rng


def fork(rng: torch.Generator, *names: str | int) -> torch.Generator:
    """Give a named stream that depends on the seed of `rng` and on `names`; `rng` itself is not advanced."""
    return stream(rng.initial_seed(), "fork", *names, device=rng.device)
