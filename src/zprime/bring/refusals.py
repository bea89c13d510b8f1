"""Encoders whose answers are no posteriors: refused by name, with the way out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime.bring.places import unwrapped
from zprime.errors import UsageError
from zprime.posterior_flow import FlowEncoder
from zprime.vae import VAE

CLOSE = 1e-3  # of a standard deviation over rows: farther apart, two answers to a row are not the same
CLOSE_HALF = 0.03  # the same for networks in half precision, whose rounding depends on the batch
USED = 2  # matrices that are read: mean and scale
SPHERE = 1e-3  # relative spread of norms
FEW = 10  # values of a column, at most, that make it discrete where there are five times as many rows
MATRICES = Callable[[Tensor], list[Tensor]]


def check_steady(answers: MATRICES, x: Float[Tensor, "n *datum"], *, half: bool = False) -> None:
    """Refuse an encoder whose answer to a row changes from call to call, or with the rows beside it.

    Args:
        answers: rows -> all matrices that the encoder answers.
        x: some rows.
        half: whether the networks compute in half precision.

    Raises:
        UsageError: it changes.
    """
    n, close = max(1, len(x) // 2), CLOSE_HALF if half else CLOSE
    first, again, part = answers(x), answers(x), answers(x[:n])
    moves = [_apart(a, b, close) for a, b in zip(first, again, strict=True)]
    if any(moves[:USED]):
        steady = [i + 1 for i, moved in enumerate(moves) if not moved]
        raise UsageError(
            f"encode: answer {1 + moves.index(True)} of {len(moves)} to the same rows differs between two calls: it is "
            "a draw of z, or dropout is on. "
            + (
                f"Answers {' and '.join(map(str, steady))} do not: if they are mean and scale, give "
                f"`lambda x: [encoder(x)[i] for i in {[i - 1 for i in steady[:2]]}]`"
                if len(steady) >= USED
                else "Give an encoder that answers the mean and the scale of q(z|x), in evaluation mode"
            )
        )
    if len(moves) > USED and not any(moves):
        raise UsageError(
            f"encode: got {len(moves)} matrices of one shape, none of which differs between two calls: which are the "
            "mean and the scale of q(z|x)? Give `lambda x: [encoder(x)[i] for i in (0, 1)]`, or (1, 2) where the first "
            "is z"
        )
    if any(_apart(a[:n], b, close) for a, b in list(zip(first, part, strict=True))[:USED]):
        raise UsageError(
            f"encode: the answer to a row depends on the other rows of its batch ({len(x)} and {n} rows were tried): "
            "batch normalisation is in training mode, say. Put the model into evaluation mode: model.eval()"
        )


def check_no_flow(encoder: object) -> None:
    """Refuse the encoder of a VAE of zprime whose q(z|x) is a flow: it answers codes of no noise and zeros.

    Raises:
        UsageError: it is one, or a method of such a VAE.
    """
    owner = getattr(encoder, "__self__", encoder)
    inner = unwrapped(owner) if isinstance(owner, nn.Module) else owner
    if isinstance(inner, FlowEncoder) or (isinstance(inner, VAE) and inner.form == "flow"):
        raise UsageError(
            "encoder: expected one whose q(z|x) is a Gaussian, got that of a VAE with --posterior flow: its answer is "
            "no mean and scale. Give draws with log q there: bring.draws(lambda x: (q := vae.draw(x)) and (q.z, "
            "q.log_q), data, vae.decode)"
        )


def _apart(a: Tensor, b: Tensor, close: float) -> bool:
    a, b = a.double(), b.double()
    return bool(((a - b).abs() > close * (a.std(0, correction=0) + a.abs() / 100) + 1e-6).any())


def check_codes(mean: Float[Tensor, "n d"], what: str = "encode") -> None:
    """Refuse codes that have no density in R^d: on a sphere, or discrete.

    Raises:
        UsageError: they are.
    """
    wide = mean.double()
    n, d = wide.shape
    if n < FEW:
        return
    norm = wide.norm(dim=1)
    if d > 1 and float(norm.std()) < SPHERE * float(norm.mean()) and float(wide.std(0).max()) > SPHERE:
        raise UsageError(
            f"{what}: all codes have norm {float(norm.mean()):.3g}, so they lie on a sphere, and a density of R^{d} is "
            "none there: spherical latents are not supported. Give what comes before the normalisation, with the "
            "decoder of it"
        )
    rows = len(torch.unique(wide, dim=0))
    for j in range(d):
        values = len(torch.unique(wide[:, j]))
        if 1 < values <= FEW and rows >= 5 * values:
            raise UsageError(
                f"{what}: dimension {j} of the codes takes {values} values only over {rows} different rows: a discrete "
                "latent has no density. Leave it out of z and give it as `labels` (the kind conditional fits r(z|y))"
            )


def check_code(answer: object, entries: int) -> None:
    """Refuse an answer of which not one matrix is the code: of a VAE, or of a whole autoencoder.

    Args:
        answer: of an encoder of codes.
        entries: numbers in a datum.

    Raises:
        UsageError: mean and spread of q(z|x), a reconstruction before the code, or parts with names.
    """
    vae = "a VAE goes to bring.modules, with gives=, which says what its second answer is"
    check_plain(answer, "codes, one matrix", f"{vae}; of an autoencoder give the code alone")
    parts = answer if isinstance(answer, tuple | list) else ()
    shapes = [list(t.shape) for t in parts if hasattr(t, "shape")][:USED]
    if len(shapes) < USED:
        return
    first, second = shapes
    if first == second and len(first) == USED:
        raise UsageError(
            f"encode: expected codes, one matrix, got two of shape {first}, as mean and scale of q(z|x) are; {vae}; of "
            "an autoencoder give the code alone, `lambda x: encoder(x)[0]`"
        )
    if math.prod(first[1:]) == entries != math.prod(second[1:]) and len(second) == USED:
        raise UsageError(
            f"encode: expected codes, one matrix, got {first} before {second}: the first has as many numbers as a "
            "datum, as a reconstruction has; give the code alone, `lambda x: encoder(x)[1]`"
        )


def check_plain(answer: object, expected: str, way: str) -> None:
    """Raise `UsageError` for parts with names, or a distribution, where a tensor is `expected`."""
    if isinstance(answer, Mapping | Distribution) or is_dataclass(answer):
        named = f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
        raise UsageError(f"encode: expected {expected}, got {type(answer).__name__}{named}; {way}")


def way_out(answer: object, shapes: list[list[int]], n: int) -> str:
    """What to do about an encoder's answer that is not two matrices of one shape.

    Args:
        answer: as it came.
        shapes: of what it holds, where that is several things.
        n: rows that it is an answer to.
    """
    if isinstance(answer, Tensor) and answer.ndim == USED and len(answer) == n:
        return (
            "if mean and scale stand beside each other in it, give `lambda x: encoder(x).chunk(2, 1)`; an autoencoder "
            "that answers codes alone goes to bring.codes"
        )
    first, second = [*shapes, [], []][:USED]
    if len(first) > USED:
        return (
            "latents with a shape go to bring.diffusers; or flatten them, `lambda x: [t.flatten(1) for t in "
            "encoder(x)]`, and give them their shape again in the decoder"
        )
    alone = len(shapes) < USED or len(first) != USED or first[0] != n
    if not alone and second in ([], [1], [first[1]], [n, 1], [1, first[1]], [1, 1]):
        return "where rows or latents share a scale give it to each: `lambda x: torch.broadcast_tensors(*encoder(x))`"
    return "give an encoder that answers (mean, scale), e.g. `lambda x: [encoder(x)[i] for i in (0, 1)]`"


def check_form(answer: object, n: int) -> None:
    """Refuse, by name, answers of models whose latents are of another sort.

    Raises:
        UsageError: code indices (VQ), or several groups of latents (a hierarchy).
    """
    parts = list(answer) if isinstance(answer, tuple | list) else [answer]
    tensors = [t for t in parts if isinstance(t, Tensor)]
    if any(not t.is_floating_point() and not t.is_complex() and t.dtype != torch.bool for t in tensors[:2]):
        raise UsageError(
            "encode: the answer holds whole numbers, as the indices of a code book (VQ-VAE) do: discrete latents have "
            "no density here; fit a prior over the indices with the library that trained the model"
        )
    nested = [p for p in parts if isinstance(p, tuple | list)]
    dims = {t.shape[1:] for t in tensors if t.ndim >= 2 and len(t) == n}
    if len(nested) > 1 or (len(tensors) >= 4 and len(dims) > 1):
        count = max(len(nested), len(dims))
        raise UsageError(
            f"encode: the answer holds {count} groups of latents, as a hierarchical VAE's do. Only "
            "the top group z_1 can be replaced: bring an encoder that answers its mean and scale, and a decoder that "
            "draws the other groups itself; the ELBO gain is then exact, the other gains are not to be had"
        )
