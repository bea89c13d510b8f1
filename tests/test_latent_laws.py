"""What must hold for every latent distribution, tested on every entry of the zoo."""

import functools
import math

import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.stats import kstest, norm
from torch import Tensor

from oracles import grid, hermite
from zoo import ZOO, posteriors
from zprime import distribution, latent
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError, ArtifactError
from zprime.kernels import compiled, dense, mixture_torch
from zprime.latent import Active, Conditional, Defensive, Prior
from zprime.latent.network import NetworkDistribution
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

DTYPES = {"float64": torch.float64, "float32": torch.float32}
GRID, AREA = grid(9.0, 81)  # scales of 0.2: exact to 1e-7
ROUGH = {"flow": 5e-3}
"""What quadrature leaves of densities with kinks (splines, rectifiers), where it is more than rounding."""


@functools.cache
def r(name: str, d: int = 2, dtype: torch.dtype = torch.float64) -> LatentDistribution:
    return ZOO[name](d, dtype)


@functools.cache
def on_grid(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log r on the grid, which several laws ask for and some kinds take long to say; networks in their own dtype."""
    given = r(name, dtype=dtype)
    return given.log_prob(GRID.to(dtype) if isinstance(given, NetworkDistribution) else GRID)


every_kind = pytest.mark.parametrize("name", ZOO)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def scored(name: str, dtype: torch.dtype = torch.float64) -> LatentDistribution:
    """One with a density; for the others the law says nothing."""
    given = r(name, dtype=dtype)
    if given.density == "none":
        pytest.skip("consists of draws, has no density")
    return given


def odds(name: str, drawn: Tensor) -> float:
    """Chance of draws at least as odd as these under the density, the smallest of three tests against quadrature.

    The mean of log r over the draws (it sees scales and correlations); a Kolmogorov-Smirnov test of each coordinate.
    """
    log_r = on_grid(name)
    mass = log_r.exp() * AREA
    mean = float(mass @ log_r)
    var = float(mass @ (log_r - mean).square())
    score = (float(r(name).log_prob(drawn).mean()) - mean) / math.sqrt(var / len(drawn))
    found = [2 * norm.sf(abs(score))]
    side = math.isqrt(len(GRID))
    # the right edge of each cell: there the distribution function is the sum so far
    right = (GRID[:side, 1] + math.sqrt(AREA) / 2).numpy()
    for j in range(2):
        cdf = mass.reshape(side, side).sum(1 - j).cumsum(0).numpy()
        found.append(kstest(drawn[:, j].double().numpy(), CubicSpline(right, cdf)).pvalue)
    return float(min(found))


@every_dtype
@every_kind
def test_density_adds_up_to_one(name: str, dtype: torch.dtype) -> None:
    """An estimate up to its error; a bound holds on average over the noise that it was made with."""
    given = scored(name, dtype)
    total = float(on_grid(name, dtype).exp().sum()) * AREA
    within = {"exact": ROUGH.get(given.kind, 1e-6), "bound": 0.05, "estimate": 0.01}[given.density]
    assert total == pytest.approx(1, abs=within)


@every_kind
def test_nothing_of_a_distribution_asks_for_gradients(name: str) -> None:
    """Log r has a graph where z has one; what is learned is done when a fit returns, and when it is read again."""
    given = scored(name)
    z = given.sample(4, rng=stream(0))
    again = distribution.rebuild(given.kind, given.config(), given.tensors())
    assert not any(x.requires_grad for x in (z, given.log_prob(z), again.log_prob(z)))


@every_kind
def test_compensation_identity_by_quadrature(name: str) -> None:
    """sum w_i KL(q_i || r) = I + KL(qbar || r), every term on nodes of its own."""
    p, given = posteriors(2), scored(name)
    nodes, weights = hermite(p.mean, p.scale, 24)
    log_q = -p.scale.log().sum(1) - math.log(2 * math.pi) - 1  # E_q[log q] = -entropy, exact
    left = float((log_q - given.log_prob(nodes.reshape(-1, 2)).reshape(p.n, -1) @ weights).mean())
    information = float((log_q - p.log_prob(nodes.reshape(-1, 2)).reshape(p.n, -1) @ weights).mean())
    log_qbar, log_r = p.log_prob(GRID), on_grid(name)
    hole = float((log_qbar.exp() * (log_qbar - log_r)).sum()) * AREA
    assert 0 < information < math.log(p.n)
    assert left == pytest.approx(information + hole, abs=ROUGH.get(given.kind, 1e-4))


@every_kind
def test_draws_follow_the_density(name: str) -> None:
    given = scored(name)
    if given.density == "bound":
        pytest.skip("a bound is not what the draws follow")
    assert odds(name, given.sample(4000, rng=stream(1, name))) > 1e-4


@pytest.mark.parametrize(
    "plant",
    [lambda z: 1.2 * z, lambda z: z / 1.2, lambda z: z + 0.25, lambda z: z[:, [1, 0]] * torch.tensor([1.0, -1.0])],
    ids=["scale 20% large", "scale 20% small", "shifted by 0.25", "correlation reversed"],
)
@pytest.mark.parametrize("name", ["gaussian", "mixture", "aggregated"])
def test_the_test_of_draws_trips_on_a_planted_error(name: str, plant) -> None:
    given = r(name)
    assert odds(name, plant(given.sample(4000, rng=stream(1, name)))) < 1e-4


@every_dtype
@every_kind
def test_draws_are_of_the_stored_dtype_and_decided_by_the_generator_alone(name: str, dtype: torch.dtype) -> None:
    given = r(name, dtype=dtype)
    before = torch.get_rng_state()
    a, b, c = (given.sample(7, rng=stream(s, "draws")) for s in (0, 0, 1))
    stored = [t.dtype for t in given.tensors().values()] or [torch.float32]
    assert a.shape == (7, 2)
    assert a.dtype in stored
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


@every_dtype
@every_kind
def test_how_factors_lie_in_memory_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    """Column by column, as Cholesky factors come; what is loaded lies row by row."""
    given = r(name, d=8, dtype=dtype)
    square = {k: t.ndim > 1 and t.shape[-1] == t.shape[-2] for k, t in given.tensors().items()}
    turned = {k: t.mT.contiguous().mT if square[k] else t for k, t in given.tensors().items()}
    other = distribution.rebuild(given.kind, given.config(), turned)
    z = torch.randn(60, 8, generator=stream(1), dtype=dtype)
    assert given.density == "none" or torch.equal(other.log_prob(z), given.log_prob(z))
    for n in (1, 7, 9, 100):
        assert torch.equal(other.sample(n, rng=stream(0)), given.sample(n, rng=stream(0)))


@every_dtype
@every_kind
def test_saved_and_loaded_to_the_same_bits(name: str, dtype: torch.dtype, tmp_path) -> None:
    given = r(name, dtype=dtype)
    written = given.save(tmp_path / "a", key="k", seed=3, posteriors="hash")
    back = latent.load(tmp_path / "a")
    again = distribution.rebuild(given.kind, given.config(), given.tensors())
    z = posteriors(2).mean
    for other in (back, again):
        assert type(other) is type(given)
        assert (other.label, other.bytes, other.least_rows) == (given.label, given.bytes, given.least_rows)
        assert given.density == "none" or torch.equal(other.log_prob(z), given.log_prob(z))
        assert torch.equal(other.sample(9, rng=stream(0)), given.sample(9, rng=stream(0)))
    assert (written.seed, written.key, written.inputs) == (3, "k", {"posteriors": "hash"})
    back.save(tmp_path / "b", key="k", seed=3, posteriors="hash")
    for file in sorted(p.name for p in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def kernels(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in torch, or, where they were built, the compiled ones."""
    if wanted == "torch":
        monkeypatch.setattr(compiled, "module", None)


@pytest.mark.parametrize("wanted", ["compiled", "torch"])
@every_kind
def test_log_prob_does_not_depend_on_blocks_or_company(name: str, wanted: str, monkeypatch) -> None:
    kernels(wanted, monkeypatch)
    given = scored(name)
    z = 3 * torch.randn(40, 2, generator=stream(0, "z"), dtype=torch.float64)
    whole = given.log_prob(z)
    assert whole.dtype == torch.float64
    monkeypatch.setattr(mixture_torch, "POINTS", 7)
    monkeypatch.setattr(mixture_torch, "COMPONENTS", 5)
    monkeypatch.setattr(mixture_torch, "PANEL", 11)
    monkeypatch.setattr(dense, "POINTS", 7)
    torch.testing.assert_close(given.log_prob(z), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([given.log_prob(b) for b in z.split(9)]), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", ["compiled", "torch"])
@every_kind
def test_gradient_of_the_log_density_is_that_of_differences(name: str, wanted: str, monkeypatch) -> None:
    """By autograd, or by the mixtures' own scores, in whatever blocks."""
    kernels(wanted, monkeypatch)
    given = scored(name)
    z = 2 * torch.randn(9, 2, generator=stream(0, "z"), dtype=torch.float64)
    steps = 1e-5 * torch.eye(2, dtype=torch.float64)
    expected = torch.stack([(given.log_prob(z + h) - given.log_prob(z - h)) / 2e-5 for h in steps], 1)
    for size in (5, 1000):
        monkeypatch.setattr(mixture_torch, "POINTS", size)
        monkeypatch.setattr(mixture_torch, "COMPONENTS", size)
        monkeypatch.setattr(dense, "FLOATS", size)
        point = z.clone().requires_grad_()
        (found,) = torch.autograd.grad(given.log_prob(point).sum(), point)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@every_kind
def test_far_from_all_mass_the_log_density_is_low_and_finite(name: str) -> None:
    far = scored(name).log_prob(torch.tensor([[1e4, 0.0], [0.0, -1e4]], dtype=torch.float64))
    assert torch.isfinite(far).all()
    assert (far < -1e5).all()


@every_kind
def test_log_prob_refuses_what_is_no_point_of_its_space(name: str, unchecked: None) -> None:
    given = scored(name)
    with pytest.raises(ArrayError, match=r"z: expected shape \[n, 2\], got \[4, 3\]"):
        given.log_prob(torch.zeros(4, 3))
    with pytest.raises(ArrayError, match=r"z: expected finite numbers, got nan in 1 of 4 rows \(row 2\)"):
        given.log_prob(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, math.nan], [0.0, 0.0]]))


def tilted(name: str, q: MemoryPosteriors, draws: int = 1):
    given = r(name)
    out = given.tilt(q.mean, q.scale, draws=draws, rng=stream(0, "tilt"))
    if out is None:
        pytest.skip("no closed form is known")
    return given, out


def narrow() -> MemoryPosteriors:
    """Three posteriors with scales below 1, where every tilt is finite."""
    return MemoryPosteriors(
        torch.tensor([[1.2, -0.4], [0.0, 0.3], [-1.5, -1.1]], dtype=torch.float64),
        torch.tensor([[0.5, 0.6], [0.9, 0.3], [0.4, 0.8]], dtype=torch.float64),
    )


def log_product(q: MemoryPosteriors, i: int, name: str) -> tuple[Tensor, Tensor]:
    """log q_i and log(r/p) on the grid."""
    log_q = -0.5 * ((GRID - q.mean[i]) / q.scale[i]).square().sum(1) - q.scale[i].log().sum() - math.log(2 * math.pi)
    log_p = -0.5 * GRID.square().sum(1) - math.log(2 * math.pi)
    return log_q, on_grid(name) - log_p


@every_kind
def test_evidence_gain_is_the_integral_and_exceeds_the_code_gain_by_a_kl(name: str) -> None:
    """(b) = log E_q[r/p], and (b) - (a) = KL(q || q_r), with q_r normalised by quadrature."""
    q = narrow()
    given, out = tilted(name, q)
    for i in range(q.n):
        log_q, gap = log_product(q, i, name)
        integral = float(torch.logsumexp(log_q + gap, 0) + math.log(AREA))
        elbo_gain = float((log_q.exp() * gap).sum()) * AREA
        log_q_r = log_q + gap - integral
        kl = float((log_q.exp() * (log_q - log_q_r)).sum()) * AREA
        assert float(out.log_ratio[i]) == pytest.approx(integral, abs=1e-6)
        assert float(out.log_ratio[i]) - elbo_gain == pytest.approx(kl, abs=1e-6)
        assert kl >= -1e-9


@every_kind
def test_tilted_draws_follow_q_r(name: str) -> None:
    """First and second moments of 4,000 draws against quadrature, within 4.5 standard errors."""
    q = narrow()
    given, out = tilted(name, q, 4000)
    for i in range(q.n):
        log_q, gap = log_product(q, i, name)
        mass = torch.softmax(log_q + gap, 0)
        z = out.draws[i].double()
        for f in (lambda z: z, lambda z: z.square(), lambda z: z.prod(1, keepdim=True)):
            expected = mass @ f(GRID)
            stderr = ((mass @ f(GRID).square() - expected.square()) / len(z)).sqrt()
            assert ((f(z).mean(0) - expected).abs() < 4.5 * stderr).all()


@every_kind
def test_tilt_does_not_depend_on_blocks(name: str, monkeypatch) -> None:
    q = posteriors(2)
    _, whole = tilted(name, q, 3)
    monkeypatch.setattr("zprime.components.PAIRS", 7)
    _, pieces = tilted(name, q, 3)
    torch.testing.assert_close(pieces.log_ratio, whole.log_ratio, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pieces.draws, whole.draws, rtol=1e-10, atol=1e-12)


@every_kind
def test_distributions_can_be_looked_for_in_lists_and_sets(name: str) -> None:
    """Comparing two of them is no question about tensors."""
    a = r(name)
    b = distribution.rebuild(a.kind, a.config(), a.tensors())
    assert [b, a].index(a) == (0 if a == b else 1)
    assert a in {a, b}


@every_kind
def test_storage_is_counted_and_rows_are_owned_up_to(name: str) -> None:
    given = r(name)
    assert given.bytes == sum(t.numel() * t.element_size() for t in given.tensors().values())
    assert given.holds_rows == name.startswith(("aggregated", "exemplars", "defensive-aggregated"))
    assert given.holds_rows == (given.least_rows == 1)
    uncounted = ("prior", "standard-normal", "vamp", "flow", "resampled", "two-stage")
    assert (given.least_rows is None) == name.startswith(uncounted)
    assert f"d=2, {given.bytes} bytes" in repr(given)


@pytest.mark.parametrize("name", ["mixture", "resampled-energy", "two-stage", "shared-nuts"])
def test_a_wrapper_s_density_is_what_it_wraps(name: str) -> None:
    base = r(name)
    assert base.density == {"resampled-energy": "estimate", "two-stage": "bound", "shared-nuts": "none"}.get(
        name, "exact"
    )
    halves = torch.full((2,), 0.5, dtype=torch.float64).log()
    for wrapped in (Defensive(base, 0.1), Active(base, (0, 2), 3), Conditional((0, 1), halves, (base, r("gaussian")))):
        assert wrapped.density == base.density


def test_of_parts_with_different_densities_the_least_exact_counts() -> None:
    thirds = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    parts = (r("two-stage"), r("gaussian"), r("resampled-energy"))
    assert Conditional((0, 1, 2), thirds, parts).density == "estimate"


def test_every_kind_but_the_prior_compares_by_identity() -> None:
    """A frozen dataclass of tensors that compares by value raises when it is looked for in a list."""
    ours = {c for c in distribution.REGISTRY.values() if c.__module__.startswith("zprime.")}
    for found in ours - {Prior}:
        assert found.__eq__ is object.__eq__, found
        assert found.__hash__ is object.__hash__, found


def test_every_public_kind_is_in_the_zoo() -> None:
    public = {
        kind
        for kind, c in distribution.REGISTRY.items()
        if not c.__name__.startswith("_") and c.__module__.startswith("zprime.")
    }
    public -= {"aggregated-on-demand", "torch"}  # views of what lies elsewhere, never saved
    assert {"prior", "gaussian", "mixture", "aggregated", "defensive"} <= public
    assert public <= {r(name).kind for name in ZOO}


def test_loading_says_what_does_not_fit() -> None:
    with pytest.raises(
        ArtifactError,
        match=r"nonsense.kind: expected one of .*aggregated, .*prior",
    ):
        distribution.rebuild("nonsense", {}, {})
    wrong = {
        "gaussian": ({}, "gaussian.mean: expected a tensor, got none"),
        "prior": ({"dim": "many"}, "prior.dim: expected a whole number from 1 to 1048576, got 'many'"),
        "defensive": ({"epsilon": 0.1}, "defensive.base: expected a value, got none"),
    }
    for kind, (config, why) in wrong.items():
        with pytest.raises(ArtifactError, match=f"latent distribution: {why}; fit it again"):
            distribution.rebuild(kind, config, {})
