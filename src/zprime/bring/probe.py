"""Whether encoder, decoder, p(x|z) and rows belong together: tried on some training rows before all are encoded."""

import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Poisson, constraints

from zprime.bring.conditions import Conditioned
from zprime.bring.logits import check_logits, plain
from zprime.bring.readings import clear
from zprime.calls import theirs
from zprime.errors import NumericalError, UsageError
from zprime.likelihoods import Autoregressive, draw
from zprime.rng import stream

BEYOND = 0.1  # share of values outside the range of the rows that no mean of such rows has
FARTHER = 1.5  # and so many times farther from the rows: the median of 0s and 1s is up to 1.41 times as far as the mean
BELOW = -0.5  # a reconstruction of rows from 0 to 1 is not so low, unless the decoder answers -1 to 1
SCALINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "2x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
    "x / 255": lambda x: x / 255,
    "255 x": lambda x: 255 * x,
    "1 - x": lambda x: 1 - x,
    "the standardised x": lambda x: (x - x.mean(0)) / x.std(0).clamp(min=1e-6),
}
"""What rows may have been to the networks in training, where they are given otherwise."""
SAME = 1e-3  # of a standard deviation over rows, and of a nat: farther apart, two log p(x|z) are not the same
WIDE = 2.0  # a second moment of the codes this many times off that of the prior is spoken of
LIKE = 3.0  # times nearer to another scaling of the rows than to the rows: spoken of
SUM = 1e-3  # from 1: within it, numbers add up to 1
NO_SHARES = 0.1  # from 1, of most rows: farther, and they do not
FEWEST = 3  # numbers of a row that add up to 1 by no accident
Decode = Callable[[Float[Tensor, "n d"]], Distribution]


def probe(decode: Decode, x: Float[Tensor, "n *datum"], mean: Float[Tensor, "n d"]) -> tuple[Distribution, Tensor]:
    """Try the decoder at the encoder's means of some rows: support, log-density, mean and draws of p(x|z).

    Args:
        decode: z -> p(x|z).
        x: training rows.
        mean: the encoder's first answer to them.

    Returns:
        p(x|z) there, and the rows beside it.

    Raises:
        UsageError: rows outside the support of p(x|z); a p(x|z) without a log-density, a mean or draws, or whose
            log-density changes from call to call.
        NumericalError: log p(x|z) is not finite at all rows.
    """
    p = decode(mean)
    log_prob = functools.partial(p.log_prob, x)
    again = functools.partial(decode(mean).log_prob, x)
    if isinstance(p, Conditioned):
        p, x = p.beside(x)
    check_support(p, x)
    check_abilities(p, x, log_prob)
    check_same(log_prob(), again())
    return p, x


def compare(p: Distribution, x: Float[Tensor, "n *datum"]) -> None:
    """Compare reconstructions, what `probe` returned, with rows; not of tokens, which are names.

    Raises:
        UsageError: probabilities that were taken for logits, shares for what is none; reconstructions that are farther
            from the rows than the mean of all rows is.
    """
    if not isinstance(plain(p), Autoregressive | Categorical):
        check_shares(p, x)
        inner = plain(p)
        if isinstance(inner, Bernoulli):
            check_logits(inner, x)
        check_reconstructions(p.mean, x)


def check_support(p: Distribution, x: Float[Tensor, "n *datum"]) -> None:
    """Refuse rows that p(x|z) cannot make: torch gives such rows a density all the same, and verdicts follow from it.

    Grey values from 0 to 1 under a Bernoulli are let through: its loss, binary cross-entropy, is used on them.

    Raises:
        UsageError: some are outside.
    """
    try:
        support = p.support
        inner = support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        allowed = constraints.unit_interval if inner is constraints.boolean else support
        if allowed is None:
            return
        inside: Tensor = allowed.check(x)  # type: ignore[no-untyped-call]
    except (NotImplementedError, ValueError):  # it says nothing of it, or that it depends on something
        return
    if bool(inside.all()):
        return
    low, high = float(x.min()), float(x.max())
    name = type(plain(p)).__name__
    share = float((~inside.reshape(len(inside), -1).all(1)).double().mean())
    raise UsageError(
        f"data: {share:.0%} of {len(x)} training rows lie outside the support of p(x|z), {name} on {_words(inner)}: "
        f"values go from {low:.3g} to {high:.3g}. Give the rows as they were in training, or the likelihood of these "
        "rows"
    )


def check_abilities(p: Distribution, x: Float[Tensor, "n *datum"], log_prob: Callable[[], Tensor]) -> None:
    """Refuse a p(x|z) that lacks what an audit asks of it, and say what.

    Raises:
        UsageError: it has no mean, no draws, or no log-density of these rows.
        NumericalError: its log-density is not finite at all of these rows.
    """
    name = type(plain(p)).__name__
    asked: dict[str, Callable[[], Tensor]] = {
        "mean": lambda: p.mean,
        "sample()": lambda: draw(p, rng=stream(0, "probe")),
        "log_prob(x)": log_prob,
    }
    wanted = {"log_prob(x)": [len(x)]}
    for what, ask in asked.items():
        with theirs(functools.partial(_lacks, what, name)):
            answer = ask()
        shape = wanted.get(what, list(x.shape))
        if list(answer.shape) != shape:
            raise UsageError(
                f"decode: expected {what} of p(x|z) of shape {shape}, got {list(answer.shape)} from {name}; wrap "
                "the dimensions of a datum in torch.distributions.Independent"
            )
    if not bool(torch.isfinite(answer).any()) or bool(torch.isnan(answer).any()):
        raise NumericalError(
            f"decode: log p(x|z) is {float(answer[~torch.isfinite(answer)][0]):g} at training rows and their own z; "
            "check that the rows are scaled as in training, and that the weights are finite"
        )


def _lacks(what: str, name: str, error: BaseException) -> str:
    return (
        f"decode: expected a p(x|z) with {what}, and that of {name} fails ({type(error).__name__}: "
        f"{str(error) or 'not implemented'}); give another torch Distribution, or a subclass that has it"
    )


def check_same(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> None:
    """Refuse a log p(x|z) that is another one at the next call.

    Raises:
        UsageError: it is.
    """
    finite = torch.isfinite(one)
    apart, near = (one.double() - other.double())[finite].abs(), one[finite].double()
    changed = not torch.equal(finite, torch.isfinite(other))
    if changed or (len(near) and float(apart.max()) > SAME * (1 + float(near.std(correction=0)))):
        raise UsageError(
            "decode: log p(x|z) of the same rows at the same z differs between two calls: dropout is on, or the "
            "decoder draws something. Put the networks that it computes with into evaluation mode: model.eval()"
        )


def check_shares(p: Distribution, x: Float[Tensor, "n *datum"]) -> None:
    """Refuse the outputs of a softmax for what is none: log-rates or logits, or means of rows that are no shares.

    Log-rates and logits of a trained decoder do not add up to 1 in every row. Means do where rows do (Dirichlet,
    one-hot); else the p(x|z) is of shares, and the rows are not.

    Raises:
        UsageError: they are shares.
    """
    inner, total = plain(p), x.double().flatten(1).sum(1)
    said = {"means": p.mean} if float((total - 1).abs().median()) > NO_SHARES else {}
    if isinstance(inner, Bernoulli):
        said["logits"] = inner.logits
    elif isinstance(inner, Poisson):
        said["log-rates"] = inner.rate.log()
    name = next((name for name, values in said.items() if _shares(values)), None)
    if name is None:
        return
    low, high = float(total.min()), float(total.max())
    way = "give the rows divided by their sums, if the networks were trained on such, or the likelihood of the loss"
    if bool(((x >= 0) & (x == x.round())).all()):
        way = f"give likelihood=lambda p: torch.distributions.Multinomial({high:.0f}, probs=p)"
        if low < high:
            way = (
                "give p(x|z) the total of each row: conditions={split: x.sum(1)}, encoder=lambda x, c: encoder(x), and "
                "decoder=lambda z, c: Independent(Poisson(c[:, None] * decoder(z)), 1), of torch.distributions"
            )
    raise UsageError(
        f"decode: the {name} of p(x|z), {type(inner).__name__}, add up to 1 in each of {len(x)} rows, as behind a "
        f"softmax, and the rows add up to {low:.3g} to {high:.3g}: these are shares; {way}. check=False leaves "
        "this out"
    )


def _shares(values: Tensor) -> bool:
    """Whether the numbers of every row are from 0 to 1 and add up to 1."""
    rows = values.detach().double().flatten(1)
    fit = float(rows.min()) >= -SUM and float((rows.sum(1) - 1).abs().max()) <= SUM
    return rows.shape[1] >= FEWEST and fit


def check_reconstructions(made: Float[Tensor, "n *datum"], x: Float[Tensor, "n *datum"]) -> None:
    """Refuse reconstructions that are farther from their rows than the mean of all rows is.

    No VAE that was trained on such rows does so, not even one whose decoder ignores z and answers medians. It is what
    swapped answers, inverted or otherwise scaled rows, and probabilities taken for logits come to.

    Raises:
        UsageError: they are clearly farther.
    """
    x, made = x.double().flatten(1), made.double().flatten(1)
    missed, best = (x - made).square().mean(1), (x - x.mean(0)).square().mean(1)
    gap = missed - best
    if len(x) < 2 or clear(gap) is None:
        return
    rms, plain = float(missed.mean().sqrt()), float(best.mean().sqrt())
    outside = beyond(made, x)
    if not rms > FARTHER * plain and not outside > BEYOND:
        return
    hint = _hint(made, x)
    if outside > BEYOND:
        hint = (
            f"{outside:.0%} of their values are far outside those of the rows: they go from {float(made.min()):.3g} to "
            f"{float(made.max()):.3g}, and rows from {float(x.min()):.3g} to {float(x.max()):.3g}. {hint}"
        )
    raise UsageError(
        f"reconstructions of {len(x)} training rows miss them by {rms:.3g} (root mean square), and the mean of these "
        f"rows by only {plain:.3g}: encoder, decoder, likelihood and rows do not belong together. {hint}. check=False "
        "leaves this out"
    )


def _hint(made: Float[Tensor, "n d"], x: Float[Tensor, "n d"]) -> str:
    """What may be wrong with reconstructions that do not belong to the rows."""
    like = looks_like(made, x)
    if like:
        return f"They look like {like} of the rows: if the networks were trained on {like}, give the rows so"
    if float(x.min()) >= 0 and float(x.max()) <= 1 and -1 <= float(made.min()) < BELOW and float(made.max()) <= 1:
        return (
            "The decoder seems to answer values from -1 to 1, as behind a tanh: the rows were probably from -1 to 1 in "
            "training; then give them so (2x - 1)"
        )
    return (
        "See whether the encoder's two answers are in the order (mean, scale), the rows scaled as in training, and the "
        "decoder's output what the likelihood takes (logits or probabilities)"
    )


def beyond(made: Float[Tensor, "n d"], x: Float[Tensor, "n d"]) -> float:
    """The share of values that lie outside the range of all values of the rows by more than a tenth of it."""
    low, high = float(x.min()), float(x.max())
    slack = (high - low) / 10
    return float(((made < low - slack) | (made > high + slack)).double().mean())


def looks_like(made: Float[Tensor, "n *datum"], x: Float[Tensor, "n *datum"]) -> str | None:
    """The scaling of the rows that reconstructions are much nearer to than to the rows; None where there is none."""
    missed = float((x - made).square().mean().sqrt())
    off = {}
    for name, f in SCALINGS.items():
        other = f(x)
        error = float((other - made).square().mean().sqrt())
        if missed > LIKE * error and error < float((other - other.mean(0)).square().mean().sqrt()):
            off[name] = error
    return min(off, key=lambda name: off[name]) if off else None


def differentiable(decode: Decode, x: Float[Tensor, "n *datum"], mean: Float[Tensor, "n d"]) -> bool:
    """Whether log p(x|z) has a gradient in z: what posterior modes, annealing and some kinds ask for."""
    with torch.enable_grad():
        z = mean[:2].detach().clone().requires_grad_()
        try:
            value = decode(z).log_prob(x[:2]).sum()
        except Exception:  # e.g. numpy cannot take a tensor with a gradient
            return False
        return bool(value.requires_grad)


def encodes_with_gradient(encode: Callable[[Tensor], tuple[Tensor, ...]], x: Float[Tensor, "n *datum"]) -> bool:
    """Whether the mean of q(z|x) has a gradient in x: what the kind `vamp` asks for."""
    with torch.enable_grad():
        try:
            return encode(x[:2].detach().clone().requires_grad_())[0].requires_grad
        except Exception:  # e.g. numpy cannot take a tensor with a gradient
            return False


def _words(constraint: object) -> str:
    known = {
        id(constraints.boolean): "0 and 1",
        id(constraints.unit_interval): "0 to 1",
        id(constraints.nonnegative_integer): "whole numbers from 0 up",
        id(constraints.positive): "numbers above 0",
        id(constraints.nonnegative): "numbers from 0 up",
        id(constraints.simplex): "rows from 0 to 1 that add up to 1",
    }
    return known.get(id(constraint), str(constraint))


def other_prior(
    mean: Float[Tensor, "n d"], scale: Float[Tensor, "n *form"], *, ordered: bool = True
) -> tuple[str, ...]:
    """Whether codes look as if the VAE was trained with another prior than N(0, I), in a sentence.

    Where the KL to N(0, I) is at its minimum under a rescaling of the latents, as it is after training, the mean of
    mu^2 + sigma^2 is 1 in each dimension (docs/theory.md, section 4).

    Args:
        mean: of q(z|x) of some rows.
        scale: standard deviations, or Cholesky factors.
        ordered: whether the two are known not to be swapped, which is looked at first else.
    """
    variance = scale.double().square()
    variance = variance.sum(2) if variance.ndim == 3 else variance
    second = (mean.double().square() + variance).mean(0)
    away = float(second.log().abs().mean().exp())
    if not away > WIDE:
        return ()
    order = "see first whether the encoder's two answers are in the order (mean, spread), and swap them if not; "
    return (
        f"the mean of mu^2 + sigma^2 goes from {float(second.min()):.3g} to {float(second.max()):.3g} over the "
        f"{len(second)} latents, and is about 1 in each after training with the prior N(0, I): "
        f"{'' if ordered else order}if the VAE has another prior (a VampPrior, a mixture, another scale), give it as "
        "prior=; every gain and the verdict are over it",
    )
