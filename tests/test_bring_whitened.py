"""A Gaussian prior with a full covariance: in units of its Cholesky factor it is N(0, I), with all closed forms there.

Oracles: the same model whitened by hand, and the closed forms of torch (docs/theory.md, 9).
"""

import math
from unittest.mock import patch

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from oracles import linear_gaussian
from zprime import audit, bring, fit, load_latent
from zprime.bring import arrays, modules
from zprime.bring.coordinates import MOST, Coordinates, coordinates_of, known
from zprime.errors import UsageError
from zprime.latent import Affine, Gaussian, Mixture, Prior
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import exact_posterior_gain
from zprime.measure.prior import prior_kl
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.3)
LOC = torch.tensor([3.0, -20.0], dtype=torch.float64)
TRIL = torch.tensor([[0.5, 0.0], [-2.0, 7.0]], dtype=torch.float64)
BACK = torch.linalg.inv(TRIL).tril()  # on some processors 1e-17 stands above the diagonal
PRIOR = MultivariateNormal(LOC, scale_tril=TRIL)
AT = Coordinates(LOC, TRIL)
SMALL = AuditSettings(rows=50, draws=80, grid=4, map=10, simulated=0, exchange=50)
SIZES = {"train": 200, "selection": 60, "heldout": 60}


def given() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Means and standard deviations of the model's own z."""
    rng = stream(0, "whitened")
    u = {s: 1.3 * torch.randn(n, 2, generator=rng, dtype=torch.float64) for s, n in SIZES.items()}
    scale = {s: 0.2 + 0.2 * torch.rand(n, 2, generator=rng, dtype=torch.float64) for s, n in SIZES.items()}
    return {s: LOC + v @ TRIL.T for s, v in u.items()}, scale


def by_hand() -> bring.Brought:
    """The same posteriors, whitened: N(0, I) is their prior."""
    mean, scale = given()
    factor = {s: BACK * v[:, None] for s, v in scale.items()}
    return arrays({s: (m - LOC) @ BACK.T for s, m in mean.items()}, scale_tril=factor)


@pytest.mark.parametrize(
    "prior", [PRIOR, Gaussian(LOC, TRIL), MultivariateNormal(LOC, TRIL @ TRIL.T)], ids=["torch", "ours", "covariance"]
)
def test_diagonal_posteriors_are_full_ones_under_n_0_i(prior: object) -> None:
    """Posteriors, fits, candidates of the model's own z, and all gains: to rounding as by hand."""
    mean, scale = given()
    mine, want = arrays(mean, scale, prior=prior, check=False), by_hand()
    assert mine.prior is None
    assert mine.coordinates is not None
    for s, p in want.posteriors.items():
        torch.testing.assert_close(mine.posteriors[s].gather().mean, p.gather().mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.posteriors[s].gather().scale, p.gather().scale, rtol=1e-9, atol=1e-9)
    found = []
    for one in (mine, want):
        fits = {k: fit(k, **one.splits) for k in ("gaussian", "aggregated")}
        found.append(audit(fits | {"standard": mine.inside(Prior(2))}, one.posteriors, settings=SMALL))
    assert found[0].prior == "N(0, I)"
    for a, b in zip(*(f.entries for f in found), strict=True):
        for of in ("elbo", "exact_posterior"):
            assert getattr(a.heldout, of).gain.value == pytest.approx(getattr(b.heldout, of).gain.value, abs=1e-7)
    for split, a in found[0].surgery.items():
        for name in ("mean_kl", "information", "hole"):
            assert getattr(a, name).value == pytest.approx(getattr(found[1].surgery[split], name).value, abs=1e-7)


def test_the_kl_from_a_full_prior_is_that_of_torch() -> None:
    mean, scale = given()
    mine = arrays(mean, scale, prior=PRIOR, check=False)
    q = MultivariateNormal(mean["train"], scale_tril=torch.diag_embed(scale["train"]))
    kl = prior_kl(mine.prior, mine.posteriors["train"].gather(), rng=stream(0))
    torch.testing.assert_close(kl, kl_divergence(q, PRIOR), rtol=1e-9, atol=1e-9)


def test_posteriors_that_are_full_already_stay_so() -> None:
    mean, scale = given()
    mine = arrays(mean, scale_tril={s: torch.diag_embed(v) @ (TRIL / 7) for s, v in scale.items()}, prior=PRIOR)
    p = mine.posteriors["train"].gather()
    q = MultivariateNormal(mean["train"], scale_tril=torch.diag_embed(scale["train"]) @ (TRIL / 7))
    torch.testing.assert_close(prior_kl(None, p, rng=stream(0)), kl_divergence(q, PRIOR), rtol=1e-9, atol=1e-9)
    assert torch.equal(p.scale, p.scale.tril())


def encode_there(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear model, whose latents have this prior."""
    mean, scale = MODEL.posterior(x)
    return LOC + mean.double() @ TRIL.T, TRIL * scale.double()[:, None]


def decode(z: torch.Tensor) -> Independent:
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


def test_a_model_is_audited_as_the_one_whose_prior_is_n_0_i() -> None:
    data = {s: MODEL.sample(n, seed=i)[0] + MODEL.weight.sum(1) for i, (s, n) in enumerate(SIZES.items())}
    there = modules(
        encode_there, lambda z: decode((z - LOC) @ BACK.T), data, gives="scale_tril", prior=PRIOR, check=False
    )
    here = modules(MODEL.posterior, decode, data, gives="std")
    r = {"gaussian": fit("gaussian", **here.splits).distribution}
    one, other = (audit(r, m.posteriors, model=m.model, rows=m.rows, settings=SMALL) for m in (here, there))
    for of in ("elbo", "exact_posterior", "likelihood"):
        a, b = (getattr(f.entry("gaussian").heldout, of).gain.value for f in (one, other))
        # a diagonal and a full proposal draw other points, and the ELBO gain is by draws
        assert a == pytest.approx(b, abs=1e-6 if of == "exact_posterior" else 0.05), of
    # decoding undoes what encoding did
    assert there.model is not None
    x = data["heldout"]
    p = there.model.decode(there.model.encode(x)[0])
    torch.testing.assert_close(p.mean, decode(MODEL.posterior(x)[0]).mean, rtol=1e-5, atol=1e-5)


def test_the_reading_of_the_scale_is_checked_by_the_closed_form() -> None:
    """Standard deviations of the model's own z beside a full prior: a wrong reading is refused, the right one not."""

    def encoder(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, tril = encode_there(x)
        return mean, tril.square().sum(2).sqrt() / 2

    data = {s: MODEL.sample(n, seed=i)[0] for i, (s, n) in enumerate(SIZES.items())}
    mine = modules(encoder, lambda z: decode((z - LOC) @ BACK.T), data, gives="std", prior=PRIOR)
    assert mine.posteriors["train"].form == "full"
    with pytest.raises(UsageError, match="gives: read as log-std"):
        modules(encoder, lambda z: decode((z - LOC) @ BACK.T), data, gives="log-std", prior=PRIOR)


def test_draws_of_posteriors_are_whitened_too() -> None:
    rng = stream(0, "drawn")
    z = {s: LOC + torch.randn(40, 6, 2, generator=rng, dtype=torch.float64) @ TRIL.T for s in SIZES}
    log_q = {s: PRIOR.log_prob(v) + 0.25 for s, v in z.items()}
    with patch("zprime.bring.coordinates.MOST", 1):  # no factor is made, so there is no limit
        mine = bring.draws(None, z, log_q=log_q, prior=PRIOR)
    assert mine.prior is None
    u = mine.posteriors["train"].gather().mean
    torch.testing.assert_close(LOC + u @ TRIL.T, z["train"].reshape(-1, 2))
    # log q - log p is 1/4 at every draw: with another determinant it would not be
    said = next(s for s in mine.says if s.startswith("mean KL(q||p)"))
    assert float(said.split(": ")[1].split(" ")[0]) == pytest.approx(0.25, abs=1e-3)


def test_there_and_back_is_the_same_distribution() -> None:
    rng = stream(1, "there")
    z = LOC + torch.randn(40, 2, generator=rng, dtype=torch.float64) @ TRIL.T
    torch.testing.assert_close(AT.out(AT.into(z)), z)
    torch.testing.assert_close(AT.outside(Prior(2)).log_prob(z), PRIOR.log_prob(z))
    r = Mixture(torch.tensor([0.3, 0.7]).double().log(), z[:2], torch.rand(2, 2, generator=rng).double() + 0.5)
    torch.testing.assert_close(AT.outside(AT.inside(r)).log_prob(z), r.log_prob(z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(AT.inside(r).log_prob(AT.into(z)), r.log_prob(z) + AT.log_volume)
    torch.testing.assert_close(
        AT.outside(r).sample(9, rng=stream(2)), LOC + r.sample(9, rng=stream(2)) @ TRIL.T, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(AT.width, PRIOR.stddev)


BASES = {
    "diagonal": Mixture(
        torch.tensor([0.4, 0.6]).double().log(),
        torch.tensor([[0.2, -0.3], [-0.5, 0.4]]).double(),
        torch.tensor([[0.5, 0.7], [0.6, 0.4]]).double(),
    ),
    "full": Gaussian(torch.tensor([0.4, -0.2]).double(), torch.tensor([[0.6, 0.0], [0.3, 0.5]]).double()),
    "low rank": Gaussian(
        torch.tensor([0.4, -0.2]).double(), torch.tensor([0.5, 0.4]).double(), torch.tensor([[0.4], [-0.3]]).double()
    ),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_the_tilt_by_a_matrix_is_that_of_the_mixture_written_out(base: Gaussian | Mixture) -> None:
    """By quadrature: E_q[r/p] with r moved by a matrix, for posteriors of both forms."""
    a = torch.tensor([[0.9, 0.0], [-0.4, 0.8]], dtype=torch.float64)
    r = Affine(base, torch.tensor([0.1, 0.3]).double(), a)
    axis = torch.linspace(-9, 9, 901, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    step = float(axis[1] - axis[0]) ** 2
    mean = torch.tensor([[0.5, -0.7], [-1.0, 0.2]], dtype=torch.float64)
    width = torch.tensor([[0.5, 0.6], [0.7, 0.4]], dtype=torch.float64)
    for scale in (width, torch.diag_embed(width) + 0.3 * torch.ones(2, 2).double().tril(-1)):
        q = MultivariateNormal(mean, scale_tril=scale if scale.ndim == 3 else torch.diag_embed(scale))
        log_p = Normal(0.0, 1.0).log_prob(grid).sum(1)
        terms = q.log_prob(grid[:, None]) + (r.log_prob(grid) - log_p)[:, None]
        want = terms.logsumexp(0) + math.log(step)
        tilted = r.tilt(mean, scale, draws=0, rng=stream(0))
        assert tilted is not None
        torch.testing.assert_close(tilted.log_ratio, want, rtol=1e-6, atol=1e-6)


def test_a_candidate_of_the_models_own_z_has_its_gain_in_closed_form() -> None:
    mean, scale = given()
    mine = arrays(mean, scale, prior=PRIOR, check=False)
    r = Gaussian(LOC + 1, 0.9 * TRIL)
    written = Gaussian((r.mean - LOC) @ BACK.T, BACK @ r.scale_tril)
    held = mine.posteriors["heldout"].gather()
    gains = [
        exact_posterior_gain(Candidates({"r": c}), held, rng=stream(0))[CandidateId("r")]
        for c in (mine.inside(r), written)
    ]
    torch.testing.assert_close(*gains, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fits", [True, False])
def test_factors_are_made_where_they_are_few(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    mean, scale = given()
    monkeypatch.setattr("zprime.bring.coordinates.MOST", sum(SIZES.values()) * 4 - (not fits))
    mine = arrays(mean, scale, prior=PRIOR, check=False)
    assert (mine.prior is None) == fits
    assert mine.posteriors["train"].form == ("full" if fits else "diagonal")
    assert any("whitened by it" in s for s in mine.says) == fits
    assert any("which are made where rows x d x d is 200,000 at most" in s for s in mine.says) == (not fits)
    # posteriors that are full already take no more numbers than they have
    assert arrays(mean, scale_tril={s: torch.diag_embed(v) for s, v in scale.items()}, prior=PRIOR).prior is None


@pytest.mark.parametrize(("d", "factors", "whitened"), [(20, 500, True), (20, 501, False), (65, 0, True)])
def test_more_numbers_keep_the_prior_as_it_is(d: int, factors: int, whitened: bool) -> None:  # noqa: FBT001
    assert MOST == 200_000
    tril = torch.eye(d, dtype=torch.float64) + 0.1 * torch.ones(d, d, dtype=torch.float64).tril(-1)
    at, prior = known(Gaussian(torch.zeros(d).double(), tril), d, factors=factors)
    assert (at is not None, prior is None) == (whitened, whitened)


def test_which_priors_have_a_matrix() -> None:
    assert (
        coordinates_of(Gaussian(*(BASES["low rank"].mean, BASES["low rank"].scale_tril, BASES["low rank"].factor)), 2)
        is None
    )
    diagonal = coordinates_of(MultivariateNormal(LOC, torch.diag(TRIL.diagonal().square())), 2)
    assert diagonal is not None
    assert not diagonal.full
    two = coordinates_of(PRIOR, 2)
    assert two is not None
    assert two.full
    with pytest.raises(UsageError, match=r"expected a Gaussian in 3 dimensions, got one of shape \[2\]"):
        coordinates_of(PRIOR, 3)
    with pytest.raises(UsageError, match="standard deviations above 0"):
        coordinates_of(Gaussian(LOC * math.nan, TRIL), 2)


def test_a_matrix_is_saved_exactly_and_checked(tmp_path) -> None:
    r = AT.outside(Gaussian(torch.ones(2), torch.tensor([0.5, 2.0])))
    r.save(tmp_path / "r")
    again = load_latent(tmp_path / "r")
    assert isinstance(again, Affine)
    assert torch.equal(again.scale, TRIL)
    z = r.sample(20, rng=stream(0))
    assert torch.equal(again.log_prob(z), r.log_prob(z))
    assert r.bytes == r.base.bytes + 8 * (2 + 4)
    with pytest.raises(Exception, match="lower triangular"):
        Affine.schema.check(r.config(), r.tensors() | {"scale": TRIL.T.contiguous()})


def test_a_prior_of_bare_posteriors_stays_as_it_is() -> None:
    """`audit(prior=...)` changes no coordinates: the same candidate has the same ELBO gain."""
    mean, scale = given()
    p = {s: MemoryPosteriors(m, scale[s]) for s, m in mean.items()}
    r = Gaussian(LOC + 0.5, 1.2 * TRIL)
    found = audit({"r": r}, p, prior=PRIOR, settings=SMALL)
    assert found.prior == "gaussian"
    mine = arrays(mean, scale, prior=PRIOR, check=False)
    there = audit({"r": mine.inside(r)}, mine.posteriors, settings=SMALL)
    a, b = (f.entry("r").heldout.elbo.gain for f in (found, there))
    assert a.value == pytest.approx(b.value, abs=0.05)
