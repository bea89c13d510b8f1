"""Densities and closed forms at extreme means, scales and weights: right, or a NumericalError; never NaN, never wrong.

Oracles: the same formulas in mpmath with 120 digits or more, and the direct form in float64 for whole mixtures.
"""

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import small
from zprime.arrays import gaussian_log_prob, standard_kl, weighed
from zprime.components import Diagonal, Full, Tilted
from zprime.errors import NumericalError
from zprime.kernels import (
    DiagonalMixture,
    compiled,
    diagonal_log_ratio,
    far,
    full_log_ratio,
    full_mixture_log_prob,
    mixture,
    trainable_mixture_log_prob,
)
from zprime.likelihoods import Gaussian
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.likelihood.scores import scores
from zprime.results.names import CandidateId
from zprime.statistics.design import Design
from zprime.statistics.estimate import Estimate, finite_mean, mean_estimate, widened

KERNELS = ["compiled", "torch"]
DTYPES = st.sampled_from([torch.float32, torch.float64])
REACH = st.sampled_from([1, 6, 15, 30])  # of the exponents of ten
ABOUT = {"unit": "nats per row", "split": "heldout", "seed": 0}


@pytest.fixture(params=KERNELS, autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test with both kernels."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "module", None)
    elif compiled.module is None:
        pytest.skip("not compiled")
    return str(request.param)


def logs(rng: torch.Generator, reach: float, *shape: int) -> Tensor:
    """Positive numbers whose logarithms are uniform, from 10^-reach to 10^reach."""
    return 10.0 ** ((torch.rand(*shape, generator=rng, dtype=torch.float64) * 2 - 1) * reach)


def signed(rng: torch.Generator, reach: float, *shape: int) -> Tensor:
    return logs(rng, reach, *shape) * torch.randn(*shape, generator=rng, dtype=torch.float64).sign()


def direct(z: Tensor, mean: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
    """Log of each weighted density, float64."""
    z, mean, scale = z.double(), mean.double(), scale.double()
    u = (z[:, None] - mean) / scale
    constant = log_weight.double() - scale.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return constant - 0.5 * u.square().sum(2)


@settings(deadline=None, max_examples=60)
@given(
    dtype=DTYPES,
    d=st.integers(1, 16),
    n=st.sampled_from([1, 3, 40, 300]),
    m=st.sampled_from([1, 5, 300]),
    reach=REACH,
    seed=st.integers(0, 2**31),
)
def test_the_log_density_of_a_mixture_is_right_to_1e_5(
    dtype: torch.dtype, d: int, n: int, m: int, reach: int, seed: int
) -> None:
    """Means and scales from 1e-30 to 1e30, a third of the weights 0, points near components, at 0 and at 1e30."""
    rng = torch.Generator().manual_seed(seed)
    mean, scale = signed(rng, reach, n, d).to(dtype), logs(rng, reach, n, d).to(dtype)
    log_weight = torch.randn(n, generator=rng, dtype=torch.float64)
    if n > 1:
        log_weight[::3] = -torch.inf
    log_weight = log_weight.log_softmax(0)
    near = torch.randint(0, n, (m,), generator=rng)
    z = (mean[near].double() + scale[near].double() * torch.randn(m, d, generator=rng)).to(dtype)
    z[0], z[-1] = 1e30, 0
    terms = direct(z, mean, scale, log_weight)
    expected = torch.logsumexp(terms, 1)
    prepared = DiagonalMixture(mean, scale, log_weight)
    found, score = prepared.log_prob_and_score(z)
    assert bool(((found - expected).abs() <= 1e-5 * (1 + expected.abs())).all())
    assert torch.equal(prepared.log_prob(z).isfinite(), expected.isfinite())
    part = torch.softmax(terms, 1)
    slope = (part[..., None] * ((mean.double() - z.double()[:, None]) / scale.double().square())).sum(1)
    assert bool(((score - slope).abs() <= 1e-2 * (slope.abs() + 1e-6 * slope.abs().amax(1, keepdim=True) + 1)).all())


def test_a_planted_mixture_far_out(kernel: str) -> None:
    """A float32 sum took the one component that it could not hold, computed exactly, for all of them."""
    mean = torch.tensor([[1e30, 0.0], [0.0, 0.0]])
    scale = torch.tensor([[1e-20, 1e-20], [1e-7, 1e-7]])
    log_weight = torch.tensor([0.5, 0.5]).log()
    z = torch.tensor([[1e20, 0.0]])
    expected = -0.5 * (1e20 / 1e-7) ** 2
    found = float(DiagonalMixture(mean, scale, log_weight).log_prob(z)[0])
    assert found == pytest.approx(expected, rel=1e-5), kernel


@settings(deadline=None, max_examples=100)
@given(dtype=DTYPES, d=st.integers(1, 8), reach=REACH, narrow=st.booleans(), seed=st.integers(0, 2**31))
def test_the_closed_form_of_the_evidence_is_right_to_1e_5(
    dtype: torch.dtype, d: int, reach: int, seed: int, *, narrow: bool
) -> None:
    """Diagonal factors, by both forms of the kernel; +inf exactly where some A <= 0."""
    mp.mp.dps = 400
    rng = torch.Generator().manual_seed(seed)
    mu, mean = signed(rng, reach, 2, d).to(dtype), signed(rng, reach, 2, d).to(dtype)
    s, t = logs(rng, reach, 2, d), logs(rng, reach, 2, d)
    s = (s.clamp(max=1) if narrow else s).to(dtype)
    t = t.to(dtype)
    found = diagonal_log_ratio(mu, s, mean, t)
    full = full_log_ratio(mu, s, mean, torch.diag_embed(t))[0]
    for i in range(2):
        for k in range(2):
            expected = ratio_of(mu[i], s[i], mean[k], t[k])
            for value in (float(found[i, k]), float(full[i, k])):
                if mp.isinf(expected):
                    assert value == math.inf
                else:
                    assert abs(value - expected) <= 1e-5 * max(1, abs(expected))


def ratio_of(mu: Tensor, s: Tensor, mean: Tensor, t: Tensor) -> mp.mpf:
    """1/2 sum { -log A + [mu^2 t^2 + m^2 s^2 - (mu - m)^2] / A }."""
    total = mp.mpf(0)
    for row in zip(mu, s, mean, t, strict=True):
        x, v, m, w = (mp.mpf(float(value)) for value in row)
        v, w = v**2, w**2
        a = v + w - v * w
        if a <= 0:
            return mp.inf
        total += (x**2 * w + m**2 * v - (x - m) ** 2) / a - mp.log(a)
    return total / 2


@settings(deadline=None, max_examples=60)
@given(d=st.integers(2, 4), reach=st.sampled_from([1, 2, 6, 12, 20]), narrow=st.booleans(), seed=st.integers(0, 2**31))
def test_with_full_covariances_it_is_right_to_1e_3_or_refused(d: int, reach: int, seed: int, *, narrow: bool) -> None:
    mp.mp.dps = 150
    rng = torch.Generator().manual_seed(seed)
    mu, mean, s = signed(rng, reach, 1, d), signed(rng, reach, 1, d), logs(rng, reach, 1, d)
    s = s.clamp(max=1) if narrow else s
    off = torch.tril(torch.randn(d, d, generator=rng, dtype=torch.float64), -1)
    tril = (logs(rng, reach, d)[:, None] * (torch.eye(d, dtype=torch.float64) + off))[None]
    try:
        found, centre, factor = full_log_ratio(mu, s, mean, tril)
    except NumericalError as error:
        assert "E_q[r/p]" in str(error)  # noqa: PT017
        return

    def matrix(t: Tensor) -> mp.matrix:
        return mp.matrix([[mp.mpf(float(v)) for v in row] for row in t])

    lower, x, m = matrix(tril[0]), matrix(mu).T, matrix(mean).T
    inverse = (lower * lower.T) ** -1
    own = mp.diag([1 / mp.mpf(float(v)) ** 2 for v in s[0]])
    precision = own + inverse - mp.eye(d)
    try:
        mp.cholesky((precision + precision.T) / 2)
    except ValueError:
        assert float(found) == math.inf
        return
    h = own * x + inverse * m
    quadratic = (h.T * precision**-1 * h)[0] - (x.T * own * x)[0] - (m.T * inverse * m)[0]
    expected = (quadratic + mp.log(mp.det(inverse)) + mp.log(mp.det(own)) - mp.log(mp.det(precision))) / 2
    assert abs(float(found) - expected) <= 1e-3 * max(1, abs(expected))
    assert bool(torch.isfinite(centre).all())
    assert bool(torch.isfinite(factor).all())


@pytest.mark.parametrize("shape", [Diagonal, Full])
def test_evidence_terms_at_weight_0_and_at_scales_of_1e_6(shape: type) -> None:
    """Planted: +inf - inf was NaN; the product of four A of 1e-12 was 0 in float32, and its log -inf."""

    def mixture_of(scales: Tensor) -> Diagonal | Full:
        log_weight = torch.tensor([0.0, -torch.inf])
        return shape(log_weight, torch.zeros(2, 4), scales if shape is Diagonal else torch.diag_embed(scales))

    rng = torch.Generator().manual_seed(0)
    wide = mixture_of(torch.tensor([[0.5] * 4, [3.0] * 4]))  # the second diverges for s = 2, and has no weight
    tilted = wide.tilt(torch.zeros(3, 4), torch.full((3, 4), 2.0), draws=2, rng=rng)
    expected = -2 * math.log(4 + 0.25 - 1)
    torch.testing.assert_close(tilted.log_ratio, torch.full((3,), expected, dtype=torch.float64), rtol=1e-6, atol=0)
    assert bool(torch.isfinite(tilted.draws).all())
    narrow = mixture_of(torch.full((2, 4), 1e-6))
    tilted = narrow.tilt(torch.zeros(3, 4), torch.full((3, 4), 1e-6), draws=200, rng=rng)
    expected = -2 * math.log(2e-12)
    torch.testing.assert_close(tilted.log_ratio, torch.full((3,), expected, dtype=torch.float64), rtol=1e-6, atol=0)
    assert float(tilted.draws.std()) == pytest.approx(1e-6 / math.sqrt(2), rel=0.1)


@settings(deadline=None, max_examples=40)
@given(dtype=DTYPES, reach=REACH, seed=st.integers(0, 2**31))
def test_draws_of_a_tilted_posterior_have_its_moments(dtype: torch.dtype, reach: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mu, mean = signed(rng, reach, 1, 3).to(dtype), signed(rng, reach, 1, 3).to(dtype)
    s, t = logs(rng, reach, 1, 3).clamp(max=0.9).to(dtype), logs(rng, reach, 1, 3).to(dtype)
    z = Diagonal(torch.zeros(1), mean, t).tilt(mu, s, draws=400, rng=rng).draws[0].double()
    v, w = s.double().square()[0], t.double().square()[0]
    a = far.product(s.double(), t.double())[0]
    centre, spread = (mu.double()[0] * w + mean.double()[0] * v) / a, (v * (w / a)).sqrt()
    tolerance = 0.3 * spread + 1e-5 * (centre.abs() + mu.double()[0].abs() + mean.double()[0].abs())
    assert bool(((z.mean(0) - centre).abs() <= tolerance).all())
    assert bool(torch.isfinite(z).all())


def test_ordinary_codes_take_the_form_that_they_took_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, and without the other form: what was measured of fits stays, and so does the speed."""
    rng = torch.Generator().manual_seed(1)
    mu, mean = torch.randn(50, 8, generator=rng), torch.randn(40, 8, generator=rng)
    s, t = torch.rand(50, 8, generator=rng) * 0.9 + 0.01, torch.rand(40, 8, generator=rng) + 0.01
    monkeypatch.setattr(far, "diagonal_log_ratio", None)
    monkeypatch.setattr(far, "full_log_ratio", None)
    assert torch.equal(diagonal_log_ratio(mu, s, mean, t), mixture._near(mu, s, mean, t))
    assert diagonal_log_ratio(mu, s, mean, t).dtype == torch.float32
    full_log_ratio(mu, s, mean, torch.diag_embed(t))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("off", [0.0, 1e-3, 1e10, 1e30])
def test_densities_of_single_gaussians_and_of_rows(scale: float, off: float) -> None:
    """Where float32 cannot hold a square the answer comes in float64; 0 times infinity was NaN."""
    z, mean, s = torch.full((1, 5), off), torch.zeros(1, 5), torch.full((1, 5), scale)
    u = float(z[0, 0].double()) / float(s[0, 0].double())
    expected = 5 * (-0.5 * u * u - math.log(float(s[0, 0].double())) - 0.5 * math.log(2 * math.pi))
    log_scale = torch.tensor(scale).double().log().float()
    rows = Gaussian(scale=scale)(mean).log_prob(z)
    for found in (
        gaussian_log_prob(z, mean, s),
        trainable_mixture_log_prob(z, mean, s, torch.zeros(1)),
        full_mixture_log_prob(z, mean, torch.diag_embed(s), torch.zeros(1)),
    ):
        assert float(found[0]) == pytest.approx(expected, rel=1e-5)
    # the likelihood keeps log scale in float32
    slack = 1e-5 + 3 * abs(float(log_scale)) * 2**-23
    assert float(rows[0]) == pytest.approx(expected, rel=max(slack, 1e-5))
    kl = 0.5 * (off * off + scale * scale - 1) - math.log(scale)
    assert float(standard_kl(z, s)[0, 0]) == pytest.approx(kl, rel=1e-5, abs=1e-6)


def test_gradients_pass_through_the_wider_form() -> None:
    mean = torch.full((1, 2), 1e25, requires_grad=True)
    trainable_mixture_log_prob(torch.zeros(1, 2), mean, torch.ones(1, 2), torch.zeros(1)).sum().backward()
    torch.testing.assert_close(mean.grad, torch.full((1, 2), -1e25))


def test_what_is_beyond_float64_is_refused_and_never_nan() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"E_q\[r/p\]: beyond float64 for posterior 0 and component 0 \(1 of 1"):
        diagonal_log_ratio(1e200 * one, 1e-200 * one, -1e200 * one, 1e-200 * one)
    with pytest.raises(NumericalError, match=r"E_q\[r/p\]: not a number for 1 of 2 posteriors \(row 1\)"):
        Tilted(torch.tensor([0.0, math.nan]), torch.zeros(2, 0, 1))
    tril = torch.tensor([[[1e8, 0.0], [1e8, 1e-12]]], dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"E_q\[r/p\]"):
        full_log_ratio(torch.ones(1, 2) * 1e5, torch.full((1, 2), 1e-3), torch.zeros(1, 2), tril)


def test_a_component_of_weight_0_adds_nothing_whatever_its_term() -> None:
    terms, log_weight = torch.tensor([[math.inf, 1.0], [2.0, math.inf]]), torch.tensor([-math.inf, 0.0])
    assert weighed(terms, log_weight).tolist() == [[-math.inf, 1.0], [-math.inf, math.inf]]


# Tables


def test_no_estimate_is_nan() -> None:
    nan = torch.tensor([1.0, math.nan, 2.0])
    with pytest.raises(NumericalError, match=r"estimate \(nats per row, heldout, 3 rows\): not a number"):
        mean_estimate(nan, **ABOUT)
    with pytest.raises(NumericalError, match=r"nats per row, heldout: 1 of 3 rows are NaN \(row 1\)"):
        finite_mean(nan, because="diverge", **ABOUT)
    with pytest.raises(NumericalError, match="infinite in both directions"):
        mean_estimate(torch.tensor([math.inf, -math.inf]), **ABOUT)
    with pytest.raises(NumericalError, match="not a number"):
        Estimate(1.0, 0.1, 0.0, math.nan, 3, "nats", "heldout", 0)
    gone = finite_mean(torch.tensor([math.inf, math.inf]), because="diverge", **ABOUT)
    assert (gone.value, gone.stable, gone.because) == (math.inf, False, "2 rows diverge")
    assert widened(gone, 0.1, because="seeds").value == math.inf
    weights = torch.full((10,), 1e-300, dtype=torch.float64)
    weights[3] = 1
    alone = mean_estimate(torch.arange(10.0), design=Design(weights / weights.sum()), **ABOUT)
    assert (alone.value, alone.low, alone.high) == (3.0, -math.inf, math.inf)
    assert alone.because == "one row has all the weight: no error can be given"


def test_the_error_names_the_gain_and_the_candidate() -> None:
    wanted = CandidateId("mixture")
    gains = RowGains("heldout", torch.arange(3), elbo={wanted: torch.tensor([0.0, math.nan, 1.0])})
    with pytest.raises(NumericalError, match="elbo gain of mixture: estimate .nats per row, heldout, 3 rows."):
        scores(gains, wanted, 0)


@pytest.mark.parametrize("case", ["constant column", "units far apart"])
def test_a_small_audit_of_odd_data_has_no_nan(case: str, kernel: str, tmp_path) -> None:
    if kernel == "torch":
        pytest.skip("once is enough")
    import dataclasses

    import numpy as np

    from zprime.data import DataSettings
    from zprime.running import Run

    x = 40 + 10 * np.random.default_rng(0).normal(size=(90, 4))
    if case == "constant column":
        x[:, 1] = 7
    else:
        x = np.stack([1.7e9 + np.arange(90), x[:, 1] * 1e-30, x[:, 2] * 1e30, 1e9 + np.arange(90) % 2], 1)
    np.savez(tmp_path / "x.npz", x=x)
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(tmp_path / "x.npz")), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    job.fit(["gaussian"], seed=0)

    def numbers(value: object) -> list[float]:
        if dataclasses.is_dataclass(value):
            return [n for f in dataclasses.fields(value) for n in numbers(getattr(value, f.name))]
        if isinstance(value, dict):
            return numbers(list(value.values()))
        if isinstance(value, list | tuple):
            return [n for v in value for n in numbers(v)]
        return [value] if isinstance(value, float) else []

    found = numbers(job.audit(small.AUDIT, seed=0))
    assert len(found) > 100
    assert not any(math.isnan(n) for n in found)
