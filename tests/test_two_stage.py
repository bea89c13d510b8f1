"""kind two-stage: a second VAE on the codes, its bound against exact answers, and its draws."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from oracles import grid
from ring import GRID, cloud, company_does_not_matter, fit, gaussian_kl, kl, mass, ring, same_bits_twice, saved_bits
from zprime.errors import UsageError
from zprime.latent import two_stage
from zprime.latent.kind import Fit
from zprime.latent.network import Whitening, precise
from zprime.latent.two_stage import Second, TwoStage, TwoStageSettings
from zprime.rng import stream

SMALL = TwoStageSettings(hidden=(48,), epochs=7, batch=128, importance=4, lr=5e-3)

COARSE, AREA = grid(5.0, 61)


@pytest.fixture(scope="module")
def found() -> Fit[TwoStage]:
    return fit(SMALL, ring(), ring(100, "selection"))


def plain(d: int = 2) -> Whitening:
    return Whitening(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))


def true_log_prob(r: TwoStage, z: torch.Tensor) -> torch.Tensor:
    """log int p(u|w) p(w) dw by quadrature over w, for d = 2."""
    w, area = grid(5.0, 71)
    net = precise(r.net, torch.float64)
    scale = net.log_scale.exp()
    gap = torch.cdist(r.whitening.whiten(z) / scale, net.decode(w) / scale).square()
    log_p = -0.5 * w.square().sum(1) - 2 * math.log(2 * math.pi) + math.log(area)
    return torch.logsumexp(log_p - 0.5 * gap, 1) - float(scale.log().sum()) - r.whitening.log_det


def test_start_is_the_moment_match_with_no_gap() -> None:
    """The start's encoder is exact, so even one draw gives log r itself."""
    w = Whitening.of(ring())
    z = GRID[::40]
    expected = MultivariateNormal(w.mean, w.scale_tril @ w.scale_tril.T).log_prob(z)
    torch.testing.assert_close(TwoStage(Second(2, (8,)), w, (8,), 1).log_prob(z), expected, rtol=1e-5, atol=1e-5)


def test_bound_with_one_draw_and_a_wrong_encoder_is_the_elbo_on_average() -> None:
    """A linear model, an encoder shifted by 1/2: mean of the bound over seeds = log p - KL(q || posterior)."""
    net = Second(1, (4,)).double().requires_grad_(False)
    net.encoder[-1].bias[0] = 0.5
    u = torch.tensor([[0.7], [-1.1]], dtype=torch.float64)
    noise = torch.randn(200_000, 1, 1, generator=stream(0), dtype=torch.float64).expand(-1, 2, -1)
    log_ratio = net.log_ratio(u, noise)
    log_p = -0.5 * u[:, 0].square() - 0.5 * math.log(2 * math.pi)
    kl = 0.5 * 0.5**2 / two_stage.START**2  # equal variances
    stderr = log_ratio.std(0) / math.sqrt(200_000)
    assert ((log_ratio.mean(0) - (log_p - kl)).abs() < 4.5 * stderr).all()
    # and the mean of the ratio itself is p(u): what makes many draws tight
    ratio = log_ratio.exp()
    assert ((ratio.mean(0) - log_p.exp()).abs() < 4.5 * ratio.std(0) / math.sqrt(200_000)).all()


def test_bound_lies_below_the_truth_and_closes_with_draws(found) -> None:
    """E_r[log r - bound], over several seeds of the fixed draws: above 0, and smaller with more of them."""
    r = found.distribution
    z = r.sample(400, rng=stream(1))
    truth = true_log_prob(r, z)
    gaps = {}
    for draws in (1, 8, 64):
        means = [float((truth - replace(r, draws=draws, seed=s).log_prob(z)).mean()) for s in range(8)]
        gaps[draws] = sum(means) / len(means)
    assert gaps[1] > gaps[8] > gaps[64] > 0
    assert gaps[64] < 0.1


def test_at_every_point_the_mean_over_seeds_is_the_bound_and_one_seed_may_lie_above(found) -> None:
    """What is claimed, and no more: exp(bound) has mean r(z) over seeds, so the bound's mean is at most log r(z)."""
    z = GRID[::300]
    truth = true_log_prob(found.distribution, z)
    gaps = torch.stack([replace(found.distribution, draws=4, seed=s).log_prob(z) - truth for s in range(400)])
    near = truth > float(truth.max()) - 6
    stderr = gaps.std(0) / 20
    assert (gaps.mean(0) < 4.5 * stderr)[near].all()
    ratio = gaps.exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 20 + 1e-3)[near].all()
    assert (gaps > 0.05).any()


def test_the_mean_bound_moves_with_the_seed_by_what_the_fit_says(found) -> None:
    """All points share the draws: more points do not help, more draws do."""
    r, said = found.distribution, found.chosen.settings["bound_stderr"]
    z = r.sample(2000, rng=stream(2))
    means = torch.tensor([float(replace(r, seed=s).log_prob(z).mean()) for s in range(100, 140)])
    assert 0.4 < said / float(means.std()) < 2.5
    few = torch.tensor([float(replace(r, seed=s).log_prob(z[:200]).mean()) for s in range(100, 140)])
    assert float(few.std()) < 1.5 * float(means.std())
    assert two_stage.spread(replace(r, draws=512), z[:200]) < float(few.std())


def test_truth_by_quadrature_adds_up_to_one_and_the_bound_to_hardly_more(found) -> None:
    r = found.distribution
    assert float(true_log_prob(r, COARSE).exp().sum()) * AREA == pytest.approx(1, abs=2e-3)
    assert 0.8 < mass(r) < 1.1  # an average of 1 over seeds, whose spread with 64 draws is some percent


def test_ring_is_followed_where_one_gaussian_cannot(found) -> None:
    assert gaussian_kl(ring()) > 0.85
    assert kl(ring(), found.distribution) < 0.45  # of the bound; the truth is nearer
    log_q = ring().log_prob(COARSE)
    truth = float((log_q.exp() * (log_q - true_log_prob(found.distribution, COARSE))).sum()) * AREA
    assert 0 < truth < 0.4


def test_one_posterior_is_met_at_its_own_entropy() -> None:
    r = fit(TwoStageSettings(hidden=(8,), epochs=1, batch=64, importance=1, lr=1e-3), cloud()).distribution
    z = cloud().draw(rng=stream(0, "z"), draws=4000)
    assert abs(float((cloud().log_prob(z) - r.log_prob(z)).mean())) < 0.02


def test_draws_follow_the_true_density_noise_included(found) -> None:
    """E[log r] and second moments over draws against quadrature of the truth, within 4.5 standard errors."""
    r = found.distribution
    log_r = true_log_prob(r, COARSE)
    share, drawn = torch.softmax(log_r, 0), r.sample(4000, rng=stream(3, "draws"))
    for f in (
        lambda z: true_log_prob(r, z.double()),
        lambda z: z.square().sum(1),
        lambda z: z.prod(1),
        lambda z: z[:, 0],
    ):
        on_grid = f(COARSE)
        mean = float(share @ on_grid)
        stderr = math.sqrt(float(share @ (on_grid - mean).square()) / len(drawn))
        assert abs(float(f(drawn).mean()) - mean) < 4.5 * stderr


def test_codes_keep_their_spread(found) -> None:
    """A second VAE that collapses draws codes that are too narrow: here within 10 %."""
    drawn = found.distribution.sample(4000, rng=stream(0)).std(0)
    assert (drawn / ring().draw(rng=stream(0), draws=20).std(0)).sub(1).abs().max() < 0.1


def test_far_from_all_codes_the_bound_is_low_and_finite(found) -> None:
    far = found.distribution.log_prob(torch.tensor([[1e4, 0.0], [0.0, -1e4]], dtype=torch.float64))
    assert torch.isfinite(far).all()
    assert (far < -1e5).all()


def test_same_seed_same_bits() -> None:
    same_bits_twice(TwoStageSettings(hidden=(8,), draws=4, epochs=1, batch=16), ring(20, dtype=torch.float32))


def test_saved_and_loaded_to_the_same_bits(found, tmp_path) -> None:
    saved_bits(found.distribution, tmp_path / "r")


def test_log_prob_does_not_depend_on_company(found) -> None:
    assert found.distribution.density == "bound"
    company_does_not_matter(found.distribution)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (TwoStageSettings(draws=0), "draws: expected at least 1, got 0"),
        (TwoStageSettings(importance=0), "importance: expected at least 1, got 0"),
        (TwoStageSettings(hidden=(0,)), r"hidden: .* got \(0,\)"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: TwoStageSettings, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fit(settings, ring(5))
