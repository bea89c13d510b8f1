"""Frechet distance: between the Gaussians with the moments of two samples, in a named feature space."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.statistics.resampling import GROUPS, Groups, group_of, leave_out

BATCH = 64  # covariances decomposed together
KEPT = 1 << 22  # numbers of covariances that are kept for the next comparison
SECOND_ORDER = 128  # features up to which pairs of groups are left out: 466 decompositions


def frechet(real: Float[Tensor, "n f"], fake: Float[Tensor, "m f"]) -> float:
    """Squared Wasserstein-2 distance of the two moment-matched Gaussians (Dowson & Landau 1982; Heusel et al. 2017).

    It is called FID only in the features of one particular Inception network, which is not used here.
    """
    return float(_statistic(real, fake, 1)(torch.ones(1, 1, dtype=torch.bool)))


def frechet_replicates(
    real: Float[Tensor, "n f"], fake: Float[Tensor, "n f"], *, kept: "Roots | None" = None
) -> Groups:
    """The same with groups of rows left out of both samples together.

    `kept` belongs to the real rows: what others were compared with them before is not computed again.
    """
    small = real.shape[1] <= SECOND_ORDER
    groups = min(GROUPS if small else GROUPS // 3, len(real) // 2)
    return leave_out(_statistic(real, fake, groups, kept), groups=groups, pairs=small and groups == GROUPS)


def _statistic(real: Tensor, fake: Tensor, groups: int, kept: "Roots | None" = None) -> "_Moments | _FewRows":
    """The one that decomposes the smaller matrices."""
    few = max(len(real), len(fake)) < real.shape[1]
    return _FewRows(real, fake, groups) if few else _Moments(real, fake, groups, kept)


class _FewRows:
    """The distance of fewer rows than features: centred rows are the roots of the covariances, [n, m] their product."""

    def __init__(self, real: Tensor, fake: Tensor, groups: int) -> None:
        centre = real.double().mean(0)
        self.rows = [x.double() - centre for x in (real, fake)]
        self.groups = [group_of(len(x), groups) for x in self.rows]

    def __call__(self, keep: Bool[Tensor, "b g"]) -> Float[Tensor, "b 1"]:
        return torch.stack([self._distance(k) for k in keep])[:, None]

    def _distance(self, keep: Bool[Tensor, " g"]) -> Tensor:
        kept = [x[keep[group]] for x, group in zip(self.rows, self.groups, strict=True)]
        means = [x.mean(0) for x in kept]
        a, b = ((x - mean) / (len(x) - 1) ** 0.5 for x, mean in zip(kept, means, strict=True))
        cross = torch.linalg.svdvals(a @ b.T).sum()
        distance: Tensor = (means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
        return distance


class Roots:
    """Moments of one sample with groups left out, by place in their order, and roots of the covariances.

    They depend on the sample and on the groups alone, and take half of the time of a comparison.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def get(self, part: tuple[int, int], make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Means, covariances and their roots of replicates from one on, of so many; made once, if they are small."""
        known = self._of.get(part)
        if known is None:
            mean, covariance = make()
            known = mean, covariance, _root(covariance)
            if part[1] * covariance[0].numel() <= KEPT:
                self._of[part] = known
        return known


class _Moments:
    """Sums over each group, from which every replicate's moments are sums."""

    def __init__(self, real: Tensor, fake: Tensor, groups: int, kept: Roots | None = None) -> None:
        centre = real.double().mean(0)  # moments about a point near both: nothing cancels
        self.sums = [self._sums(x.double() - centre, groups) for x in (real, fake)]
        self.kept = kept or Roots()

    @staticmethod
    def _sums(x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = [x[group_of(len(x), groups) == g] for g in range(groups)]
        count = torch.tensor([float(len(p)) for p in parts], dtype=torch.float64)
        return count, torch.stack([p.sum(0) for p in parts]), torch.stack([p.T @ p for p in parts])

    def __call__(self, keep: Bool[Tensor, "b g"]) -> Float[Tensor, "b 1"]:
        distances = [self._distance(keep[part].double(), (part.start, len(keep))) for part in blocks(len(keep), BATCH)]
        return torch.cat(distances)[:, None]

    def _distance(self, keep: Float[Tensor, "b g"], part: tuple[int, int]) -> Float[Tensor, " b"]:
        real, fake = self.sums
        mean, covariance, root = self.kept.get(part, lambda: self._moments(keep, *real))
        mean2, covariance2 = self._moments(keep, *fake)
        gap = (mean - mean2).square().sum(1)
        trace = (covariance + covariance2).diagonal(dim1=1, dim2=2).sum(1)
        # tr (S1 S2)^1/2 is the sum of the singular values of S1^1/2 S2^1/2: safe for singular covariances
        cross = torch.linalg.svdvals(root.mT @ _root(covariance2)).sum(1)
        distance: Tensor = gap + trace - 2 * cross
        return distance

    @staticmethod
    def _moments(keep: Tensor, count: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        n = (keep @ count)[:, None]
        mean = keep @ first / n
        square = torch.einsum("bg,gij->bij", keep, second)
        return mean, (square - n[:, :, None] * mean[:, :, None] * mean[:, None, :]) / (n[:, :, None] - 1)


def _root(covariance: Float[Tensor, "b f f"]) -> Float[Tensor, "b f f"]:
    """A factor R with R R^T the covariance: Cholesky's, or where rounding leaves none, one of its eigenvectors."""
    root: Tensor
    root, info = torch.linalg.cholesky_ex(covariance)
    lost = info != 0
    if bool(lost.any()):
        values, vectors = torch.linalg.eigh(covariance[lost])
        root[lost] = vectors * values.clamp(min=0).sqrt()[:, None, :]
    return root
