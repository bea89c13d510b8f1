"""Multinomial logistic regression, to its optimum: behind the classifier test, and the student of synthetic rows."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.errors import NumericalError

RIDGE = 0.01
STEPS = 100


def fit_logistic(
    x: Float[Tensor, "n f"], y: Int[Tensor, " n"], classes: int, *, ridge: float = RIDGE, tolerance: float = 1e-9
) -> Float[Tensor, "g c"]:
    """Weights [f + 1, classes] that minimise the mean cross-entropy + ridge/2 |weights|^2, the intercept left free.

    The optimum is unique up to a shift of all columns, which add up to 0 here: nothing depends on how long it was
    trained. It is scikit-learn's `LogisticRegression(C=1 / (n * ridge))`; of two classes, theirs with C twice that,
    since they penalise the difference of the columns. By Newton's method with halved steps, each by conjugate gradients
    (no Hessian is formed, so 784 features of ten classes will do), in float64.

    Args:
        x: features.
        y: labels, 0 to classes - 1.
        classes: how many there are.
        ridge: of all weights but the intercept.
        tolerance: of the gradient's largest entry.

    Raises:
        NumericalError: no convergence in 100 steps.
    """
    problem = _Problem(x.double(), y, classes, ridge)
    weight = torch.zeros(classes - 1, x.shape[1] + 1, dtype=torch.float64)
    now, p = problem.loss(weight)
    for _ in range(STEPS):
        gradient = problem.gradient(weight, p)
        if float(gradient.abs().max()) < tolerance:
            return problem.spread(weight)
        step = conjugate_gradients(partial(problem.curve, p=p), gradient)
        size = 1.0
        while size > 1e-6 and float((after := problem.loss(weight - size * step))[0]) > float(now):
            size /= 2
        if size <= 1e-6:
            return problem.spread(weight)  # as low as double precision can tell
        weight, (now, p) = weight - size * step, after
    raise NumericalError(
        f"logistic regression: no convergence in {STEPS} Newton steps ({len(x)} rows, {x.shape[1]} features); are some "
        "features very much larger than others?"
    )


def predict_logistic(weight: Float[Tensor, "g c"], x: Float[Tensor, "n f"]) -> Int[Tensor, " n"]:
    """The likeliest class of every row."""
    return (x.to(weight.dtype) @ weight[:-1] + weight[-1]).argmax(1)


class _Problem:
    """Loss and derivatives in the weights [classes - 1, f + 1] of all classes but the last, whose scores are 0.

    Classes come first throughout: with the few of them in rows, products with x take a third of the time. Weights that
    add up to 0 over classes have the least norm of all that give the same probabilities: |W|^2 - |1 W|^2 / C.
    """

    def __init__(self, x: Tensor, y: Tensor, classes: int, ridge: float) -> None:
        self.x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        self.y = y
        self.hot = torch.nn.functional.one_hot(y, classes)[:, :-1].T.double()
        self.ridge = torch.full((self.x.shape[1],), ridge, dtype=torch.float64)
        self.ridge[-1] = 0.0
        self.norm = torch.eye(classes - 1, dtype=torch.float64) - 1 / classes

    def loss(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the probabilities of all classes but the last, [classes - 1, n]."""
        score = w @ self.x.T
        log_p = torch.log_softmax(torch.cat([score, torch.zeros(1, len(self.x), dtype=score.dtype)]), 0)
        penalty = 0.5 * (w * self._penalty(w)).sum()
        return penalty - log_p.gather(0, self.y[None]).mean(), log_p[:-1].exp()

    def gradient(self, w: Tensor, p: Tensor) -> Tensor:
        out: Tensor = (p - self.hot) @ self.x / len(self.x) + self._penalty(w)
        return out

    def curve(self, v: Tensor, p: Tensor) -> Tensor:
        """Hessian times a direction."""
        u = p * (v @ self.x.T)
        out: Tensor = (u - p * u.sum(0)) @ self.x / len(self.x) + self._penalty(v)
        return out

    def _penalty(self, w: Tensor) -> Tensor:
        out: Tensor = self.norm @ w * self.ridge
        return out

    def spread(self, w: Tensor) -> Tensor:
        """Columns of all classes, which add up to 0: [f + 1, classes]."""
        every = torch.cat([w, torch.zeros(1, w.shape[1], dtype=w.dtype)]).T
        return (every - every.mean(1, keepdim=True)).contiguous()


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, *, most: int = 200) -> Tensor:
    """Solve A x = right for a positive definite A that is known by its products (Hestenes & Stiefel 1952).

    As exactly as a step of Newton's method needs: to a residual of min(1/2, |right|^1/2) of the right-hand side (Dembo
    et al. 1982), in 200 products at most.
    """
    x = torch.zeros_like(right)
    left = right.clone()
    direction = left.clone()
    size = float(left.square().sum())
    goal = size * min(0.25, size**0.5)
    for _ in range(most):
        image = product(direction)
        length = size / float((direction * image).sum())
        x += length * direction
        left -= length * image
        before, size = size, float(left.square().sum())
        if size <= goal:
            break
        direction = left + size / before * direction
    return x
