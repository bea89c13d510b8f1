"""What measures ask of the prior: N(0, I) in closed form, and another one by its own density and draws."""

import pytest
import torch
from torch.distributions import Independent, Normal

from zprime.errors import UsageError
from zprime.latent import Gaussian, Prior
from zprime.measure.prior import prior_kl, prior_log_prob, prior_sample
from zprime.rng import stream

MEAN, SCALE = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 2.0, 1.0]).double()
OTHER = Gaussian(MEAN, SCALE)
Z = torch.randn(4, 5, 3, generator=stream(0, "z"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("prior", "truth"),
    [
        (None, Normal(torch.zeros(3).double(), 1.0)),
        (Prior(3), Normal(torch.zeros(3).double(), 1.0)),
        (OTHER, Normal(MEAN, SCALE)),
    ],
)
def test_density_of_any_prior_at_codes_of_any_shape(prior: Gaussian | None, truth: Normal) -> None:
    torch.testing.assert_close(prior_log_prob(prior, Z), Independent(truth, 1).log_prob(Z))
    torch.testing.assert_close(prior_log_prob(prior, Z[0, 0]), Independent(truth, 1).log_prob(Z[0, 0]))


def test_draws_are_of_the_prior_that_was_given() -> None:
    x = prior_sample(OTHER, (20_000, 3), dtype=torch.float32, rng=stream(0, "draws"))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double().mean(0), MEAN, rtol=0, atol=0.06)
    torch.testing.assert_close(x.double().std(0), SCALE, rtol=0.03, atol=0)
    standard = [prior_sample(p, (5, 3), dtype=torch.float32, rng=stream(0, "draws")) for p in (None, Prior(3))]
    assert torch.equal(*standard)


def test_a_closed_form_of_the_standard_prior_refuses_another() -> None:
    mean, scale = Z[0], torch.rand(5, 3, generator=stream(0, "scale"), dtype=torch.float64)
    truth = torch.distributions.kl_divergence(Normal(mean, scale), Normal(torch.zeros(3).double(), 1.0))
    torch.testing.assert_close(prior_kl(None, mean, scale), truth)
    with pytest.raises(UsageError, match=r"KL\(q\|\|p\).*gaussian"):
        prior_kl(OTHER, mean, scale)
