"""The E-step of EM on components: responsibilities for Gaussian data, and the sums that the M-step needs."""

import math
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.distributed import Held
from zprime.kernels import compiled

UNIT = 1 << 16
"""Data that are added up apart, so that several processes can; the sums of these are added up in order."""
ROWS = 1024  # at a time, in torch: what a step makes of them stays in cache
KEPT = 1 << 24  # numbers of the features that are kept there: 134 MB


class Expectation:
    """Data N(mu_i, diag(v_i)) as features `[second moments, mu_i, 1]`, of which both halves of an EM step are linear.

    Second moments are the upper triangle of `mu mu^T + diag(v)`, or its diagonal. With parameters W (f x k) entry
    (i, k) of `features W` is log c_ik up to a constant: for component N(m_k, S_k) of weight pi_k
    `log c_ik = log pi_k + log N(mu_i; m_k, S_k) - tr(S_k^-1 diag(v_i)) / 2`. Its responsibility for datum i is
    `c_ik / sum_l c_il`. All in float64, on data that the caller has scaled (expanded squares cancel otherwise).
    Compiled, features are made block by block; in torch they are kept.
    """

    def __init__(
        self,
        mean: Float[Tensor, "n d"],
        variance: Float[Tensor, "n d"] | Float[Tensor, "n f"] | None,
        *,
        diagonal: bool,
        full: bool = False,
        kept: int = KEPT,
    ) -> None:
        """Take the data, float64; without variances they are points.

        With `full`, variances are the upper triangles of covariances, in the order of `upper`. Up to `kept` numbers of
        features are kept in torch.
        """
        self.kept = kept
        self.mean, self.variance, self.diagonal, self.full = mean, variance, diagonal, full
        self.d = mean.shape[1]
        self._divided: tuple[Tensor, Held[tuple[Expectation, Tensor]]] | None = None

    @cached_property
    def upper(self) -> Int[Tensor, "2 f"]:
        """Rows and columns of the upper triangle; not made where covariances are diagonal."""
        return torch.triu_indices(self.d, self.d)

    def statistics(
        self,
        weight: Float[Tensor, " b"],
        parameters: Float[Tensor, "f k"],
        rows: Tensor | None = None,
    ) -> tuple[Float[Tensor, "k f"], float]:
        """Sums of weight times responsibility times features, and the sum of weight times log sum_k c_ik.

        Args:
            weight: of each datum.
            parameters: what the features are multiplied with.
            rows: which data, by position; all if not given.
        """
        if rows is None and len(weight) > UNIT:
            total, bound = self._units(weight).total(_statistics, parameters)
            return total, float(bound)
        if compiled.usable(self.mean) and not self.full:
            every: slice | Tensor = slice(None) if rows is None else rows
            variance = None if self.variance is None else self.variance[every]
            return _compiled(self.mean[every], variance, weight, parameters)
        sums = torch.zeros(*parameters.T.shape, dtype=torch.float64, device=self.mean.device)
        value = 0.0
        for block in blocks(len(weight), ROWS):
            features = self._features(block if rows is None else rows[block])
            value += _accumulate(features, weight[block], parameters, sums)
        return sums, value

    def _units(self, weight: Float[Tensor, " n"]) -> Held[tuple["Expectation", Tensor]]:
        """Parts of the data with their weights, which the processes of a job share; made once for the same weights."""
        if self._divided is None or self._divided[0] is not weight:
            parts = []
            for b in blocks(len(weight), UNIT):
                variance = None if self.variance is None else self.variance[b]
                kept = self.kept * len(weight[b]) // len(weight)
                part = Expectation(self.mean[b], variance, diagonal=self.diagonal, full=self.full, kept=kept)
                parts.append((part, weight[b]))
            self._divided = weight, Held(parts)
        return self._divided[1]

    def shares(
        self, weight: Float[Tensor, " n"], parameters: Float[Tensor, "f k"], datum: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Sums over all data of weight times responsibility, and of the squares of these products.

        Where several entries are parts of one `datum`, their products are added up before they are squared.
        """
        if datum is None and len(weight) > UNIT:
            total, square = self._units(weight).total(_shares, parameters)
            return total, square
        total, square = (torch.zeros(parameters.shape[1], dtype=torch.float64, device=self.mean.device) for _ in "ab")
        if datum is not None:
            of_data = torch.zeros(int(datum.max()) + 1, parameters.shape[1], dtype=torch.float64)
            for block in blocks(len(weight), ROWS):
                share = torch.softmax(self._make(block) @ parameters, 1) * weight[block, None]
                of_data.index_add_(0, datum[block], share)
            return of_data.sum(0), of_data.square().sum(0)
        for block in blocks(len(weight), ROWS):
            share = torch.softmax(self._make(block) @ parameters, 1) * weight[block, None]
            total += share.sum(0)
            square += share.square().sum(0)
        return total, square

    def _features(self, rows: slice | Tensor) -> Float[Tensor, "b f"]:
        if self._table is not None:
            return self._table[rows]
        return self._make(rows)

    @cached_property
    def _table(self) -> Float[Tensor, "n f"] | None:
        """The features of all data, where they are not too many: to make them takes half of a step."""
        numbers = len(self.mean) * (1 + self.d + (self.d if self.diagonal else self.upper.shape[1]))
        return self._make(slice(None)) if numbers <= self.kept else None

    def _make(self, rows: slice | Tensor) -> Float[Tensor, "b f"]:
        mu = self.mean[rows]
        second = mu.square() if self.diagonal else self._products(mu)
        if self.variance is not None and self.full:
            second += self.variance[rows]
        elif self.variance is not None:
            own = slice(None) if self.diagonal else self.upper[0] == self.upper[1]
            second[:, own] += self.variance[rows]
        return torch.cat([second, mu, torch.ones_like(mu[:, :1])], 1)

    def _products(self, mu: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Products of two entries, in the order of `upper`; a third of the time that indexing takes."""
        products, at = mu.new_empty(len(mu), self.upper.shape[1]), 0
        for j in range(self.d):
            torch.mul(mu[:, j : j + 1], mu[:, j:], out=products[:, at : at + self.d - j])
            at += self.d - j
        return products


def _statistics(parameters: Tensor, part: tuple[Expectation, Tensor]) -> tuple[Tensor, Tensor]:
    data, weight = part
    total, bound = data.statistics(weight, parameters)
    return total, torch.tensor(bound, dtype=torch.float64)


def _shares(parameters: Tensor, part: tuple[Expectation, Tensor]) -> tuple[Tensor, Tensor]:
    data, weight = part
    return data.shares(weight, parameters)


def _accumulate(features: Tensor, weight: Tensor, parameters: Tensor, total: Tensor) -> float:
    """Add the sums of some data in place; their part of the bound."""
    log_c = features @ parameters
    largest = log_c.amax(1, keepdim=True)
    # in place, with one exponential; below 1e-304 it would be slow, and adds nothing
    c = log_c.sub_(largest).clamp_(min=-700).exp_()
    sums = c.sum(1, keepdim=True)
    total.addmm_(c.mul_(weight[:, None] / sums).T, features)
    return float(weight @ (largest + sums.log())[:, 0])


def _compiled(mean: Tensor, variance: Tensor | None, weight: Tensor, parameters: Tensor) -> tuple[Tensor, float]:
    f, k = parameters.shape
    total, bound = torch.zeros(k, f, dtype=torch.float64), 0.0
    given, parameters = (None if variance is None else variance.contiguous()), parameters.contiguous()
    for rows in blocks(len(mean), max(1 << 14, compiled.WORK // (f * k))):
        few, part = torch.empty(k, f, dtype=torch.float64), mean[rows].contiguous()
        log_total = torch.empty(len(part), dtype=torch.float64)
        threads = torch.get_num_threads() if len(part) * f * k > compiled.SMALL else 1
        own = None if given is None else given[rows]
        compiled.module.expectation(part, own, weight[rows].contiguous(), parameters, few, log_total, threads)
        total += few
        bound += float(weight[rows] @ log_total) * math.log(2)
    return total, bound
