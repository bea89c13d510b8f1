"""What the verdict by likelihood would be under the standard deviation that reconstructions of unseen rows fit.

A Gaussian p(x|z) weighs rows by its standard deviation. Where it is not the one of the loss that a VAE was trained
with, gains are of another model. The verdict is then reached once more, by the same rule, with the means of p(x|z) as
they are and the standard deviation at which reconstructions of selection rows are most likely: held-out rows, on which
gains are then told, have no part in its choice.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zprime.encoding import Flowing, is_flow
from zprime.likelihoods import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.scores import likelihood_estimate
from zprime.measure.study import Study
from zprime.measure.verdicts.likelihood import by_likelihood
from zprime.posterior_flow import Drawn
from zprime.results.likelihood import OtherScale
from zprime.results.names import PRIOR, CandidateId, Gain
from zprime.results.thresholds import THRESHOLDS
from zprime.results.verdicts import Verdict
from zprime.vae import Model

ROWS = 256
"""Selection rows whose reconstructions are looked at, one draw z ~ q(z|x) of each."""
SAME = 1e-4
"""Standard deviations that differ by less, in parts of one of them, are one."""


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A model with the same encoder and the same means of p(x|z), and another standard deviation.

    Attributes:
        model: as it is.
        likelihood: N(x; mean, scale^2 I).
    """

    model: Model
    likelihood: Gaussian

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """As the model does."""
        return self.model.encode(x)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """With the other standard deviation."""
        mean = self.model.decode(z).mean
        found: Distribution = self.likelihood.to(mean.dtype)(mean)
        return found


@final
@dataclass(frozen=True, eq=False)
class RescaledFlow(Rescaled):
    """The same of a VAE whose posteriors are flows.

    Attributes:
        flow: the model.
    """

    flow: Flowing

    @property
    def form(self) -> str:
        """What q(z|x) is."""
        return self.flow.form

    @property
    def latents(self) -> int:
        """Latent dimension d."""
        return self.flow.latents

    def draw(
        self, x: Float[Tensor, "n *datum"], *, rng: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Drawn:
        """As the model does."""
        return self.flow.draw(x, rng=rng, noise=noise)


def under_other_scale(study: Study, candidates: Candidates, verdict: Verdict) -> OtherScale | None:
    """Reach the verdict again under the other standard deviation, where it is more than 1.5 times as large or small.

    On at most `settings.other_scale` rows of either split, without a repair.

    Args:
        study: what the audit works on.
        candidates: the candidates.
        verdict: as the model is.

    Returns:
        None where p(x|z) is no Gaussian of one standard deviation, reconstructions fit it, there is no likelihood gain,
        or it is left out.
    """
    settings, model = study.settings, study.model
    if model is None or not settings.other_scale or verdict.chosen.gain is not Gain.LIKELIHOOD:
        return None
    scales = fitting_scale(study)
    if scales is None or max(scales) <= THRESHOLDS.other_scale * min(scales):
        return None
    scale, fits = scales
    few = replace(settings, rows=min(settings.rows, settings.other_scale), repair=0)
    likelihood = Gaussian(scale=fits).requires_grad_(requires_grad=False)
    rescaled = RescaledFlow(model, likelihood, model) if is_flow(model) else Rescaled(model, likelihood)
    other = replace(study, model=rescaled, settings=few, search=False)
    _, split_gains, would = by_likelihood(other, candidates)
    best = CandidateId.parse(verdict.best)
    gain = None if verdict.best == PRIOR else likelihood_estimate(split_gains["heldout"], best, study.seed)
    same = (would.decision, would.choice) == (verdict.decision, verdict.choice)
    label = candidates.distribution(best).label
    return OtherScale(scale, fits, label, gain, would.decision, candidates.distribution(_id(would)).label, same)


def _id(verdict: Verdict) -> CandidateId:
    return CandidateId.parse(verdict.choice)


@torch.no_grad()
def fitting_scale(study: Study) -> tuple[float, float] | None:
    """The standard deviation of p(x|z), and the one at which reconstructions of selection rows are most likely.

    None where p(x|z) is no Gaussian with one standard deviation for all entries of all rows.
    """
    split, model = study.selection, study.model
    if model is None or split.rows is None:
        return None
    rng = study.stream("other scale")
    some = split.take(split.posteriors.pick(ROWS, rng=rng))
    if some.rows is None:
        return None
    x = some.rows.x
    z = some.posteriors.mean if some.posteriors.form == "points" else some.posteriors.draw(rng=rng)
    p = model.decode(z.to(x.dtype))
    base = p
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal) or p.mean.shape != x.shape:
        return None
    widths = base.scale.double()
    scale = float(widths.mean())
    if float(widths.max() - widths.min()) > SAME * scale:
        return None
    square = (x - p.mean).double().square().flatten(1).mean(1)
    fits = float(some.design.mean(square)) ** 0.5
    return (scale, fits) if scale > 0 and fits > 0 else None
