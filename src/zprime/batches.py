"""What engines such as Ray Data, Spark and Dask call on batches of rows: an encoder, and sums that are merged.

Both can be pickled, take and give NumPy arrays, and start nothing themselves: the engine decides who works on what.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from zprime.arrays import check_finite, cholesky, covariances
from zprime.data.scaling import scaled_rows, stored
from zprime.encoding import is_flow
from zprime.errors import ArrayError, UsageError
from zprime.kernels import Expectation
from zprime.latent.em import ComponentEM, State
from zprime.latent.gaussian import Gaussian
from zprime.latent.gaussians import Mixture
from zprime.posteriors import MemoryPosteriors
from zprime.run_folder import RunFolder

Batch = Mapping[str, np.ndarray] | np.ndarray


@final
class Encode:
    """q(z|x) of a batch of rows: a function that can be pickled, for Ray Data, Spark, Dask and the like.

    Args:
        model: anything with `encode(x) -> (mean, scale)` that can be pickled, e.g. a VAE of zprime.
        column: name of the rows in a batch that is a mapping.
        shift: what is subtracted from rows before they are divided by `scale`: the model takes what is left.
        scale: see `shift`.
    """

    def __init__(
        self, model: Any, *, column: str = "x", shift: Tensor | float = 0.0, scale: Tensor | float = 1.0
    ) -> None:
        if not callable(getattr(model, "encode", None)):
            raise UsageError(f"model: expected an object with encode(x), got {type(model).__name__}")
        if is_flow(model):
            raise UsageError(
                "model: expected one whose q(z|x) is a Gaussian, mean and scale, got a VAE with --posterior flow; "
                "encode its rows by zprime.encode, which writes draws with log q"
            )
        self.model, self.column = model, column
        self.shift, self.scale = (torch.as_tensor(t) for t in (shift, scale))

    @classmethod
    def of_run(cls, run: str | Path, *, column: str = "x") -> "Encode":
        """The encoder of a run, for rows in the units in which its data were stored.

        The workers of the engine need not see the folder: weights and scaling are in the function.

        Raises:
            ArtifactError: no run, or one without a model.
            UsageError: its rows are binarised or hold conditions, or its model is code of the user's own.
        """
        folder = RunFolder.open(run)
        settings = folder.data.config["settings"]
        for name in ("binarise", "conditions"):
            if settings.get(name):
                raise UsageError(
                    f"run: expected rows that one batch says all of, got a run with {name}; scale the rows as the "
                    "model takes them, and give zprime.Encode(model) the model"
                )
        scaling = folder.scaling()
        return cls(folder.encoding(), column=column, shift=scaling["shift"], scale=scaling["scale"])

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Encode a batch; a torch module is in evaluation mode meanwhile.

        Args:
            batch: rows [n, *datum], or none; or a mapping that has them under `column`, whose other entries are given
                back.

        Returns:
            `mean`, shape [n, d], `scale`, standard deviations [n, d] or Cholesky factors [n, d, d], and what else the
            batch held.

        Raises:
            ArrayError: no such column, rows that are not finite numbers, or an encoder that gave what is no posterior.
        """
        others = {name: v for name, v in batch.items() if name != self.column} if isinstance(batch, Mapping) else {}
        if isinstance(batch, Mapping) and self.column not in batch:
            raise ArrayError(f"batch: expected a column {self.column!r}, got {', '.join(map(repr, batch)) or 'none'}")
        x = stored(np.asarray(batch[self.column] if isinstance(batch, Mapping) else batch))
        check_finite("batch", x)
        shift, scale = (t.expand(x.shape[1:]) for t in (self.shift, self.scale))
        with _evaluating(self.model):
            mean, scale = self.model.encode(scaled_rows(x, torch.arange(len(x)), shift, scale))
        if len(x):
            MemoryPosteriors(mean, scale)  # refuses what is no posterior, with row and dimension
        return {**others, "mean": mean.cpu().numpy(), "scale": scale.cpu().numpy()}


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Let every part of a torch module be in evaluation mode: in training mode its answers may be random."""
    parts = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for m in parts:
        m.training = False
    try:
        yield
    finally:
        for m in parts:
            m.training = True


@final
@dataclass(frozen=True, eq=False)
class Sums:
    """Sufficient statistics of posteriors, which add up: `Sums.of(a) + Sums.of(b)` is `Sums.of` all rows together.

    They are sent in place of rows: `8 (d^2 + d)` bytes, and for a step of EM `8 K (d^2/2 + 3 d/2 + 1)` more, however
    many rows they stand for. Sums in another order differ in the last digits of float64.

    Attributes:
        count: rows.
        mean: shape [d]: of the rows' means.
        scatter: shape [d, d]: sum over rows of `R_i + (mu_i - mean)(mu_i - mean)^T`, R_i the covariance of row i.
        mixture: that `statistics` belong to; None where there are none.
        statistics: shape [k, f]: sums of a step of EM, in units of the mixture: second moments, means, weight.
        bound: sum over rows of the log of the sum over components, the bound that EM raises, in nats.
    """

    count: float
    mean: np.ndarray
    scatter: np.ndarray
    mixture: Mixture | None = None
    statistics: np.ndarray | None = None
    bound: float = 0.0

    @classmethod
    def of(cls, mean: Any, scale: Any, mixture: Mixture | None = None) -> "Sums":
        """Of some rows; those of none change nothing that they are added to.

        Args:
            mean: shape [n, d]: means of q(z|x), an array or a tensor.
            scale: shape [n, d], standard deviations, or [n, d, d], lower triangular Cholesky factors.
            mixture: take the sums of a step of EM from this mixture too; the same for all sums that are merged.

        Raises:
            ArrayError: these are no posteriors.
            UsageError: the mixture has another dimension, or covariances of low rank.
        """
        mean, scale = (_tensor(name, t).double().cpu() for name, t in (("mean", mean), ("scale", scale)))
        if mean.ndim == 2 and not len(mean) and not len(scale):
            d = mean.shape[1]
            return cls(0.0, np.zeros(d), np.zeros((d, d)), mixture)
        rows = MemoryPosteriors(mean, scale)
        centre = rows.mean.mean(0)
        gap = rows.mean - centre
        scatter = gap.T @ gap + covariances(rows.mean, rows.scale).sum(0)
        plain = cls(float(rows.n), centre.numpy(), scatter.numpy())
        if mixture is None:
            return plain
        statistics, bound = _Step(mixture, rows.d, rows.n).sums(rows)
        return cls(plain.count, plain.mean, plain.scatter, mixture, statistics.numpy(), bound)

    def __add__(self, other: "Sums") -> "Sums":
        """Of the rows of both.

        Raises:
            ArrayError: their dimensions differ, or their mixtures.
        """
        if not isinstance(other, Sums):
            return NotImplemented
        if self.mean.shape != other.mean.shape or not _same(self.mixture, other.mixture):
            raise ArrayError(
                f"sums: expected the same dimension and mixture, got {_said(self)} and {_said(other)}; make both with "
                "the same call of Sums.of"
            )
        if not self.count or not other.count:
            return self if self.count else other
        count, gap = self.count + other.count, other.mean - self.mean
        between = np.outer(gap, gap) * (self.count * other.count / count)
        both = None if self.statistics is None or other.statistics is None else self.statistics + other.statistics
        return Sums(
            count,
            self.mean + gap * (other.count / count),
            self.scatter + other.scatter + between,
            self.mixture,
            both,
            self.bound + other.bound,
        )

    def __radd__(self, other: object) -> "Sums":
        """For the built-in `sum`, which begins with 0."""
        return self if other == 0 else NotImplemented

    def gaussian(self) -> Gaussian:
        """The Gaussian closest to the aggregated posterior: `fit("gaussian")` of all rows, in float64.

        Raises:
            ArrayError: these are the sums of no rows.
            NumericalError: the covariance is singular.
        """
        if not self.count:
            raise ArrayError("sums: expected those of at least one row, got those of none; encode some rows")
        covariance = torch.from_numpy(self.scatter / self.count)
        return Gaussian(torch.from_numpy(self.mean), cholesky("sums", covariance), least_rows=self.count)

    def mixture_step(self) -> tuple[Mixture, float]:
        """The mixture after a step of EM, and the bound of E_q[log r] that the mixture before it has, in nats a row.

        Components that hold less than a thousandth of a row are dropped. `least_rows` of the mixture is the smallest
        sum of responsibilities, which is no more than Kish's effective number of rows.

        Raises:
            UsageError: these sums were made without a mixture, or of no rows.
        """
        if self.mixture is None or self.statistics is None:
            raise UsageError(
                "mixture: expected sums of a step of EM, got none; make them with Sums.of(..., mixture) of rows"
            )
        em = _Step(self.mixture, len(self.mean), int(self.count))
        statistics = torch.from_numpy(self.statistics / self.count)
        log_weight, mean, tril = em.finish(em.maximise(statistics))
        rows = statistics[:, -1] * self.count
        return Mixture(log_weight, mean, tril, float(rows[rows > 1e-3].min())), self.bound / self.count


class _Step(ComponentEM):
    """A step of EM whose units are those of a mixture, not those of the data: the same for every batch."""

    def __init__(self, mixture: Mixture, d: int, n: int) -> None:
        if mixture.factor is not None or mixture.d != d:
            form = "covariances of low rank" if mixture.factor is not None else f"{mixture.d} dimensions"
            raise UsageError(f"mixture: expected full or diagonal covariances in {d} dimensions, got {form}")
        mean, tril = mixture.mean.double(), mixture.scale_tril.double()
        self.n, self.d, self.diagonal, self.floor = n, d, tril.ndim == 2, 1e-12
        weight = mixture.log_weight.double().softmax(0)
        own = tril.square() if self.diagonal else covariances(mean, tril)
        variance = own if self.diagonal else own.diagonal(dim1=1, dim2=2)
        self.centre = weight @ mean
        self.unit = (weight @ (variance + (mean - self.centre).square())).sqrt()
        scaled = own / self.unit.square() if self.diagonal else own / (self.unit[:, None] * self.unit)
        self.state = State(weight.log(), (mean - self.centre) / self.unit, scaled)

    def sums(self, rows: MemoryPosteriors) -> tuple[Tensor, float]:
        """Sums of weight times responsibility times features over some rows, and the bound's."""
        mean, full = (rows.mean - self.centre) / self.unit, rows.form == "full"
        scale = rows.scale / (self.unit[:, None] if full else self.unit)
        whole = full and not self.diagonal
        own = covariances(mean, scale)[:, self.upper[0], self.upper[1]] if whole else _variance(mean, scale)
        data = Expectation(mean, own, diagonal=self.diagonal, full=whole)
        statistics, bound = data.statistics(torch.ones(rows.n, dtype=torch.float64), self._weights(self.state))
        return statistics, bound + rows.n * self._constant

    def maximise(self, statistics: Tensor) -> State:
        """Moments of each component from its sums."""
        return self._maximise(statistics)


def _variance(mean: Tensor, scale: Tensor) -> Tensor:
    return scale.square() if scale.ndim == 2 else scale.square().sum(2)


def _tensor(name: str, given: Any) -> Tensor:
    """An array as a tensor of floating-point numbers.

    Raises:
        ArrayError: it is none of numbers.
    """
    try:
        found = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise ArrayError(f"{name}: expected an array of numbers, got {type(given).__name__} ({error})") from error
    return found if found.is_floating_point() else found.float()


def _same(a: Mixture | None, b: Mixture | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or a.tensors().keys() != b.tensors().keys():
        return False
    return all(torch.equal(t, b.tensors()[name]) for name, t in a.tensors().items())


def _said(sums: Sums) -> str:
    mixture = "none" if sums.mixture is None else sums.mixture.label
    return f"{len(sums.mean)} dimensions with mixture {mixture}"
