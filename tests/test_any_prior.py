"""Any prior: gains are over what the model was trained with, whatever that is (docs/theory.md, section 9)."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.transforms import SoftplusTransform

from oracles import linear_gaussian
from zprime import audit, fit
from zprime.bring import arrays, modules
from zprime.errors import UsageError
from zprime.latent import Affine, FromTorch, Gaussian, Mixture, Prior, SharedNUTS, StandardNormal, prior_of
from zprime.posteriors import MemoryPosteriors
from zprime.reporting import report
from zprime.reporting.explain import explain
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.names import CandidateId
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.3)
LOC, SCALE = torch.tensor([3.0, -20.0]).double(), torch.tensor([0.5, 7.0]).double()
SMALL = AuditSettings(rows=60, draws=400, grid=4, map=10, simulated=200, exchange=60)
BARE = AuditSettings(rows=1000, draws=400, map=10, simulated=0)
TRIL = torch.tensor([[1.0, 0.0], [1.5, 0.8]]).double()


def data(shift: float = 1.0) -> dict[str, Tensor]:
    return {
        s: MODEL.sample(n, seed=i)[0] + shift * MODEL.weight.sum(1)
        for i, (s, n) in enumerate({"train": 300, "selection": 80, "heldout": 80}.items())
    }


def encode(x):
    return MODEL.posterior(x)


def decode(z):
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


def encode_there(x):
    mean, scale = MODEL.posterior(x)
    return LOC + SCALE * mean, SCALE * scale


def decode_there(z):
    return decode((z - LOC) / SCALE)


@pytest.fixture(scope="module")
def twice() -> tuple[Audit, Audit]:
    """The same model, prior and candidates in the coordinates where the prior is N(0, I), and in its own."""
    here = modules(encode, decode, data(), gives="std")
    fits = {k: fit(k, **here.splits).distribution for k in ("gaussian", "mixture", "aggregated")}
    first = audit(fits, here.posteriors, model=here.model, rows=here.rows, settings=SMALL)
    there = modules(encode_there, decode_there, data(), gives="std", check=False)
    moved = {k: Affine(r, LOC, SCALE) for k, r in fits.items()}
    prior = Gaussian(LOC, SCALE)
    return first, audit(moved, there.posteriors, model=there.model, rows=there.rows, settings=SMALL, prior=prior)


def test_gains_of_the_same_candidates_are_those_in_other_coordinates(twice: tuple[Audit, Audit]) -> None:
    """z -> loc + scale z with the prior and with each candidate: the ELBO gain to rounding, others to their error."""
    here, there = twice
    assert there.prior == "gaussian (diagonal)"
    assert here.prior == "N(0, I)"
    for e in here.entries:
        one, other = e.heldout, there.entry(e.name).heldout
        assert one.elbo.gain.value == pytest.approx(other.elbo.gain.value, abs=1e-6)
        for of in ("exact_posterior", "likelihood"):
            a, b = getattr(one, of).gain, getattr(other, of).gain
            assert a.value == pytest.approx(b.value, abs=0.02 + 0.01 * abs(a.value)), (e.name, of)
    assert here.verdict.decision == there.verdict.decision == "leave the prior"
    assert here.log_prior.value == pytest.approx(there.log_prior.value, abs=0.02)


def test_surgery_and_hole_are_those_in_other_coordinates(twice: tuple[Audit, Audit]) -> None:
    here, there = twice
    for split, a in here.surgery.items():
        b = there.surgery[split]
        assert a.information.value == pytest.approx(b.information.value, abs=1e-6)
        for name in ("mean_kl", "hole", "gaussian_part"):
            one, other = getattr(a, name), getattr(b, name)
            assert abs(one.value - other.value) < 4 * math.hypot(one.stderr or 0, other.stderr) + 1e-6, (split, name)
        assert b.dimension_kl == []
        assert len(b.mean_variance) == 2
    a, b = here.latents.hole, there.latents.hole
    assert a.low == pytest.approx(b.low, abs=0.15)
    assert a.high == pytest.approx(b.high, abs=0.15)
    assert there.latents.total_correlation is None
    one, other = (s.latents.leave_one_out[CandidateId("aggregated")] for s in twice)
    for of in ("self-included", "leave-one-out"):
        assert one.elbo[of].value == pytest.approx(other.elbo[of].value, abs=1e-6)
    assert other.exact_posterior == {}
    low = {k: v.value for k, v in here.latents.low_density.items()}
    assert low == pytest.approx({k: v.value for k, v in there.latents.low_density.items()}, abs=0.1)


def test_averages_are_those_in_other_coordinates(twice: tuple[Audit, Audit]) -> None:
    here, there = (a.averages.members for a in twice)
    for name in ("prior", "moment match", "aggregated posterior"):
        one, other = here[name], there[name]
        assert one.forward.value == pytest.approx(other.forward.value, abs=0.1), name
        assert one.heldout.value == pytest.approx(other.heldout.value, abs=0.2), name
        assert one.to_prior.value == pytest.approx(other.to_prior.value, abs=0.1), name
    assert here["prior"].reverse.value == pytest.approx(there["prior"].reverse.value, rel=0.05)
    assert there["prior"].width == pytest.approx(float(SCALE.log().mean().exp()), rel=0.02)
    assert "product-of-experts" not in there
    assert twice[1].averages.product_fails == "its closed form is known for the prior N(0, I) only"


def test_the_encoder_is_tested_under_the_prior_of_the_model(twice: tuple[Audit, Audit]) -> None:
    """This one is exact: its codes are calibrated in either coordinates."""
    for found in twice:
        c = next(c for c in found.likelihood.calibration if c.source == "prior")
        assert min(c.chi_square) > 1e-3
    assert [c.source for c in twice[1].likelihood.calibration] == ["prior"]  # no other q_r has a closed form


def test_what_was_measured_is_kept_and_told(twice: tuple[Audit, Audit], tmp_path: Path) -> None:
    found = twice[1]
    found.save(tmp_path / "audit", key="", inputs={})
    back = load(tmp_path / "audit")
    assert back.prior == found.prior
    page = report(back, tmp_path / "page.html").read_text()
    assert "its own prior, gaussian (diagonal)" in page
    told = explain(back)
    assert "nats from p(z)" in told
    assert "do not draw z′ from its own prior, gaussian (diagonal)." in told
    assert "distributed as p(Z)" in told
    assert "near N(0, I)" not in told
    assert "those of N(0, I)" not in told
    assert back.entry("prior").label == "prior: gaussian (diagonal)"
    assert json.dumps(back.to_json())


def test_n_0_i_is_a_candidate_where_it_is_not_the_prior(twice: tuple[Audit, Audit]) -> None:
    here, there = twice
    assert not any(e.kind == "standard-normal" for e in here.entries)
    e = next(e for e in there.entries if e.kind == "standard-normal")
    assert e.label.startswith("N(0, I)")
    assert there.entry("standard-normal").heldout.elbo.gain.value < -100


def codes(mean: dict[str, Tensor], s: float) -> dict[str, MemoryPosteriors]:
    return {k: MemoryPosteriors(m, torch.full_like(m, s)) for k, m in mean.items()}


def drawn(p: Distribution, n: int, seed: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return p.sample((n,)).double()


def test_codes_from_a_prior_of_another_width_keep_it() -> None:
    """Codes from N(0, 4 I) under that prior; over N(0, I) a Gaussian would seem to gain .807 nats a dimension."""
    d, s = 3, 0.5
    p = Independent(Normal(torch.zeros(d), (4 - s**2) ** 0.5), 1)
    posteriors = codes({k: drawn(p, 1500, i) for i, k in enumerate(("train", "selection", "heldout"))}, s)
    found = audit(
        {"gaussian": fit("gaussian", posteriors["train"], selection=posteriors["selection"])},
        posteriors,
        prior=Prior(d, 2.0),
        settings=BARE,
    )
    assert found.verdict.choice == "prior"
    own = found.entry("gaussian").heldout.elbo.gain
    assert abs(own.value) < 3 * own.stderr + 0.01
    standard = found.entry("standard-normal").heldout.elbo.gain
    assert standard.value == pytest.approx(-d * 0.5 * (4 - 1 - math.log(4)), abs=4 * standard.stderr)


def test_a_full_covariance_is_the_base_of_gains() -> None:
    """Codes from N(0, S), S not diagonal: N(0, I) loses KL(N(0, S) || N(0, I))."""
    s = 0.4
    cov = TRIL @ TRIL.T
    p = MultivariateNormal(torch.zeros(2).double(), cov - s**2 * torch.eye(2).double())
    posteriors = codes({k: drawn(p, 2000, i) for i, k in enumerate(("train", "selection", "heldout"))}, s)
    prior = MultivariateNormal(torch.zeros(2).double(), cov)
    found = audit({"g": Gaussian(torch.zeros(2).double(), TRIL)}, posteriors, prior=prior, settings=BARE)
    assert found.prior == "gaussian"
    same = found.entry("g").heldout
    assert same.elbo.gain.value == pytest.approx(0, abs=1e-9)
    assert same.exact_posterior.gain.value == pytest.approx(0, abs=0.01)
    standard = found.entry("standard-normal").heldout.elbo.gain
    wanted = 0.5 * float(2 - cov.trace() + torch.logdet(cov))  # E[log N(0, I) - log N(0, S)] under N(0, S)
    assert standard.value == pytest.approx(wanted, abs=4 * standard.stderr)
    for cut in found.surgery.values():  # qbar is the prior, but for the finite number of rows
        assert abs(cut.gaussian_part.value) < 4 * cut.gaussian_part.stderr + 0.01


MEANS = torch.tensor([[-4.0, 0.0], [4.0, 1.0]]).double()
MODES = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7]).double()), Independent(Normal(MEANS, 1.0), 1))


def test_a_mixture_is_the_base_of_gains() -> None:
    """A prior of two modes, codes like it: keep it. The moment match loses its negentropy, by quadrature."""
    s = 0.5
    narrower = MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7]).double()), Independent(Normal(MEANS, (1 - s**2) ** 0.5), 1)
    )
    posteriors = codes({k: drawn(narrower, 2000, i) for i, k in enumerate(("train", "selection", "heldout"))}, s)
    splits = {"selection": posteriors["selection"], "prior": MODES}
    fits = {k: fit(k, posteriors["train"], **splits) for k in ("gaussian", "mixture")}
    found = audit(fits, posteriors, prior=MODES, settings=BARE)
    assert found.prior == "mixture(2)"
    assert found.verdict.choice == "prior"
    grid = torch.linspace(-14, 14, 561, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    log_p = MODES.log_prob(z)
    p = log_p.exp() * (grid[1] - grid[0]) ** 2
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    mean = p @ z
    match = MultivariateNormal(mean, (z - mean).T @ (p[:, None] * (z - mean)))
    for name, r in (
        ("gaussian", match),
        ("standard-normal", MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())),
    ):
        gain = next(e for e in found.entries if str(e.id) == name).heldout.elbo.gain
        wanted = float(p @ (r.log_prob(z) - log_p))
        assert gain.value == pytest.approx(wanted, abs=4 * gain.stderr + 0.03), name
    mixture = found.entry("mixture").heldout.elbo.gain
    assert abs(mixture.value) < 4 * mixture.stderr + 0.02


def row_evidence(mu: Tensor, s: float, m: Tensor, t: float, a: Tensor, v: float) -> Tensor:
    """log int N(z; mu, s^2) N(z; m, t^2) / N(z; a, v^2) dz, summed over dimensions (docs/theory.md, section 9)."""
    A = 1 / s**2 + 1 / t**2 - 1 / v**2
    B = mu / s**2 + m / t**2 - a / v**2
    C = mu**2 / s**2 + m**2 / t**2 - a**2 / v**2
    return (math.log(v) - math.log(s) - math.log(t) - 0.5 * math.log(A) - 0.5 * (C - B**2 / A)).sum(1)


@pytest.mark.parametrize("t", [0.003, 0.3, 1.0])
def test_the_exact_posterior_gain_over_another_prior_by_its_closed_form(t: float) -> None:
    """Also where r is far narrower than q, and away from it: draws of q alone would miss it."""
    n, s, v = 60, 0.5, 2.0
    a = torch.tensor([1.0, -1.0]).double()
    mean = {
        k: a + drawn(Independent(Normal(torch.zeros(2), 1.8), 1), n, i)
        for i, k in enumerate(("train", "selection", "heldout"))
    }
    posteriors = codes(mean, s)
    m = torch.tensor([1.3, -0.8]).double()
    r = Gaussian(m, torch.full((2,), t).double())
    prior = Gaussian(a, torch.full((2,), v).double())
    found = audit({"r": r}, posteriors, prior=prior, settings=AuditSettings(rows=n, draws=4000, map=10, simulated=0))
    gain = found.tensors["gain.heldout.exact_posterior.r"]
    wanted = row_evidence(mean["heldout"], s, m, t, a, v)
    near = wanted > -8  # farther away no draw of r reaches q
    assert int(near.sum()) > n // 2
    torch.testing.assert_close(gain[near], wanted[near], rtol=0, atol=0.3)
    assert float((gain - wanted)[near].mean()) == pytest.approx(0, abs=0.03)


HEAVY = Independent(StudentT(5.0, torch.zeros(2), torch.ones(2)), 1)
POSITIVE = TransformedDistribution(Independent(Normal(torch.zeros(2), torch.ones(2)), 1), [SoftplusTransform()])


def test_a_distribution_of_torch_is_a_prior_by_its_own_density_and_draws() -> None:
    p = prior_of(HEAVY, 2)
    assert isinstance(p, FromTorch)
    assert (p.d, p.bytes, p.label, p.density, p.holds_rows) == (2, 0, "StudentT", "exact", False)
    z = p.sample(500, rng=stream(0, "z"))
    assert not torch.equal(z, p.sample(500, rng=stream(1, "z")))
    assert torch.equal(z, p.sample(500, rng=stream(0, "z")))
    torch.testing.assert_close(p.log_prob(z.double()), HEAVY.log_prob(z).double())
    with pytest.raises(UsageError, match="StudentT is of a class that would not be known"):
        p.tensors()
    with pytest.raises(UsageError, match="nothing was saved"):
        FromTorch.rebuild({}, {})
    posteriors = codes({k: drawn(HEAVY, 300, i) for i, k in enumerate(("train", "selection", "heldout"))}, 0.05)
    found = audit(
        {"g": fit("gaussian", posteriors["train"], selection=posteriors["selection"])},
        posteriors,
        prior=HEAVY,
        settings=AuditSettings(rows=100, draws=80, map=10, simulated=0),
    )
    assert found.prior == "StudentT"


def test_gaussians_of_torch_and_their_mixtures_become_ours() -> None:
    z = torch.randn(9, 2, generator=stream(0, "z"), dtype=torch.float64)
    full = MultivariateNormal(MEANS, TRIL @ TRIL.T)
    for given, kind in (
        (MODES, Mixture),
        (MixtureSameFamily(Categorical(torch.tensor([0.5, 0.5]).double()), full), Mixture),
        (MultivariateNormal(LOC, TRIL @ TRIL.T), Gaussian),
        (Independent(Normal(LOC, SCALE), 1), Gaussian),
    ):
        ours = prior_of(given, 2)
        assert isinstance(ours, kind)
        torch.testing.assert_close(ours.log_prob(z), given.log_prob(z))
    one = prior_of(Gaussian(LOC, SCALE).as_torch(), 2)
    assert isinstance(one, Gaussian)
    for same in (
        None,
        Prior(2),
        Normal(0.0, 1.0),
        Normal(torch.zeros(2), torch.ones(2)),
        StandardNormal(2),
        MultivariateNormal(torch.zeros(2), torch.eye(2)),
        Gaussian(torch.zeros(2), torch.eye(2)),
    ):
        assert isinstance(prior_of(same, 2), Prior)


def test_what_cannot_be_a_prior_is_refused_by_name() -> None:
    d = {"train": torch.randn(50, 2, generator=stream(0)), "heldout": torch.randn(60, 2, generator=stream(1))}
    scale = {k: torch.ones_like(v) / 2 for k, v in d.items()}
    posteriors = codes(
        {k: d[v] for k, v in {"train": "train", "selection": "heldout", "heldout": "heldout"}.items()}, 0.5
    )
    for prior, text in (
        (Prior(3, 2.0), r"got one of shape \[3\]|expected 2 latents, as the posteriors have, got 3 \(prior\(2\)\)"),
        (Independent(Bernoulli(torch.ones(2) / 2), 1), "expected a density, got Bernoulli, which is discrete"),
        (Normal(torch.zeros(4, 2), torch.ones(4, 2)), r"got one of shape \[4, 2\]|got a batch of shape \[4, 2\]"),
        (POSITIVE, "expected a density on all of R.2, got TransformedDistribution"),
        (SharedNUTS(torch.zeros(5, 2), 3), "expected a distribution with a log-density, got .*, which has draws only"),
        (
            torch.distributions.Gamma(torch.ones(2), torch.ones(2)),
            r"got a batch of shape \[2\] of events of shape \[\]",
        ),
    ):
        for call in (
            lambda p=prior: arrays(d, scale, prior=p),
            lambda p=prior: audit({"g": Prior(2, 2.0)}, posteriors, prior=p, settings=BARE),
            lambda p=prior: fit("gaussian", posteriors["train"], selection=posteriors["selection"], prior=p),
        ):
            with pytest.raises(UsageError, match=text):
                call()


def test_a_brought_model_keeps_its_learned_prior() -> None:
    mine = modules(encode, decode, data(0.0), gives="std", prior=MODES)
    assert isinstance(mine.prior, Mixture)
    assert mine.coordinates is None
    assert mine.splits["prior"] is mine.prior
    assert any("trained with its own prior, mixture(2), not N(0, I)" in s for s in mine.says)
    standard = modules(encode, decode, data(0.0), gives="std")
    assert standard.prior is None
    assert not any("prior" in s for s in standard.says)
