"""A prior p(z|c) as a function of conditions, and spreads in units of it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zprime.bring.coordinates import Coordinates
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError

Gaussians = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Conditions -> means and standard deviations of p(z|c), [n, d] each, float64."""

NARROWER: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "std": lambda raw, width: raw / width,
    "variance": lambda raw, width: raw / width.square(),
    "log-variance": lambda raw, width: raw - 2 * width.log(),
    "log-std": lambda raw, width: raw - width.log(),
}
"""What a spread is in units of a prior, for each way of giving it."""


def one_or_each(prior: Any, conditions: object) -> tuple[LatentDistribution | Distribution | None, Gaussians | None]:
    """A prior as it is given: one distribution for all rows, or a function of their conditions.

    Raises:
        UsageError: a function, and no conditions.
    """
    if isinstance(prior, LatentDistribution | Distribution) or not callable(prior):
        return prior, None
    if conditions is None:
        raise UsageError("prior: expected one distribution, got a function; give the conditions that it takes, too")
    return None, gaussians(prior)


def gaussians(prior: Callable[[Tensor], Any]) -> Gaussians:
    """Means and standard deviations of p(z|c), float64, from a function that answers a torch Distribution.

    Raises:
        UsageError (when it is asked): it answers something else than Gaussians of independent dimensions.
    """

    def ask(c: Tensor) -> tuple[Tensor, Tensor]:
        p = prior(c)
        while isinstance(p, Independent):
            p = p.base_dist
        if not isinstance(p, Normal) or p.loc.ndim != 2 or p.loc.shape[0] not in (1, c.shape[0]):
            raise UsageError(
                "prior: expected a function from conditions to torch Normal distributions of shape [n, d] (in "
                f"Independent, or not), got {type(p).__name__}; a p(z|c) of another form is not supported"
            )
        loc, scale = p.loc.detach().double().cpu(), p.scale.detach().double().cpu()
        return loc.expand(c.shape[0], -1), scale.expand(c.shape[0], -1)

    return ask


def of_prior(at: Coordinates) -> str:
    """What to know of a p(z|c), by those of some rows."""
    return (
        f"the prior is p(z|c), with means up to {float(at.loc.abs().max()):.3g} and standard deviations from "
        f"{float(at.scale.min()):.3g} to {float(at.scale.max()):.3g}: latents are shown in units of it, "
        "(z - loc(c)) / scale(c), where it is N(0, I); what is fitted there is an r(z|c) that shifts with c as the "
        "prior does; mine.compare measures an r(z) that ignores c beside it"
    )
