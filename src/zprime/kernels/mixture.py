"""Densities of mixtures of diagonal Gaussians, and what tilting one Gaussian by another makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import LOG_2PI, blocks
from zprime.errors import ArrayError
from zprime.kernels import compiled, far, mixture_compiled, mixture_torch
from zprime.kernels.gaussians import Gaussians

NEAR = 1 << 17  # pairs of posterior and component that are worked on at once, for each thread


class DiagonalMixture:
    """A mixture of diagonal Gaussians, prepared for being evaluated more than once.

    Compiled where it can be (see `zprime doctor`), else in torch, on whatever device the tensors are; both are exact
    and tested to agree. Memory is bounded whatever the number of points and components.
    """

    def __init__(
        self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], log_weight: Float[Tensor, " n"]
    ) -> None:
        """Take means, standard deviations, log-weights (-inf is allowed; nothing is normalised)."""
        self.mean, self.scale, self.log_weight = mean, scale, log_weight
        self._packed: mixture_compiled.Packed | None = None

    def log_prob(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, " m"]:
        """Log sum_k w_k N(z; mean_k, diag(scale_k^2)) in nats, float64; see `mixture_log_prob`."""
        return self._evaluate(z, leave_out, tolerance, score=False)[0]

    def log_prob_and_score(
        self, z: Float[Tensor, "m d"], *, leave_out: Int[Tensor, " m"] | None = None, tolerance: float = 0.0
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m d"]]:
        """The log-density and its gradient in z, `sum_k g_k (mean_k - z) / scale_k^2` with responsibilities g_k."""
        value, gradient = self._evaluate(z, leave_out, tolerance, score=True)
        assert gradient is not None  # asked for
        return value, gradient

    @torch.no_grad()
    def _evaluate(
        self, z: Tensor, leave_out: Tensor | None, tolerance: float, *, score: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not tolerance >= 0:
            raise ArrayError(f"tolerance: expected nats, 0 or more, got {tolerance}")
        gaussians = Gaussians(self.mean, self.scale, self.log_weight)
        given = [z, self.mean, self.scale, self.log_weight, *([] if leave_out is None else [leave_out])]
        if not compiled.usable(*given):
            return mixture_torch.evaluate(z, gaussians, leave_out=leave_out, tolerance=tolerance, score=score)
        if self._packed is None:
            self._packed = mixture_compiled.Packed(gaussians)
        return self._packed.evaluate(z, leave_out=leave_out, tolerance=tolerance, score=score)


class LabelledMixture:
    """A mixture of diagonal Gaussians, each with a label: the sum over the components of each label.

    Components are laid out label by label. That takes as many pairs of points and components as the whole mixture
    does, and every label's sum is as exact as if it were the only one.
    """

    def __init__(
        self,
        mean: Float[Tensor, "n d"],
        scale: Float[Tensor, "n d"],
        log_weight: Float[Tensor, " n"],
        label: Int[Tensor, " n"],
    ) -> None:
        """Take what a `DiagonalMixture` takes, and a label for each component."""
        self.labels: Tensor = torch.unique(label)
        own = [(label == y).nonzero().flatten() for y in self.labels]
        self.parts = [DiagonalMixture(mean[rows], scale[rows], log_weight[rows]) for rows in own]

    def log_prob(self, z: Float[Tensor, "m d"], *, tolerance: float = 0.0) -> Float[Tensor, "m l"]:
        """Log sum of w_k N(z; mean_k, diag(scale_k^2)) over the components of each of `labels`, in nats, float64.

        Their sum is the mixture's density; less that, each is the log-probability of its label given z.
        """
        return torch.stack([part.log_prob(z, tolerance=tolerance) for part in self.parts], 1)


def mixture_log_prob(
    z: Float[Tensor, "m d"],
    mean: Float[Tensor, "n d"],
    scale: Float[Tensor, "n d"],
    log_weight: Float[Tensor, " n"],
    *,
    leave_out: Int[Tensor, " m"] | None = None,
    tolerance: float = 0.0,
) -> Float[Tensor, " m"]:
    """Exact log sum_k w_k N(z; mean_k, diag(scale_k^2)) in nats, float64.

    Sums are in float64. Float32 inputs err by at most 5e-5 nats, float64 inputs by a few roundings. Terms that are
    surely too small to matter are not computed: together they change the log by at most `tolerance` (at 0 by less than
    the error just given).

    Args:
        z: points.
        mean: component means.
        scale: component standard deviations.
        log_weight: log-weights; -inf is allowed.
        leave_out: for every point the position of a component to leave out, or -1; the rest is not renormalised.
        tolerance: nats that the answer may be too small, for speed.
    """
    return DiagonalMixture(mean, scale, log_weight).log_prob(z, leave_out=leave_out, tolerance=tolerance)


def trainable_mixture_log_prob(
    z: Float[Tensor, "m d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], log_weight: Float[Tensor, " n"]
) -> Float[Tensor, " m"]:
    """The same with gradients of any order in everything, for few components: all m n d differences are held at once.

    Computed in the inputs' dtype by the direct form, which does not cancel in float32; in float64 where float32 cannot
    hold the squares.
    """
    u = (z[:, None] - mean) / scale
    constant = log_weight - scale.log().sum(1) - 0.5 * z.shape[1] * LOG_2PI
    log_prob = torch.logsumexp(constant - 0.5 * u.square().sum(2), 1)
    if log_prob.dtype == torch.float64 or bool(torch.isfinite(log_prob).all()):
        return log_prob
    return trainable_mixture_log_prob(z.double(), mean.double(), scale.double(), log_weight.double())


Ratio = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`diagonal_log_ratio`, or a form of it."""


def diagonal_ratio_form(
    mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"], mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]
) -> Ratio:
    """The form of `diagonal_log_ratio` that is right for all of these, to be used block by block."""
    return far.diagonal_log_ratio if far.is_far(mu, s, mean, scale) else _near


def diagonal_log_ratio(
    mu: Float[Tensor, "m d"],
    s: Float[Tensor, "m d"],
    mean: Float[Tensor, "n d"],
    scale: Float[Tensor, "n d"],
) -> Float[Tensor, "m n"]:
    """Log E_q[N(z; mean_k, scale_k^2) / N(z; 0, I)] for q = N(mu_i, s_i^2), every i and k, in nats.

    With A = s^2 + t^2 - s^2 t^2 per dimension, the value is
    `1/2 sum_j { -log A + [mu^2 t^2 + m^2 s^2 - (mu - m)^2] / A }`, and +inf where some A <= 0 (then s > 1 and t > 1).
    Computed in the inputs' dtype for scales from 1e-4 to 1e2 and means up to 1e2 (error in float32 below 1e-4 nats for
    scales from 0.01 to 1, tested), else in float64 and in another arrangement (`far`).

    Raises:
        NumericalError: scales or means beyond about 1e37.
    """
    return diagonal_ratio_form(mu, s, mean, scale)(mu, s, mean, scale)


class Components:
    """Components whose log-ratios to more than a few posteriors are asked for, block by block: laid out once."""

    def __init__(self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> None:
        """Take means and standard deviations."""
        self.mean, self.scale = mean, scale
        self._laid: _Laid | None = None

    def log_ratio(self, form: Ratio, mu: Float[Tensor, "m d"], s: Float[Tensor, "m d"]) -> Float[Tensor, "m n"]:
        """What `form`, of `diagonal_ratio_form`, gives of these posteriors and all components."""
        if form is not _near or not _compilable(mu, s, self.mean, self.scale):
            return form(mu, s, self.mean, self.scale)
        self._laid = self._laid or _Laid.of(self.mean, self.scale)
        return _near_compiled(mu, s, self._laid)


@torch.no_grad()
def _near(mu: Tensor, s: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The form for ordinary codes, one fused pass a dimension, in blocks that stay in cache."""
    if _compilable(mu, s, mean, scale):
        return _near_compiled(mu, s, _Laid.of(mean, scale))
    risky = bool((s > 1).any()) and bool((scale > 1).any())
    # dimensions first: a pass reads numbers that lie side by side, which takes a quarter of the time
    x, v, m, t2 = (t.T.contiguous() for t in (mu, s.square(), mean, scale.square()))
    log_ratio = torch.zeros(len(mu), len(mean), dtype=mu.dtype, device=mu.device)
    at_once = NEAR * torch.get_num_threads() if mu.device.type == "cpu" else log_ratio.numel()
    for rows in blocks(len(mu), max(1, at_once // max(1, len(mean)))):
        _add_near(x[:, rows], v[:, rows], m, t2, log_ratio[rows], risky=risky)
    return log_ratio


def _compilable(*given: Tensor) -> bool:
    """Whether the compiled form takes these posteriors and components."""
    return compiled.usable(*given) and {t.dtype for t in given} == {torch.float32}


@dataclass(frozen=True)
class _Laid:
    """Means and variances of n components with their dimensions first, filled up to whole vector registers."""

    n: int
    centre: Float[Tensor, "d p"]
    variance: Float[Tensor, "d p"]

    @classmethod
    @torch.no_grad()
    def of(cls, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]) -> "_Laid":
        n, d = mean.shape
        padded = -(-n // compiled.module.stretch) * compiled.module.stretch
        centre, variance = torch.zeros(d, padded), torch.ones(d, padded)
        centre[:, :n], variance[:, :n] = mean.T, scale.square().T
        return cls(n, centre, variance)


@torch.no_grad()
def _near_compiled(mu: Tensor, s: Tensor, laid: _Laid) -> Tensor:
    """The same in one pass, with components side by side in vector registers."""
    (m, d), n = mu.shape, laid.n
    out = torch.empty(m, laid.centre.shape[1])
    threads = torch.get_num_threads() if m * n * d > compiled.SMALL else 1
    at_once = max(1, compiled.WORK // max(1, n * d))
    for rows in blocks(m, at_once):
        compiled.module.log_ratio(
            mu[rows].contiguous(), s[rows].square().contiguous(), laid.centre, laid.variance, out[rows], threads
        )
    return out[:, :n]


def _add_near(x: Tensor, v: Tensor, m: Tensor, t2: Tensor, log_ratio: Tensor, *, risky: bool) -> None:
    """Log-ratios of posteriors x [d, b] with variances v, and components m [d, n] with variances t2, into zeros."""
    product: Tensor | None = None
    worst: Tensor | None = None
    d = len(x)
    for j in range(d):
        xj, vj, mj, tj = x[j, :, None], v[j, :, None], m[None, j], t2[None, j]
        # s^2 (1 - t^2) + t^2 is one multiply-add a pair
        a = torch.addcmul(tj, vj, 1 - tj)
        if risky:
            worst = a if worst is None else torch.minimum(worst, a)
        gap = xj - mj
        top = torch.addcmul(mj.square() * vj, xj.square(), tj)
        top.sub_(gap.square_()).div_(a)
        log_ratio.add_(top)
        product = (a.clone() if risky else a) if product is None else product.mul_(a)
        # logs of products of four: one log a group, and no underflow for scales from 1e-4 to 1e2
        if j % 4 == 3 or j == d - 1:
            log_ratio.sub_(product.log_())
            product = None
    log_ratio.mul_(0.5)
    if worst is not None:
        log_ratio.masked_fill_(worst <= 0, torch.inf)
