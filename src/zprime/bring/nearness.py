"""Whether reconstructions are nearer to their rows than the mean row is, as those of trained networks are."""

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution

from zprime.bring.logits import plain
from zprime.bring.readings import clear
from zprime.likelihoods import Autoregressive


def no_nearer(p: Distribution, x: Float[Tensor, "n *datum"]) -> tuple[str, ...]:
    """A sentence where the reconstructions of rows are clearly farther from them than the mean of the other rows is.

    It is what networks come to whose trained weights were not loaded. A VAE whose decoder ignores z and answers means
    is as near as that, so nothing is said of it.

    Args:
        p: what the decoder answers to the encoder's means of the rows, as `probe` returns it.
        x: the rows.
    """
    if len(x) < 2 or isinstance(plain(p), Autoregressive | Categorical):
        return ()
    rows, made = x.double().flatten(1), p.mean.double().flatten(1)
    others = len(x) / (len(x) - 1) * (rows - rows.mean(0))  # from the mean of all rows but one itself
    missed, best = (rows - made).square().mean(1), others.square().mean(1)
    if clear(missed - best) is None:
        return ()
    return (
        f"reconstructions of {len(x)} training rows are no nearer to the rows than the mean row is "
        f"({float(missed.mean().sqrt()):.3g} against {float(best.mean().sqrt()):.3g}, root mean square): were the "
        "weights loaded?",
    )
