"""Multinomial logistic regression, to its optimum: the student that is trained on synthetic rows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGE = 0.01
STEPS = 300
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the gradient's largest entry


def fit_logistic(
    x: Float[Tensor, "n f"], y: Int[Tensor, " n"], classes: int, *, ridge: float = RIDGE
) -> Float[Tensor, "g c"]:
    """Weights [f + 1, classes] that minimise the mean cross-entropy + ridge/2 |weights|^2, the intercept left free.

    The optimum is unique up to a shift of all intercepts: nothing depends on how long it was trained. It is
    scikit-learn's `LogisticRegression(C=1 / (n * ridge))`. By L-BFGS, in the dtype of `x`. Labels are 0 to classes - 1.
    """
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight],
        max_iter=STEPS,
        tolerance_grad=TOLERANCE.get(x.dtype, 1e-4),
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
        history_size=20,
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        out = torch.nn.functional.cross_entropy(x @ weight, y) + 0.5 * ridge * weight[:-1].square().sum()
        out.backward()  # type: ignore[no-untyped-call]
        return out

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach()


def predict_logistic(weight: Float[Tensor, "g c"], x: Float[Tensor, "n f"]) -> Int[Tensor, " n"]:
    """The likeliest class of every row."""
    return (x @ weight[:-1] + weight[-1]).argmax(1)
