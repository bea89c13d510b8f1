"""What mixtures of every K are fitted to and chosen on, and the mixture that a state of EM stands for."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.latent.em import ComponentEM, EMRun, State
from zprime.latent.evidence import Evidence
from zprime.latent.gaussians import Mixture
from zprime.latent.kind import Task
from zprime.latent.selection import Codes, RowScores, best_epsilon
from zprime.posteriors import MemoryPosteriors


@dataclass(frozen=True)
class Reduction:
    """What mixtures of every K are fitted to and chosen on, and the EM runs that were made.

    Attributes:
        em: the posteriors, prepared for EM.
        codes: of the selection split.
        dtype: of the mixtures.
        task: random numbers and progress.
        runs: (K, number of the start) -> run; a run that is there is not made again.
        evidence: of the selection split, for a fit to the evidence.
    """

    em: ComponentEM
    codes: Codes
    dtype: torch.dtype
    task: Task
    runs: dict[tuple[int, int], EMRun] = field(default_factory=dict)
    evidence: Evidence | None = None

    def scored(self, r: Mixture) -> tuple[float, RowScores]:
        """The best share of the prior and the gains with it on the selection split, by what r is fitted to."""
        return best_epsilon(self.codes, r) if self.evidence is None else self.evidence.best(r)


def mixture_of(em: ComponentEM, state: State, dtype: torch.dtype, rows: Float[Tensor, " k"]) -> Mixture:
    """The mixture that a state of EM stands for; `rows` are the effective rows of its components."""
    log_weight, mean, tril = (t.to(dtype) for t in em.finish(state))
    factor = None if state.factor is None else (state.factor * em.unit[:, None]).to(dtype)
    return Mixture(log_weight, mean, tril, float(rows.min()), factor)


def least_rows(data: MemoryPosteriors, r: Mixture) -> float:
    """Effective rows behind the component that has fewest (`ComponentEM.rows`), of a mixture from elsewhere than EM.

    Args:
        data: Gaussians that count alike, one a datum.
        r: with full or diagonal covariances.
    """
    em = ComponentEM(MemoryPosteriors(data.mean.cpu(), data.scale.cpu()), diagonal=r.scale_tril.ndim == 2)
    log_weight, mean, scale = (t.detach().cpu().double() for t in (r.log_weight, r.mean, r.scale_tril))
    unit = scale / (em.unit if em.diagonal else em.unit[:, None])
    covariance = unit.square() if em.diagonal else unit @ unit.mT
    return float(em.rows(State(log_weight, (mean - em.centre) / em.unit, covariance)).min())
