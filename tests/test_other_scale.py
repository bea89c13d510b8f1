"""The verdict under the sigma of p(x|z) that reconstructions fit, against the closed form of the linear Gaussian."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, LogNormal, Normal

from oracles import LinearGaussian, linear_gaussian
from studies import study
from test_auditing import SMALL
from zprime.auditing import audit
from zprime.data import Rows
from zprime.latent import Gaussian
from zprime.measure.verdicts.other_scale import fitting_scale
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.explain import explain
from zprime.results.audit import Audit
from zprime.rng import stream
from zprime.vae import Model

MODEL = linear_gaussian(D=12, d=2, var=0.1)
SETTINGS = replace(SMALL, first_draws=SMALL.draws, samples=0, simulated=0, members=0, latent_side=False)


def splits(noise: float, shift: float = 1.0, n: int = 120) -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    """Rows of the model's means with noise of another standard deviation, and what its encoder makes of them."""
    posteriors, rows = {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        rng = stream(i, "other scale")
        z = shift + torch.randn(n, 2, generator=rng, dtype=torch.float64)
        x = z @ MODEL.weight.T + MODEL.bias + noise * torch.randn(n, 12, generator=rng, dtype=torch.float64)
        posteriors[name] = MemoryPosteriors(*MODEL.posterior(x))
        rows[name] = Rows(name, x, torch.arange(n))
    return posteriors, rows


def audited(noise: float, candidate: Gaussian, **changes: int) -> Audit:
    posteriors, rows = splits(noise)
    settings = replace(SETTINGS, **changes)
    return audit({"r": candidate}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)


def normal(mean: float, scale: float) -> Gaussian:
    return Gaussian(torch.full((2,), mean).double(), torch.full((2,), scale).double())


def test_the_gain_under_the_sigma_that_fits_is_that_of_the_closed_form() -> None:
    found = audited(0.7, normal(1.0, 1.0))
    assert found.likelihood is not None
    other = found.likelihood.other_scale
    assert other is not None
    assert other.scale == pytest.approx(0.1**0.5)
    assert 0.55 < other.fits < 0.75
    truth = LinearGaussian(MODEL.weight, MODEL.bias, other.fits**2)
    x = splits(0.7)[1]["heldout"].x[found.tensors["row_ids.heldout"]]
    shifted = truth.log_evidence(x, mean=torch.ones(1, 2).double())
    gain = float((shifted - truth.log_evidence(x)).mean())
    was = LinearGaussian(MODEL.weight, MODEL.bias, MODEL.var)
    as_is = float((was.log_evidence(x, mean=torch.ones(1, 2).double()) - was.log_evidence(x)).mean())
    assert other.gain is not None
    assert other.gain.value == pytest.approx(gain, abs=0.02)
    assert abs(gain - as_is) > 0.04  # so that the other sigma matters
    assert other.gain.n == 60
    assert (other.decision, other.same) == ("leave the prior", True)


def test_the_sentence_stands_where_the_verdict_does() -> None:
    found = audited(0.7, normal(1.0, 1.0))
    says = next(w for w in found.warnings if "reconstructions of selection rows fit one of" in w)
    assert "p(x|z) has a standard deviation of 0.316" in says
    assert "would be the same: leave the prior" in says
    assert "reconstructions of selection rows fit one of" in explain(found)
    assert "reconstructions of selection rows fit one of" not in explain(replace(found, likelihood=None))


def test_a_verdict_that_rests_on_a_wrong_sigma_is_told_to_be_another() -> None:
    posteriors, rows = splits(2.5, shift=0.0)  # the noise looks like spread of the codes
    found = audit({"r": normal(0.0, 2.2)}, posteriors, model=MODEL.vae(), rows=rows, settings=SETTINGS)
    assert found.verdict.decision == "leave the prior"
    assert found.likelihood is not None
    other = found.likelihood.other_scale
    assert other is not None
    assert not other.same
    assert other.decision != "leave the prior"
    assert "would be another" in other.says


def test_held_out_rows_have_no_part_in_the_sigma_that_their_gain_is_told_under() -> None:
    posteriors, rows = splits(0.7)
    found = fitting_scale(study(posteriors, rows, model=MODEL.vae()))
    rows["heldout"] = replace(rows["heldout"], x=3 * rows["heldout"].x)
    assert found == fitting_scale(study(posteriors, rows, model=MODEL.vae()))


def test_where_the_sigma_fits_or_it_is_left_out_nothing_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for noise, changes in ((0.1**0.5, {}), (0.7, {"other_scale": 0})):
        found = audited(noise, normal(1.0, 1.0), **changes)
        assert found.likelihood is not None
        assert found.likelihood.other_scale is None
        assert not any("reconstructions of selection rows fit" in w for w in found.warnings)


def test_it_changes_no_other_number() -> None:
    with_it, without = (audited(0.7, normal(1.0, 1.0), other_scale=n) for n in (300, 0))
    assert all(torch.equal(v, without.tensors[k]) for k, v in with_it.tensors.items())
    assert with_it.verdict == without.verdict


class Other:
    """The model with another p(x|z)."""

    def __init__(self, make: type) -> None:
        self.vae, self.make = MODEL.vae(), make

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.encode(x)

    def decode(self, z: Tensor) -> Distribution:
        p: Distribution = self.make(self.vae.decode(z).mean)
        return p


def uneven(mean: Tensor) -> Distribution:
    return Independent(Normal(mean, torch.linspace(0.1, 0.5, mean.shape[1], dtype=mean.dtype).expand_as(mean)), 1)


def laplace(mean: Tensor) -> Distribution:
    return Independent(Laplace(mean, torch.ones_like(mean)), 1)


def lognormal(mean: Tensor) -> Distribution:
    return Independent(LogNormal(mean, torch.ones_like(mean)), 1)


def even(mean: Tensor) -> Distribution:
    return Independent(Normal(mean, 0.2 * torch.ones_like(mean)), 1)


@pytest.mark.parametrize(("make", "scale"), [(uneven, None), (laplace, None), (lognormal, None), (even, 0.2)])
def test_only_a_gaussian_of_one_standard_deviation_has_another(make: type, scale: float | None) -> None:
    posteriors, rows = splits(0.7)
    model: Model = Other(make)
    found = fitting_scale(study(posteriors, rows, model=model))
    assert (found is None) == (scale is None)
    if found is not None:
        assert found[0] == pytest.approx(scale)
        # E|x - f(z)|^2 over q, in closed form
        x, (mean, width) = rows["selection"].x, MODEL.posterior(rows["selection"].x)
        square = (x - mean @ MODEL.weight.T - MODEL.bias).square().sum(1) + (width.square() * MODEL.gram).sum(1)
        assert found[1] == pytest.approx(float((square / 12).mean()) ** 0.5, rel=0.03)
