"""Mistakes of a first try: what is named first, and what is named at all."""

import pytest
import torch
from torch import Tensor

from oracles import linear_gaussian
from zprime import bring
from zprime.bring.brought import Brought
from zprime.errors import UsageError
from zprime.likelihoods import Gaussian, Laplace

# A VAE as a summed squared error plus the KL trains it, sigma^2 = 1/2, on rows with much less noise.
MODEL = linear_gaussian(D=12, d=2, var=0.5)


def rows(n: int, seed: int) -> Tensor:
    """Reconstructions miss them by much less than sigma."""
    rng = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(n, 2, generator=rng), torch.randn(n, 12, generator=rng)
    return z @ MODEL.weight.T.float() + MODEL.bias.float() + 0.1 * noise


def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = MODEL.posterior(x.double())
    return mean.float(), 2 * scale.float().log().expand(len(x), 2)


def decoder(z: Tensor) -> Tensor:
    return z @ MODEL.weight.T.float() + MODEL.bias.float()


DATA = {"train": rows(400, 1), "heldout": rows(100, 2)}


def brought(data: dict[str, Tensor] = DATA, **how: object) -> Brought:
    return bring.modules(encoder, decoder, data, **{"gives": "logvar", **how})


@pytest.mark.parametrize(
    ("name", "right", "example"),
    [
        ("gaussian", Gaussian(scale=2**-0.5), r"a summed squared error plus the KL is likelihood=Gaussian"),
        ("laplace", Laplace(scale=1.0), r"a sum of absolute differences plus the KL is likelihood=Laplace"),
    ],
)
def test_a_measured_scale_is_doubted_before_the_reading(name: str, right: object, example: str) -> None:
    """The reading is right, and the scale that was measured is not the one of the loss."""
    assert brought(likelihood=right).posteriors["train"].n == 400
    with pytest.raises(UsageError, match=r"^bring.modules: likelihood: the standard deviation of p\(x\|z\), ") as wrong:
        brought(likelihood=name)
    said = str(wrong.value)
    assert said.index(example) < said.index("only if the measured one is right say gives=".capitalize())
    assert "(with it gives='log-variance' is right)" in said
    assert "binary cross-entropy is likelihood='bernoulli-probs'" in said


def test_a_sigma_that_was_given_is_not_called_measured() -> None:
    with pytest.raises(UsageError, match=r"gives: read as log-variance, .*Say gives='log-std'"):
        brought(likelihood=Gaussian(scale=0.1))
