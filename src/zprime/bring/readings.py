"""What an encoder's second answer may mean, and whether a claim about it is plausible."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.errors import ArrayError, UsageError

READINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "std": lambda x: x,
    "variance": lambda x: x.sqrt(),
    "log-variance": lambda x: (0.5 * x).exp(),
    "log-std": lambda x: x.exp(),
}
"""Name -> how to make a standard deviation of it."""

FULL: Mapping[str, Callable[[Tensor], Tensor]] = {
    "scale_tril": lambda x: x,
    "covariance": torch.linalg.cholesky,
}
"""The same for answers of shape [n, d, d]: how to make a Cholesky factor of it."""

CLEARLY = 4.0  # standard errors by which something must be the better one, to say so
REMEDY = "Say gives={other!r}, or check=False if you are sure"
LEAST = 0.1  # nats a row by which it must be so


def read(raw: Tensor, gives: str) -> Tensor:
    """The standard deviations, or Cholesky factors, that an encoder's second answer stands for.

    Raises:
        UsageError: no such reading.
        ArrayError: numbers that cannot be of this reading.
    """
    if gives in FULL:
        try:
            return FULL[gives](raw)
        except RuntimeError as error:
            raise ArrayError("gives: expected covariances, and some are not positive definite") from error
    if gives not in READINGS:
        raise UsageError(f"gives: expected one of {', '.join([*READINGS, *FULL])}, got {gives!r}")
    if gives in ("std", "variance") and bool((raw <= 0).any()):
        raise ArrayError(
            f"gives: a {gives} is above 0, and the encoder's second answer goes down to {float(raw.min()):.3g}; "
            "is it a log-variance? Say gives='log-variance'. Is it the mean, and the first answer the spread? Then "
            f"give an encoder that answers (mean, {gives})"
        )
    return READINGS[gives](raw)


def clear(gap: Float[Tensor, " n"], least: float = 0.0) -> tuple[float, float] | None:
    """Mean of a difference and its standard error, where it is clearly above 0 and above `least`; else None.

    It is not where there are fewer than two rows, or a difference is NaN.
    """
    mean, error = float(gap.mean()), float(gap.std() / len(gap) ** 0.5)
    return (mean, error) if mean > CLEARLY * error and mean > least else None


def possible(raw: Float[Tensor, "n d"]) -> list[str]:
    """The readings that give finite standard deviations above 0."""
    names = []
    for name, f in READINGS.items():
        scale = f(raw)
        if bool((torch.isfinite(scale) & (scale > 0)).all()):
            names.append(name)
    return names


def better(
    raw: Float[Tensor, "n d"], gives: str, elbo: Callable[[Float[Tensor, "n d"]], Float[Tensor, " n"]]
) -> tuple[str, str] | None:
    """Another reading that makes the model's own ELBO clearly better, row by row, and by how much; None without one.

    A VAE was trained to raise its ELBO with the right reading, so a wrong one lowers it: with too small a scale by the
    KL term, with too large a one by the reconstruction.

    Args:
        raw: the encoder's second answer.
        gives: what is claimed.
        elbo: nats a row, for standard deviations; with the same noise at every call.
    """
    claimed = elbo(read(raw, gives))
    found = {}
    for other in possible(raw):
        gap = clear(elbo(READINGS[other](raw)) - claimed, LEAST)
        if gap is not None:
            found[other] = gap
    if not found:
        return None
    best = max(found, key=lambda name: found[name])
    return best, "{:.1f} ± {:.1f}".format(*found[best])


def check(
    raw: Float[Tensor, "n d"],
    gives: str,
    elbo: Callable[[Float[Tensor, "n d"]], Float[Tensor, " n"]],
    *,
    remedy: str = REMEDY,
) -> None:
    """Raise if another reading makes the model's own ELBO clearly better: see `better`.

    `remedy` says what to do about it; `{other}` is the best reading.

    Raises:
        UsageError: another reading is clearly better.
    """
    found = better(raw, gives, elbo)
    if found is not None:
        other, gap = found
        raise UsageError(
            f"gives: read as {gives}, the ELBO of {len(raw)} rows is {gap} nats a row lower than read as {other}; a "
            f"trained VAE has the higher one. {remedy.format(other=other)}"
        )


def code_variance(mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Variance of the aggregated posterior in every dimension: of the means, and the mean of the variances."""
    return mean.double().var(0, correction=0) + scale.double().square().mean(0)


def check_moments(mean: Float[Tensor, "n d"], raw: Float[Tensor, "n d"], gives: str, unit: Float[Tensor, " d"]) -> None:
    """The same without a decoder, by the variance of the aggregated posterior: about that of the prior, unit^2.

    At a stationary point of the ELBO the variance of the means and the mean of the variances add up to it
    (docs/theory.md, section 4); trained VAEs were seen between 0.86 and 1.31. This only catches a gross mistake.

    Raises:
        UsageError: the claimed reading is more than a factor 2 away, and another one within it.
    """

    def away(name: str) -> float:
        return float((code_variance(mean, READINGS[name](raw)) / unit.square()).log().abs().mean().exp())

    factors = {name: away(name) for name in possible(raw)}
    best = min(factors, key=lambda name: factors[name])
    if factors[gives] > 2 and factors[best] < 2:
        raise UsageError(
            f"gives: read as {gives}, the codes' variance is a factor {factors[gives]:.1f} away from the "
            f"prior's, where a trained VAE has about that; read as {best}, a factor {factors[best]:.2f}. Say "
            f"gives={best!r}, or check=False if you are sure"
        )
