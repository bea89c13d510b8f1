"""Encoders' answers as people write them: tuples, dicts, dataclasses, distributions; which part is what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from zprime.bring import readings
from zprime.errors import ArrayError, UsageError

MEANS = ("mean", "mu", "loc", "means", "z_mean", "z_mu", "z_loc", "mu_z", "mean_z", "embedding")
"""What codebases call the mean of q(z|x)."""
SPREADS: Mapping[str, str] = {
    **dict.fromkeys(("logvar", "log_var", "log_variance", "log_covariance", "z_logvar", "z_log_var"), "log-variance"),
    **dict.fromkeys(("logvar_z", "log_var_z", "logv", "lv"), "log-variance"),
    **dict.fromkeys(("log_std", "logstd", "log_sigma", "logsigma", "log_scale", "z_log_std"), "log-std"),
    **dict.fromkeys(("std", "sigma", "scale", "stddev", "z_std", "z_scale", "z_sigma"), "std"),
    **dict.fromkeys(("var", "variance", "z_var", "z_variance"), "variance"),
    **dict.fromkeys(("scale_tril", "z_scale_tril"), "scale_tril"),
    **dict.fromkeys(("covariance_matrix", "covariance", "cov"), "covariance"),
}
"""What they call its spread -> the reading."""
MATRIX = 2  # dimensions
SPELLINGS: Mapping[str, str] = {
    **{name.replace("_", "").replace("-", ""): reading for name, reading in SPREADS.items()},
    **{name.replace("-", "").replace("_", ""): name for name in (*readings.READINGS, *readings.FULL)},
    "standarddeviation": "std",
    "lnvar": "log-variance",
    "logsigma2": "log-variance",
}


def spelled(gives: object) -> str:
    """The reading that is meant: `logvar`, `log_var` and `log variance` are `log-variance`.

    Raises:
        UsageError: no such reading.
    """
    plain = str(gives).lower()
    for mark in "-_ ":
        plain = plain.replace(mark, "")
    if plain not in SPELLINGS:
        known = ", ".join([*readings.READINGS, *readings.FULL])
        raise UsageError(f"gives: expected one of {known}, got {gives!r}")
    return SPELLINGS[plain]


@dataclass(frozen=True)
class Spelled:
    """An encoder whose answer is taken apart: what comes is a list of mean, spread, and whatever else it answers.

    Attributes:
        encoder: as it was given.
        entries: numbers of one datum, by which a reconstruction before mean and spread is known.
    """

    encoder: Callable[..., Any]
    entries: int

    def __call__(self, x: Tensor, *c: Tensor) -> Any:
        """The parts of the answer, mean and spread first where they are named."""
        return self.named(x, *c)[0]

    def named(self, x: Tensor, *c: Tensor) -> tuple[Any, str | None]:
        """The same, and the reading that the answer's own names say; None where it has no names."""
        answer = self.encoder(x, *c)
        gaussian = _gaussian(answer)
        if gaussian is not None:
            return gaussian
        by_name = _by_name(answer)
        if by_name is None:
            return _without_reconstruction(answer, self.entries), None
        mean = next((n for n in MEANS if n in by_name), None)
        spread = next((n for n in SPREADS if n in by_name), None)
        if mean is None or spread is None:
            raise ArrayError(
                f"encode: expected an answer with a mean (mu, mean, loc, ...) and a spread (logvar, std, scale, ...) "
                f"of q(z|x), got one with {', '.join(by_name) or 'nothing'}; give an encoder that answers "
                "(mean, scale), e.g. lambda x: (encoder(x)['a'], encoder(x)['b'])"
            )
        return [by_name[mean], by_name[spread]], SPREADS[spread]


def reading(gives: object, named: str | None) -> str:
    """What the second answer is: as it is said, or as the answer's own names say.

    Raises:
        UsageError: neither says it, or they contradict each other.
    """
    if gives is None:
        if named is None:
            raise UsageError(
                "gives: expected what the encoder's second answer is (std, variance, log-variance, log-std), got None, "
                "and the answer has no names that say it; codebases differ, and with a wrong reading every number is "
                "wrong"
            )
        return named
    said = spelled(gives)
    if named is not None and named != said:
        raise UsageError(
            f"gives: the encoder's own names say {named}, got {said}; leave gives out, or if the names are wrong give "
            "an encoder that answers the two tensors in a tuple"
        )
    return said


def _gaussian(answer: object) -> tuple[list[Tensor], str] | None:
    """Mean and spread of a torch distribution."""
    q = answer
    while isinstance(q, Independent):
        q = q.base_dist
    if isinstance(q, Normal):
        return [q.loc, q.scale], "std"
    if isinstance(q, MultivariateNormal):
        return [q.loc, q.scale_tril], "scale_tril"
    if isinstance(answer, Distribution):
        raise UsageError(
            f"encode: expected q(z|x) as a Normal or MultivariateNormal, got {type(q).__name__}; bring.draws takes "
            "posteriors of which only draws are known"
        )
    return None


def _by_name(answer: object) -> dict[str, Any] | None:
    """The named parts of an answer, names in lower case; None where it has none."""
    if isinstance(answer, Mapping):
        found = dict(answer)
    elif is_dataclass(answer) and not isinstance(answer, type):
        found = {f.name: getattr(answer, f.name) for f in fields(answer)}
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        found = dict(zip(answer._fields, answer, strict=True))
    else:
        return None
    return {str(k).lower(): v for k, v in found.items()}


def _without_reconstruction(answer: Any, entries: int) -> Any:
    """(recon, mu, logvar), as `forward` of many VAEs answers, without the first; anything else as it is.

    The first is a reconstruction where it has as many numbers as a datum, or more dimensions than the two others.
    """
    if not isinstance(answer, tuple | list) or len(answer) < 3:
        return answer
    first, mean, spread = answer[:3]
    if not all(hasattr(t, "shape") and len(t.shape) >= 2 for t in (first, mean, spread)):
        return answer
    like = tuple(mean.shape) == tuple(spread.shape[: len(mean.shape)])
    datum = int(first[0].reshape(-1).shape[0]) == entries and tuple(first.shape) != tuple(mean.shape)
    wider = len(first.shape) > len(mean.shape) == len(spread.shape) == MATRIX
    return list(answer[1:]) if like and (datum or wider) else answer
