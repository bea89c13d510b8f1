"""What is memorised: against mixtures that were really made without the row, and against exact evidences."""

import math

import pytest
import torch
from scipy.stats import skew
from torch import Tensor

from oracles import linear_gaussian
from zoo import fitted, posteriors, weighted
from zprime.errors import UsageError
from zprime.kernels import ratios
from zprime.latent import Active, Aggregated, Defensive, ExemplarsSettings, Gaussian
from zprime.latent.active import restrict
from zprime.measure.candidates import Candidates
from zprime.measure.latents.leave_one_out import (
    leave_one_out,
    masked_elbo_gain,
    masked_exact_posterior_gain,
    row_mixture,
)
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.estimate import mean_estimate, skew_checked

DOUBLE = torch.float64


def without(p: MemoryPosteriors, i: int) -> MemoryPosteriors:
    """A data set that never had row i."""
    keep = torch.arange(p.n) != i
    w = p.log_weights.exp()[keep]
    return MemoryPosteriors(p.mean[keep], p.scale[keep], row_ids=p.row_ids[keep], weights=w / w.sum())


def aggregated(p: MemoryPosteriors) -> Aggregated:
    return Aggregated(p.mean, p.scale, p.weights)


def ladder(r: Candidates, p: MemoryPosteriors) -> object:
    return measure_gains(r, Split("heldout", p), rng=stream(0, "ladder"))


@pytest.mark.parametrize("p", [posteriors(3), weighted(3, DOUBLE)], ids=["equal", "weighted"])
def test_both_gains_are_those_of_a_mixture_that_was_made_without_the_row(p: MemoryPosteriors) -> None:
    m = row_mixture(aggregated(p), p)
    assert m is not None
    position = torch.tensor([0, 5, 7, 20])
    z = p.take(position).draw(rng=stream(0, "z"), draws=3)
    code, evidence = masked_elbo_gain(m, position, z), masked_exact_posterior_gain(m, position, p.take(position))
    prior = -0.5 * (3 * math.log(2 * math.pi) + z.square().sum(1))
    nothing = {"draws": 0, "rng": stream(0)}
    whole = aggregated(p)
    torch.testing.assert_close(code.with_own.flatten(), whole.log_prob(z) - prior, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        evidence.with_own[0], whole.tilt(p.mean[position], p.scale[position], **nothing).log_ratio, rtol=0, atol=1e-9
    )
    for k, i in enumerate(position.tolist()):
        other = aggregated(without(p, i))
        torch.testing.assert_close(code.others[:, k], other.log_prob(z[k::4]) - prior[k::4], rtol=0, atol=1e-9)
        tilted = other.tilt(p.mean[[i]], p.scale[[i]], **nothing)
        torch.testing.assert_close(evidence.others[:, k], tilted.log_ratio, rtol=0, atol=1e-9)


def test_evidence_gain_without_the_row_is_exact_on_the_linear_gaussian_model() -> None:
    model = linear_gaussian()
    x, _ = model.sample(30)
    p = MemoryPosteriors(*model.posterior(2 * x))
    m = row_mixture(aggregated(p), p)
    assert m is not None
    found = masked_exact_posterior_gain(m, torch.arange(30), p)
    for i in range(30):
        o = without(p, i)
        truth = model.log_evidence(
            2 * x[[i]], log_weight=o.log_weights, mean=o.mean, covariance=torch.diag_embed(o.scale.square())
        ) - model.log_evidence(2 * x[[i]])
        assert float(found.others[0, i]) == pytest.approx(float(truth), abs=1e-9)


def test_masked_not_subtracted() -> None:
    """The row's own component is e^1000 times the rest: a difference of densities would be noise or -inf."""
    mean = 20.0 * torch.arange(5)[:, None].expand(5, 2).double()
    p = MemoryPosteriors(mean, torch.full((5, 2), 0.3).double())
    m = row_mixture(aggregated(p), p)
    assert m is not None
    z = p.mean.clone()
    found = masked_elbo_gain(m, torch.arange(5), z)
    for i in range(5):
        truth = aggregated(without(p, i)).log_prob(z[[i]]) + 0.5 * (2 * math.log(2 * math.pi) + z[[i]].square().sum(1))
        assert float(found.others[0, i]) == pytest.approx(float(truth), rel=1e-12)
    assert float((found.with_own - found.others).min()) > 1000


def test_summary_of_a_panel_pure_and_with_a_share_of_the_prior() -> None:
    p, held = posteriors(2, n=40), posteriors(2, n=50, seed=1)
    candidates = Candidates(
        {"aggregated": Defensive(aggregated(p), 0.1), "one": Gaussian(torch.zeros(2), torch.ones(2))}
    )
    climbed = measure_gains(candidates, Split("heldout", held), rng=stream(0, "ladder"))
    found = leave_one_out(candidates, Split("train", p), climbed, seed=0)
    assert {str(i) for i in found} == {"aggregated+p10", "aggregated"}
    for name in found:
        for gain in (Gain.ELBO, Gain.EXACT_POSTERIOR):
            gains = getattr(found[name], gain)
            held_out = climbed.of(gain)[name]
            assert gains["held-out"].value == pytest.approx(float(held_out.mean()))
            assert gains["self-included"].value > gains["leave-one-out"].value
            gap = gains["self-included"].value - gains["leave-one-out"].value
            assert found[name].memorised[gain].value == pytest.approx(gap)
            assert gains["self-included"].n == 40
            assert (gains["self-included"].split, gains["held-out"].split) == ("train", "heldout")
        # rows of one source: what one gains without itself is what a fresh row gains
        a, b = found[name].elbo["leave-one-out"], found[name].elbo["held-out"]
        error = math.hypot(a.stderr or 0, b.stderr or 0)
        assert 0 < error < 0.5
        assert abs(a.value - b.value) < 4 * error
    # the share goes inside the log: no draw of any row falls below log 0.1
    assert found[CandidateId("aggregated", 10.0)].elbo["leave-one-out"].value > math.log(0.1)


def test_the_prior_share_is_mixed_in_draw_by_draw() -> None:
    p = posteriors(2, n=30)
    r = Defensive(aggregated(p), 0.1)
    candidates = Candidates({"aggregated": r})
    found = leave_one_out(
        candidates, Split("train", p), measure_gains(candidates, Split("heldout", p), rng=stream(0)), seed=3
    )
    rng = stream(3, "leave one out")
    some = p.take(torch.randperm(30, generator=rng)[:1_000_000].sort().values)
    z = some.draw(rng=rng, draws=4)
    prior = -0.5 * (2 * math.log(2 * math.pi) + z.square().sum(1))
    assert found[CandidateId("aggregated", 10.0)].elbo["self-included"].value == pytest.approx(
        float((r.log_prob(z) - prior).mean())
    )


def test_identical_rows_memorise_nothing_and_disjoint_ones_everything() -> None:
    def memorised(mean: torch.Tensor) -> float:
        p = MemoryPosteriors(mean, torch.full_like(mean, 0.5))
        candidates = Candidates({"aggregated": aggregated(p)})
        climbed = measure_gains(candidates, Split("heldout", p), rng=stream(0))
        found = leave_one_out(candidates, Split("train", p), climbed, seed=0)
        return found[CandidateId("aggregated")].memorised[Gain.ELBO].value

    assert memorised(torch.full((10, 2), 0.4).double()) == pytest.approx(0, abs=1e-12)
    assert memorised(30.0 * torch.arange(10)[:, None].expand(10, 2).double()) > 1000


def test_exemplars_and_collapsed_dimensions() -> None:
    p = posteriors(3, n=20)
    exemplars = fitted(ExemplarsSettings(bandwidth=0.4), p)
    m = row_mixture(exemplars, p)
    assert m is not None
    position = torch.arange(20)
    z = p.draw(rng=stream(0, "z"))
    prior = -0.5 * (3 * math.log(2 * math.pi) + z.square().sum(1))
    found = masked_elbo_gain(m, position, z)
    torch.testing.assert_close(found.others[0], exemplars.log_prob_without(z, position) - prior, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.with_own[0], exemplars.log_prob(z) - prior, rtol=0, atol=1e-9)
    # on two of three dimensions: the third takes no part
    inner = aggregated(restrict(p, [0, 2]))
    active = row_mixture(Active(inner, (0, 2), 3), p)
    assert active is not None
    assert active.dims == [0, 2]
    found = masked_elbo_gain(active, position, z)
    torch.testing.assert_close(found.with_own[0], Active(inner, (0, 2), 3).log_prob(z) - prior, rtol=0, atol=1e-9)


def test_what_keeps_no_component_of_every_row_is_left_out() -> None:
    p = posteriors(2, n=20)
    for r in (
        fitted(ExemplarsSettings(bandwidth=0.4, rows=10), p),
        fitted(ExemplarsSettings(bandwidth=0.4, covariance="full"), p),
        fitted(ExemplarsSettings(bandwidth=1.0), p),
        aggregated(posteriors(2, n=20, seed=1)),
        Gaussian(torch.zeros(2), torch.ones(2)),
    ):
        assert row_mixture(r, p) is None


def test_rows_where_the_evidence_diverges_are_counted() -> None:
    scale = torch.full((6, 2), 0.5).double()
    scale[2] = 1.6
    p = MemoryPosteriors(torch.zeros(6, 2).double(), scale)
    candidates = Candidates({"aggregated": aggregated(p)})
    heldout = measure_gains(candidates, Split("heldout", p), rng=stream(0))
    found = leave_one_out(candidates, Split("train", p), heldout, seed=0)[CandidateId("aggregated")]
    assert not found.exact_posterior["self-included"].stable
    assert found.exact_posterior["self-included"].because == "1 rows diverge: q is wider than the prior there"
    assert math.isfinite(found.exact_posterior["self-included"].value)
    assert "diverge" not in found.exact_posterior["leave-one-out"].because  # without itself, no component is as wide


def test_where_a_few_rows_decide_the_interval_is_not_trusted() -> None:
    values = torch.zeros(1000, dtype=torch.float64)
    values[:3] = -300.0
    e = skew_checked(mean_estimate(values, unit="nats", split="train", seed=None), values)
    gamma = float(skew(values.numpy()))
    assert not e.stable
    assert e.because.startswith(f"a few rows decide: 1000 of them, and a skewness that asks for {25 * gamma**2:.0f}")
    plain = torch.randn(1000, generator=stream(0, "plain"), dtype=torch.float64)
    assert skew_checked(mean_estimate(plain, unit="nats", split="train", seed=None), plain).stable
    constant = torch.full((5,), 0.1, dtype=torch.float64)
    assert skew_checked(mean_estimate(constant, unit="nats", split="train", seed=None), constant).stable


def test_one_row_is_refused() -> None:
    p = posteriors(2, n=1)
    candidates = Candidates({"aggregated": aggregated(p)})
    climbed = measure_gains(candidates, Split("heldout", posteriors(2)), rng=stream(0))
    with pytest.raises(UsageError, match="leave-one-out: one of 1 training rows has all the weight"):
        leave_one_out(candidates, Split("train", p), climbed, seed=0)


@pytest.mark.parametrize("p", [posteriors(3), weighted(3, DOUBLE)], ids=["equal", "weighted"])
def test_of_rows_in_groups_the_whole_group_is_left_out(p: MemoryPosteriors) -> None:
    """Both gains are those of a mixture that was made without the group."""
    m, groups = row_mixture(aggregated(p), p), torch.arange(p.n) % 7 * 11
    assert m is not None
    position = torch.tensor([0, 5, 7, 20])
    z = p.take(position).draw(rng=stream(0, "z"), draws=3)
    code = masked_elbo_gain(m, position, z, groups=groups)
    evidence = masked_exact_posterior_gain(m, position, p.take(position), groups=groups)
    alone = masked_elbo_gain(m, position, z)
    torch.testing.assert_close(code.with_own, alone.with_own, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        evidence.with_own, masked_exact_posterior_gain(m, position, p.take(position)).with_own, rtol=0, atol=1e-9
    )
    prior = -0.5 * (3 * math.log(2 * math.pi) + z.square().sum(1))
    for k, i in enumerate(position.tolist()):
        keep = groups != groups[i]
        w = p.log_weights.exp()[keep]
        other = aggregated(MemoryPosteriors(p.mean[keep], p.scale[keep], weights=w / w.sum()))
        torch.testing.assert_close(code.others[:, k], other.log_prob(z[k::4]) - prior[k::4], rtol=0, atol=1e-9)
        tilted = other.tilt(p.mean[[i]], p.scale[[i]], draws=0, rng=stream(0))
        torch.testing.assert_close(evidence.others[:, k], tilted.log_ratio, rtol=0, atol=1e-9)
    single = torch.arange(p.n).flip(0)
    for a, b in ((masked_elbo_gain(m, position, z, groups=single), alone),):
        assert torch.equal(a.others, b.others)
        assert torch.equal(a.with_own, b.with_own)


def test_rows_of_one_group_do_not_vouch_for_each_other() -> None:
    """Five rows of each group at one place: left out alone a row loses little, with its group all that held-out do."""
    rng = stream(4, "places")
    places = torch.rand(60, 2, generator=rng, dtype=DOUBLE) * 2
    groups = torch.arange(200) // 5
    mean = places.repeat_interleave(5, 0) + 0.01 * torch.randn(300, 2, generator=rng, dtype=DOUBLE)
    p, fresh = (MemoryPosteriors(m, torch.full_like(m, 0.1)) for m in mean.split([200, 100]))
    candidates = Candidates({"aggregated": aggregated(p)})
    wanted = CandidateId("aggregated")
    heldout = measure_gains(candidates, Split("heldout", fresh, groups=torch.arange(100) // 5), rng=stream(0, "g"))
    by_group, by_row = (
        leave_one_out(candidates, Split("train", p, groups=g), heldout, seed=0)[wanted].elbo for g in (groups, None)
    )
    held = by_group["held-out"]
    assert held.stderr is not None
    gap = math.hypot(held.stderr, by_group["leave-one-out"].stderr or 0.0)
    assert abs(by_group["leave-one-out"].value - held.value) < 3 * gap
    assert by_row["leave-one-out"].value > held.value + 3 * gap  # the planted fault
    assert by_group["self-included"].value == pytest.approx(by_row["self-included"].value)
    assert (by_group["leave-one-out"].groups, by_row["leave-one-out"].groups) == (40, 0)


def test_one_group_of_training_rows_cannot_be_left_out() -> None:
    p = posteriors(3)
    m = row_mixture(aggregated(p), p)
    assert m is not None
    with pytest.raises(UsageError, match="leave-one-out: one of 1 groups has all the weight"):
        masked_elbo_gain(m, torch.tensor([0]), p.mean[:1], groups=torch.zeros(p.n, dtype=torch.long))


@pytest.mark.parametrize("groups", [None, torch.arange(24) // 4], ids=["rows", "groups"])
@pytest.mark.parametrize("p", [posteriors(3), weighted(3, DOUBLE)], ids=["equal", "weighted"])
def test_sums_over_many_components_are_made_in_panels(
    p: MemoryPosteriors, groups: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = row_mixture(aggregated(p), p)
    assert m is not None
    position = torch.tensor([1, 5, 7, 21])
    rows, nothing = p.take(position), {"draws": 0, "rng": stream(0)}

    def both() -> tuple[Tensor, Tensor, Tensor]:
        gains = masked_exact_posterior_gain(m, position, rows, groups=groups)
        return gains.with_own, gains.others, aggregated(p).tilt(rows.mean, rows.scale, **nothing).log_ratio

    whole = both()
    monkeypatch.setattr(ratios, "PANEL", 5)
    monkeypatch.setattr(ratios, "ROWS", 3)
    made = ratios.blocks
    cut: list[int] = []
    monkeypatch.setattr(ratios, "blocks", lambda n, size: cut.append(n) or made(n, size))
    for a, b in zip(both(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert 24 in cut
