"""EM on the components themselves where each has a covariance of a few factors and a diagonal.

A mixture of factor analysers (Ghahramani & Hinton 1996) fitted to N posteriors instead of N points. No d x d matrix is
made above 64 dimensions.
"""

from copy import copy
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.latent.em import ComponentEM, State
from zprime.latent.factors import FLOOR, RowsAndNoise, factor_analysis, improved
from zprime.low_rank import LowRank
from zprime.posteriors import MemoryPosteriors

FIRST = 50  # steps of factor analysis from scratch, for the components that EM begins with
STEPS = 4  # steps of it for every component in a step of EM
DENSE = 64  # dimensions up to which it begins with all eigenvectors
LEAST = 1e-30  # responsibilities below add nothing


class FactorEM(ComponentEM):
    """`ComponentEM` for `S_k = F_k F_k^T + diag(v_k)`: a state's covariance is v, beside its factors.

    A component's expected log-density at a datum is its log-density at mu_i less `tr(S_k^-1 diag(s_i^2)) / 2`. Given
    the responsibilities a component is the factor analysis of its own weighted scatter of means and variances. A few
    steps of that, from the factors it has, do not lower the bound (generalised EM).
    """

    def __init__(self, data: MemoryPosteriors, rank: int, *, spread: bool = True) -> None:
        """Take the posteriors and the number of factors; with `spread=False` their means alone, as points."""
        super().__init__(data, diagonal=True, spread=spread)
        self.rank = rank
        # points are Gaussians of the floor's variance, in the bound as in the scatter, or the bound could fall
        self.noise = (self.variance if spread else torch.zeros_like(self.variance)) + self.floor
        # v is kept above a millionth of the narrowest posterior's variance: far below any sum of these
        self.least = FLOOR * self.noise.amin(0)
        # what rows are copied to: memory that is used again is many times faster than new memory
        self._space = torch.empty_like(self.mean)

    def of(self, rank: int) -> "FactorEM":
        """The same data for another number of factors."""
        other = copy(self)
        other.rank = rank
        return other

    def start(self, k: int, *, rng: torch.Generator) -> State:
        """k-means++ seeds with one diagonal covariance; then factor analysis of what falls to each."""
        seeds = super().start(k, rng=rng)
        none = torch.zeros(k, self.d, self.rank, dtype=torch.float64)
        begin = replace(seeds, factor=none)
        return self._maximised(begin, self._terms(begin), scratch=True)

    def step(self, state: State) -> tuple[State, float]:
        """One step of generalised EM; the bound of E_qbar[log r] in nats that the *given* state has."""
        terms = self._terms(state)
        bound = float(self.weight @ torch.logsumexp(terms, 1))
        return self._maximised(state, terms, scratch=False), bound - float(self.unit.log().sum())

    def rows(self, state: State) -> Float[Tensor, " k"]:
        """Kish's effective number of rows of each component."""
        share = torch.softmax(self._terms(state), 1) * self.weight[:, None]
        if self.datum is not None:
            of_data = torch.zeros(int(self.datum.max()) + 1, share.shape[1], dtype=torch.float64)
            share = of_data.index_add_(0, self.datum, share)
        square = share.square().sum(0)
        return torch.where(square > 0, share.sum(0).square() / square, 0.0)

    def _rows(self, at: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """A copy of some means, good until the next one is made."""
        return torch.index_select(self.mean, 0, at, out=self._space[: len(at)])

    def _terms(self, state: State) -> Float[Tensor, "n k"]:
        """Log c_ik: log-weight and expected log-density of every component at every datum."""
        mixture = LowRank(state.log_weight, state.mean, state.covariance.sqrt(), factors(state))
        return mixture.terms(self.mean) - 0.5 * (self.noise @ mixture.precisions.T)

    def _maximised(self, state: State, terms: Float[Tensor, "n k"], *, scratch: bool) -> State:
        """Weights and means in closed form; factors by steps from those of the state, or from scratch.

        Components that hold less than 1e-3 of a datum are dropped.
        """
        share = torch.softmax(terms, 1) * self.weight[:, None]
        total = share.sum(0)
        kept = (total > 1e-3 / self.n).nonzero().flatten().tolist()
        within = (share[:, kept] / total[kept]).T
        means, noises = within @ self.mean, within @ self.noise  # of all at once: the data are read once
        variances, loadings = [], []
        for k, own, mean, noise in zip(kept, within, means, noises, strict=True):
            at = (own > LEAST).nonzero().flatten()
            rows = self._rows(at).sub_(mean).mul_(own[at, None].sqrt())
            scatter = RowsAndNoise(rows, noise)
            if scratch:
                found = factor_analysis(scatter, self.rank, iterations=FIRST, tolerance=1e-6 * self.d, dense=DENSE)
            else:
                found = improved(scatter, (factors(state)[k], state.covariance[k]), floor=self.least, iterations=STEPS)
            loadings.append(found[0])
            variances.append(found[1])
        weight = total[kept]
        log_weight = (weight / weight.sum()).log()
        return State(log_weight, means, torch.stack(variances), torch.stack(loadings))


def factors(state: State) -> Float[Tensor, "k d r"]:
    """The factors of a state that has some."""
    if state.factor is None:
        raise TypeError("expected a state with factors")
    return state.factor
