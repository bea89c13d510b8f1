"""Collapsed dimensions keep the prior."""

import pytest
import torch

from tasks import task
from zprime.arrays import standard_log_prob
from zprime.fitting import fit
from zprime.latent import Active, Defensive, Gaussian, MixtureSettings, Prior
from zprime.latent.active import active_dimensions, restrict
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def collapsed(n: int, seed: int, d: int = 20, used: int = 2) -> MemoryPosteriors:
    """Codes in two clumps on the first dimensions; posterior = prior on all others, up to the encoder's noise."""
    rng = stream(seed, "collapsed")
    mean = 0.03 * torch.randn(n, d, generator=rng)
    clump = 2.0 * torch.randint(2, (n, 1), generator=rng) - 1
    mean[:, :used] = 0.9 * clump + 0.2 * torch.randn(n, used, generator=rng)
    scale = torch.full((n, d), 0.999)
    scale[:, :used] = 0.2
    return MemoryPosteriors(mean, scale)


def gain(r: Active | Defensive | Gaussian, codes: MemoryPosteriors) -> float:
    z = codes.draw(rng=stream(0, "held-out"), draws=4)
    return float((r.log_prob(z) - standard_log_prob(z)).mean())


def test_dimensions_are_told_by_the_variance_of_the_mean() -> None:
    assert active_dimensions(collapsed(500, 0)) == [0, 1]
    assert active_dimensions(MemoryPosteriors(torch.zeros(5, 2), torch.ones(5, 2))) == []


def test_the_plain_mixture_loses_to_the_prior_and_the_wrapped_one_wins() -> None:
    train, selection, heldout = collapsed(120, 0), collapsed(400, 1), collapsed(400, 2)
    # fitted to one draw a row, as fitting any mixture to samples does; EM on the posteriors knows better (below)
    settings = MixtureSettings(components=10, codes="draws")
    plain = settings.fit(task(train, selection=selection, rng=stream(0, "plain"))).distribution
    assert gain(plain, heldout) < -0.2  # type: ignore[arg-type]
    wrapped = fit(settings, train, selection=selection)
    assert wrapped.chosen.active == [0, 1]
    assert gain(wrapped.distribution, heldout) > 0.5  # type: ignore[arg-type]


def test_knowing_the_variances_is_what_saves_the_plain_mixture() -> None:
    train, selection, heldout = collapsed(120, 0), collapsed(400, 1), collapsed(400, 2)
    gains = {}
    for codes in ("posteriors", "draws", "means"):
        settings = MixtureSettings(components=10, codes=codes)
        gains[codes] = gain(
            settings.fit(task(train, selection=selection, rng=stream(0, "plain"))).distribution,  # type: ignore[arg-type]
            heldout,
        )
    assert gains["posteriors"] > 0.5 > gains["draws"] > gains["means"]


def test_nothing_is_wrapped_where_every_dimension_is_used_or_none() -> None:
    full = MemoryPosteriors(torch.randn(200, 3, generator=stream(0, "f")), torch.full((200, 3), 0.3))
    assert fit("gaussian", full, selection=full, keep_duplicates=True).chosen.active is None
    none = MemoryPosteriors(torch.zeros(50, 3), torch.ones(50, 3))
    assert fit("gaussian", none, selection=none, keep_duplicates=True).chosen.active is None


def test_density_is_the_product_and_tilt_leaves_the_rest_to_q() -> None:
    base = Gaussian(torch.tensor([0.5, -0.2]).double(), torch.tensor([0.6, 0.9]).double())
    r = Active(base, (0, 3), 4)
    z = torch.randn(9, 4, generator=stream(0, "z"), dtype=torch.float64)
    expected = base.log_prob(z[:, [0, 3]]) + standard_log_prob(z[:, [1, 2]])
    torch.testing.assert_close(r.log_prob(z), expected)
    mean, scale = z[:3], torch.full((3, 4), 0.4).double()
    tilted = r.tilt(mean, scale, draws=4000, rng=stream(0, "t"))
    inner = base.tilt(mean[:, [0, 3]], scale[:, [0, 3]], draws=0, rng=stream(0, "t"))
    assert tilted is not None
    assert inner is not None
    torch.testing.assert_close(tilted.log_ratio, inner.log_ratio)
    torch.testing.assert_close(tilted.draws[:, :, [1, 2]].mean(1), mean[:, [1, 2]], rtol=0, atol=0.04)
    assert r.sample(7, rng=stream(0, "s")).shape == (7, 4)


def test_restrict_keeps_rows_and_weights() -> None:
    p = MemoryPosteriors(
        torch.zeros(3, 2), torch.ones(3, 2), weights=torch.tensor([0.5, 0.25, 0.25]), labels=torch.arange(3)
    )
    small = restrict(p, [1])
    assert small.d == 1
    assert small.weights is p.weights
    assert torch.equal(small.row_ids, p.row_ids)


def test_prior_on_all_but_one_dimension_integrates_to_one() -> None:
    r = Active(Prior(1, 0.5), (1,), 2)
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    assert float(r.log_prob(z).exp().sum() * 0.05**2) == pytest.approx(1, abs=1e-6)
