"""Multinomial logistic regression, near its optimum: behind the classifier test, and train-on-synthetic, test-on-real.

Minimised by scipy's trust-region Newton method (`trust-ncg`, with products with the Hessian), in coordinates in which
the Hessian is near to the identity.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.errors import NumericalError

Array = npt.NDArray[np.float64]
RIDGE = 0.01
STEPS = 100
ROUNDED = 1e-7
"""Length of the gradient below which a step lowers the loss by less than the rounding of float64."""
CURVATURE = 0.15
"""Over the number of classes: a typical mean over rows of a class's p (1 - p). Any value gives the same weights."""


def fit_logistic(
    x: Float[Tensor, "n f"],
    y: Int[Tensor, " n"],
    classes: int,
    *,
    ridge: float = RIDGE,
    tolerance: float = 1e-9,
    like: "Axes | None" = None,
) -> Float[Tensor, "g c"]:
    """Weights [f + 1, classes] that minimise the mean cross-entropy + ridge/2 |weights|^2, the intercept left free.

    The optimum is unique up to a shift of all columns, which add up to 0 here: within `tolerance` nothing depends on
    how long it was trained. It is scikit-learn's `LogisticRegression(C=1 / (n * ridge))`; of two classes, theirs with C
    twice that, since they penalise the difference of the columns. Loss and gradient are in float64; no Hessian is made.

    Args:
        x: features.
        y: labels, 0 to classes - 1.
        classes: how many there are.
        ridge: of all weights but the intercept.
        tolerance: of the gradient's length, in the coordinates of `Axes`.
        like: axes of rows of the same kind, found with the same ridge: they have the same optimum, and to find those of
            `x` takes longer than the rest where features are many.

    Raises:
        NumericalError: no convergence in 100 steps.
    """
    from scipy.optimize import minimize

    axes = Axes.of(x, classes, ridge=ridge) if like is None else like
    placed = _Placed.of(x.double(), axes)
    problem = _Problem(placed.u, axes.penalty, y, classes)
    result = minimize(
        problem.loss_and_gradient,
        np.zeros(problem.shape.numel()),
        jac=True,
        hessp=problem.hessian_product,
        method="trust-ncg",
        options={"gtol": tolerance, "maxiter": STEPS, "initial_trust_radius": 10.0},
    )
    # near the optimum the loss falls by less than its rounding, and the trust region stops short of `tolerance`
    if not result.success and np.linalg.norm(result.jac) > max(tolerance, ROUNDED):
        raise NumericalError(
            f"logistic regression: no convergence in {STEPS} Newton steps ({len(x)} rows, {x.shape[1]} features); are "
            "some features very much larger than others?"
        )
    return placed.weights(problem.all_classes(torch.from_numpy(result.x)))


def predict_logistic(weight: Float[Tensor, "g c"], x: Float[Tensor, "n f"]) -> Int[Tensor, " n"]:
    """The likeliest class of every row."""
    return (x.to(weight.dtype) @ weight[:-1] + weight[-1]).argmax(1)


@dataclass(frozen=True)
class Axes:
    """Principal axes of the features, each in a unit in which the loss has a curvature of about 1.

    Curvature along an axis is about a class's mean p (1 - p) times its variance, plus the ridge. Weights outside the
    span of centred rows are 0 at the optimum, so that there are at most n axes.

    Attributes:
        back: weights of the coordinates -> weights of the features.
        penalty: ridge of each coordinate's weight: the same penalty as before; 0 for the constant.
        constant: what stands for the intercept.
    """

    back: Float[Tensor, "f b"]
    penalty: Float[Tensor, " a"]
    constant: float

    @classmethod
    def of(cls, x: Float[Tensor, "n f"], classes: int, *, ridge: float = RIDGE) -> "Axes":
        """Those of these rows."""
        x, curvature = x.double(), CURVATURE / classes
        n, f = x.shape
        centred = x - x.mean(0)
        span: Tensor | None = None
        if n < f:
            span, lower = torch.linalg.qr(centred.T)
            centred = lower.T
        var, axes = torch.linalg.eigh(centred.T @ centred / n)
        unit = (curvature * var.clamp(min=0) + ridge).rsqrt()
        back = axes * unit
        penalty = torch.cat([ridge * unit.square(), torch.zeros(1, dtype=x.dtype)])
        return cls(back if span is None else span @ back, penalty, curvature**-0.5)

    @property
    def whole(self) -> bool:
        """Whether there is one for each feature, so that they do for any rows."""
        return self.back.shape[0] == self.back.shape[1]


@dataclass(frozen=True)
class _Placed:
    """Rows in the coordinates of some axes.

    Attributes:
        u: the coordinates, and a last column of constants.
        centre: of the features.
        axes: the axes.
    """

    u: Float[Tensor, "n a"]
    centre: Float[Tensor, " f"]
    axes: Axes

    @classmethod
    def of(cls, x: Float[Tensor, "n f"], axes: Axes) -> "_Placed":
        centre = x.mean(0)
        last = torch.full((len(x), 1), axes.constant, dtype=x.dtype)
        return cls(torch.cat([(x - centre) @ axes.back, last], 1), centre, axes)

    def weights(self, v: Float[Tensor, "a c"]) -> Float[Tensor, "g c"]:
        """Weights of the features, the intercept last, from those of the coordinates."""
        w = self.axes.back @ v[:-1]
        return torch.cat([w, v[-1:] * self.axes.constant - self.centre @ w])


class _Problem:
    """Loss and derivatives in the weights [classes - 1, a] of all classes but the last, whose scores are 0.

    Classes come first throughout: with the few of them in rows, products with the rows take a third of the time.
    Weights that add up to 0 over classes have the least norm of all that give the same probabilities:
    |W|^2 - |1 W|^2 / C. scipy sees the weights as one flat array, and asks for Hessian products where it asked for the
    loss last. These are in float32: they decide how many steps it takes, not where the gradient is 0. For them the rows
    are kept in both layouts: a product with few rows takes half the time where the long side lies in memory in order.
    """

    def __init__(self, x: Tensor, penalty: Tensor, y: Tensor, classes: int) -> None:
        self.x, self.ridge = x, penalty
        self.short = self.x.float()
        self.across = self.short.T.contiguous()
        self.y = y
        self.hot = torch.nn.functional.one_hot(y, classes)[:, :-1].T.double()
        self.norm = torch.eye(classes - 1, dtype=torch.float64) - 1 / classes
        self.shape = torch.Size([classes - 1, self.x.shape[1]])
        self.at: Array | None = None
        self.p = torch.empty(0)

    def loss_and_gradient(self, flat: Array) -> tuple[float, Array]:
        """The loss and its gradient; keeps the probabilities of all classes but the last, [classes - 1, n]."""
        w = torch.from_numpy(flat).view(self.shape)
        score = w @ self.x.T
        log_p = torch.log_softmax(torch.cat([score, torch.zeros(1, len(self.x), dtype=score.dtype)]), 0)
        penalty = self._penalty(w)
        loss = 0.5 * (w * penalty).sum() - log_p.gather(0, self.y[None]).mean()
        p = log_p[:-1].exp()
        self.at, self.p = flat.copy(), p.float()
        gradient: Tensor = (p - self.hot) @ self.x / len(self.x) + penalty
        return float(loss), gradient.flatten().numpy()

    def hessian_product(self, flat: Array, direction: Array) -> Array:
        """Hessian times a direction."""
        if self.at is None or not np.array_equal(flat, self.at):
            self.loss_and_gradient(flat)
        v = torch.from_numpy(direction).view(self.shape)
        u = self.p * (v.float() @ self.across)
        product: Tensor = ((u - self.p * u.sum(0)) @ self.short).double() / len(self.x) + self._penalty(v)
        return product.flatten().numpy()

    def _penalty(self, w: Tensor) -> Tensor:
        penalty: Tensor = self.norm @ w * self.ridge
        return penalty

    def all_classes(self, flat: Tensor) -> Tensor:
        """Weights of all classes, which add up to 0 over classes: [a, classes]."""
        w = flat.view(self.shape)
        every = torch.cat([w, torch.zeros(1, w.shape[1], dtype=w.dtype)]).T
        return (every - every.mean(1, keepdim=True)).contiguous()
