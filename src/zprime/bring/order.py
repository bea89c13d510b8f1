"""Whether an encoder's two answers are in the order (mean, spread): the decoder is tried at both of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical

from zprime.bring import readings
from zprime.bring.conditions import Conditioned
from zprime.bring.logits import plain
from zprime.bring.probe import Decode
from zprime.bring.readings import LEAST, clear
from zprime.calls import theirs
from zprime.errors import UsageError, ZprimeError
from zprime.likelihoods import Autoregressive

ELBO = Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Float[Tensor, " n"]]


@torch.no_grad()
def check_order(
    decode: Decode,
    x: Float[Tensor, "n *datum"],
    answers: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
    gives: str,
    elbo: ELBO,
) -> bool:
    """Refuse a spread that was taken for the mean, and the mean for it.

    The decoder of a trained VAE was made for the mean. So the two are refused as swapped only where the second makes
    better reconstructions than the first, by log p(x|z) and by their distance to the rows; where they are nearer to
    the rows than the mean of all rows is, too, as those of an untrained decoder or of one that ignores z are not; and
    where the ELBO, which training raised, is higher.

    Args:
        decode: p(x|z).
        x: training rows.
        answers: the encoder's first and second answer to them.
        gives: what the second is said to be: `std`, `variance`, `log-variance` or `log-std`.
        elbo: nats a row, for means and standard deviations; with the same noise at every call.

    Returns:
        Whether the first is clearly the mean. It is not clear where z tells the decoder next to nothing.

    Raises:
        UsageError: the two are swapped.
    """
    first, second = answers
    log_p, made = _reconstructed(decode, x, first)
    try:
        with theirs(str):
            other, better = _reconstructed(decode, x, second)
    except ZprimeError:  # the decoder takes no such z: then the second is no mean
        return True
    if _above(log_p, other, LEAST):
        return True
    if not _above(other, log_p, LEAST) or made is None or better is None:
        return False
    missed, nearer, apart = made.missed, better.missed, better.apart
    if not _above(missed, nearer) or not _above(apart, nearer):
        return False
    claimed = elbo(first, readings.read(second, gives))
    readable = readings.possible(first)
    gaps = {name: elbo(second, readings.READINGS[name](first)) - claimed for name in readable}
    found = [name for name in readable if _above(gaps[name], torch.zeros_like(claimed), LEAST)]
    if not found:
        return False
    # the reading is another question, which is asked once the order is right
    best = gives if gives in found else max(found, key=lambda name: float(gaps[name].mean()))
    here, there = (float(m.mean().sqrt()) for m in (missed, nearer))
    say = "" if best == gives else f", with gives={best!r}"
    raise UsageError(
        f"encode: mean and {best} are in the wrong order, so that encoder and decoder do not belong together: "
        f"reconstructions of {len(x)} training rows from the encoder's first answer miss them by {here:.3g} (root mean "
        f"square), from its second by only {there:.3g}, and with the two swapped the ELBO is "
        f"{float(gaps[best].mean()):.1f} nats a row higher. Swap them{say}: give an encoder that answers (mean, "
        f"{best}), e.g. encoder=lambda x: f(x)[::-1], where f is yours. check=False leaves this out"
    )


@dataclass(frozen=True)
class _Made:
    """Mean square distances of rows: to their reconstructions, and to the mean of all rows."""

    missed: Float[Tensor, " n"]
    apart: Float[Tensor, " n"]


def _reconstructed(
    decode: Decode, x: Float[Tensor, "n *datum"], z: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, " n"], _Made | None]:
    """Log p(x|z), and how far reconstructions are; None where the numbers are names, such as tokens."""
    p = decode(z)
    log_p = p.log_prob(x).double()
    if isinstance(p, Conditioned):
        p, x = p.beside(x)
    if isinstance(plain(p), Autoregressive | Categorical):
        return log_p, None
    x = x.double()
    missed, apart = (t.flatten(1).square().mean(1) for t in (x - p.mean.double(), x - x.mean(0)))
    return log_p, _Made(missed, apart)


def _above(a: Float[Tensor, " n"], b: Float[Tensor, " n"], least: float = 0.0) -> bool:
    """Whether one is clearly above the other on average, row by row, and by more than `least`; NaN never is."""
    return len(a) > 1 and clear(a - b, least) is not None
