"""Logistic regression, to its optimum: the student of the classifier test and of train-on-synthetic."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTY = 1.0
STEPS = 200


def fit_logistic(
    x: Float[Tensor, "n f"], y: Int[Tensor, " n"], classes: int, *, penalty: float = PENALTY
) -> Float[Tensor, "g c"]:
    """Weights [f + 1, classes] that minimise the summed cross-entropy + penalty/2 |weights|^2, the intercept left free.

    scikit-learn's `LogisticRegression(C=1/penalty)`, by L-BFGS in float64. Labels are 0 to classes - 1.
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=STEPS, tolerance_grad=1e-7 * len(x), line_search_fn="strong_wolfe", history_size=20
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        out = torch.nn.functional.cross_entropy(x @ weight, y, reduction="sum")
        out = out + 0.5 * penalty * weight[:-1].square().sum()
        out.backward()  # type: ignore[no-untyped-call]
        return out

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach()


def predict_logistic(weight: Float[Tensor, "g c"], x: Float[Tensor, "n f"]) -> Int[Tensor, " n"]:
    """The likeliest class of every row."""
    return (x.double() @ weight[:-1] + weight[-1]).argmax(1)
