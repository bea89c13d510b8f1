"""Whether what a decoder answers are logits, as they are taken for, or something else that lies in a short interval."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution

from zprime.bring.readings import clear
from zprime.errors import UsageError

NEAR = 0.1  # from -1 and 1, which outputs of a tanh reach, and 0.05 from 0 and 1, which rows do
OTHERWISE = ((2.0, 0.0), (1.0, -1.0), (1.0, 1.0), (2.0, -1.0), (2.0, 1.0))
"""Factors of logits and shifts of them, none of which makes rows clearly more likely after training."""


def check_logits(p: Bernoulli, x: Float[Tensor, "n *datum"]) -> None:
    """Refuse probabilities that were taken for logits.

    Logits of a trained decoder go beyond 0 and 1. Where they do not, and the rows are clearly more likely if these
    numbers are their probabilities, that is what they are: of true logits, which maximise the likelihood of the rows,
    this cannot be.

    Args:
        p: p(x|z) of each number.
        x: the rows.

    Raises:
        UsageError: they are probabilities.
    """
    said = p.logits.detach().double()
    if len(x) < 2 or not 0 <= float(said.min()) <= float(said.max()) <= 1:
        return
    gap = _loss(said.sigmoid(), x) - _loss(said, x)
    if clear(gap) is not None:
        raise UsageError(
            f"decode: the logits of p(x|z) go from {float(said.min()):.3g} to {float(said.max()):.3g}, and {len(x)} "
            f"training rows are {float(gap.mean()):.3g} nats a row more likely if these are probabilities, as behind a "
            "sigmoid: take likelihood='bernoulli-probs'. check=False leaves this out"
        )


def of_tanh(p: Distribution, x: Float[Tensor, "n *datum"]) -> tuple[str, ...]:
    """A sentence where logits look like the outputs of a decoder that ends with tanh.

    They fill -1 to 1 and no more, though rows reach 0 and 1; and rows are clearly more likely if they are shifted or
    doubled, as they cannot be of true logits, which maximise the likelihood of the rows.

    Args:
        p: what the decoder answers to the encoder's means of the rows, as `probe` returns it.
        x: the rows.
    """
    inner = plain(p)
    if len(x) < 2 or not isinstance(inner, Bernoulli):
        return ()
    said = inner.logits.detach().double()
    low, high = float(said.min()), float(said.max())
    fills = -1 <= low < NEAR - 1 and 1 - NEAR < high <= 1
    if not fills or float(x.min()) > NEAR / 2 or float(x.max()) < 1 - NEAR / 2:
        return ()
    loss = _loss(said.sigmoid(), x)
    if all(clear(loss - _loss((a * said + b).sigmoid(), x)) is None for a, b in OTHERWISE):
        return ()
    return (
        f"the logits of p(x|z) go from {low:.3g} to {high:.3g} over {len(x)} training rows, and do not fit them: they "
        "look like the outputs of a tanh, of a decoder that was trained on rows from -1 to 1. Then give the rows so "
        "(2x - 1), with likelihood=Gaussian(scale=...), the sigma of the loss: 2**-0.5 for a summed squared error plus "
        "the KL",
    )


def plain(p: Distribution) -> Distribution:
    """The distribution of single numbers inside Independent and its like."""
    while hasattr(p, "base_dist") and isinstance(p.base_dist, Distribution):
        p = p.base_dist
    return p


def _loss(probabilities: Float[Tensor, "n *datum"], x: Float[Tensor, "n *datum"]) -> Float[Tensor, " n"]:
    """Binary cross-entropy of each row in nats; x as it is, 0 and 1 or between them."""
    return nn.functional.binary_cross_entropy(probabilities, x.double(), reduction="none").flatten(1).sum(1)
