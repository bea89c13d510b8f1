"""r(z|y): parts by label, other populations, and what it refuses."""

import math
from typing import Any

import pytest
import torch

from tasks import task
from zoo import context
from zprime.components import Diagonal
from zprime.errors import ArrayError, UsageError
from zprime.fitting import fit
from zprime.latent import (
    Active,
    AggregatedSettings,
    Conditional,
    ConditionalSettings,
    Defensive,
    ExemplarsSettings,
    FlowSettings,
    Gaussian,
    GaussianSettings,
    Mixture,
    MixtureSettings,
    VampSettings,
    given,
    labels_of,
)
from zprime.latent.gaussian import moments
from zprime.latent.kind import Context, Settings, fields
from zprime.latent.selection import EPSILONS
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def labelled(n: int = 300, seed: int = 0) -> MemoryPosteriors:
    """Label y lies about 3 y."""
    rng = stream(seed, "labelled")
    y = torch.randint(3, (n,), generator=rng)
    mean = 3.0 * y[:, None] + 0.3 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(mean.double(), torch.full((n, 2), 0.3).double(), labels=y)


def made(**settings: Any) -> Conditional:
    p = labelled()
    found = ConditionalSettings(MixtureSettings(**settings)).fit(task(p, selection=p, rng=stream(0, "fit")))
    return found.distribution


def test_each_label_is_drawn_from_its_own_rows() -> None:
    r = made(components=2)
    for y in range(3):
        z = r.given(y).sample(500, rng=stream(0, "s"))
        torch.testing.assert_close(z.mean(0), torch.full((2,), 3.0 * y).double(), rtol=0, atol=0.1)


def test_the_whole_is_the_sum_of_its_parts() -> None:
    r = made(components=1)
    p = labelled()
    z = p.draw(rng=stream(0, "z"))
    shares = torch.bincount(p.labels).double() / p.n  # type: ignore[arg-type]
    parts = torch.stack([r.given(y).log_prob(z).exp() * shares[y] for y in range(3)]).sum(0)
    torch.testing.assert_close(r.log_prob(z), parts.log())
    counts = torch.stack([(r.sample(3000, rng=stream(0, "s"))[:, 0] / 3).round() == y for y in range(3)]).sum(1)
    torch.testing.assert_close(counts.double() / 3000, shares, rtol=0, atol=0.03)


def test_unequal_classes_lose_what_their_entropy_says_under_equal_shares() -> None:
    """Public case 7: ten classes, shares .3 ... .02: equal shares lose log 10 - H = .296 nats, `conditional` none."""
    share = torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02], dtype=torch.float64)
    y = torch.arange(10).repeat_interleave((1000 * share).round().long())
    z = 100.0 * y[:, None] + torch.randn(len(y), 1, generator=stream(7, "classes"), dtype=torch.float64)
    p = MemoryPosteriors(z, torch.full_like(z, 0.1), labels=y)
    r = fit(ConditionalSettings(base=GaussianSettings()), p, selection=p, keep_duplicates=True).distribution
    assert isinstance(r, Conditional)
    equal = r.weighted(dict.fromkeys(range(10), 1.0))
    lost = float((r.log_prob(z) - equal.log_prob(z)).mean())
    assert lost == pytest.approx(math.log(10) + float((share * share.log()).sum()), abs=1e-3)
    assert lost == pytest.approx(0.296, abs=1e-3)


def test_another_population_has_other_shares() -> None:
    r = made(components=1).weighted({0: 0.25, 2: 0.75})
    z = r.sample(4000, rng=stream(0, "s"))
    assert float((z[:, 0] > 3).double().mean()) == pytest.approx(0.75, abs=0.03)
    with pytest.raises(UsageError, match="label: expected one of 0, 2, got 1"):
        r.given(1)
    with pytest.raises(UsageError, match="weights: expected numbers >= 0, one above 0, got"):
        r.weighted({0: -1.0})


def test_tilt_is_that_of_the_mixture_it_amounts_to() -> None:
    r = made(components=1, covariance="diagonal")
    parts = [b for b in r.bases if isinstance(b, Mixture)]
    whole = Diagonal(r.log_weight, torch.cat([b.mean for b in parts]), torch.cat([b.scale_tril for b in parts]))
    mean, scale = torch.randn(6, 2, generator=stream(0, "m")).double(), torch.full((6, 2), 0.5).double()
    ours = r.tilt(mean, scale, draws=3000, rng=stream(0, "t"))
    theirs = whole.tilt(mean, scale, draws=3000, rng=stream(0, "t"))
    assert ours is not None
    torch.testing.assert_close(ours.log_ratio, theirs.log_ratio)
    torch.testing.assert_close(ours.draws.mean(1), theirs.draws.mean(1), rtol=0, atol=0.08)


def test_few_rows_get_one_gaussian_and_are_named() -> None:
    p = labelled()
    keep = (p.labels != 2) | (torch.arange(p.n) < 30)
    few = p.take(keep.nonzero().flatten())
    settings = ConditionalSettings(MixtureSettings(components=2), least_rows=0.0)
    found = settings.fit(task(few, selection=few, rng=stream(0, "f")))
    assert isinstance(found.distribution.given(2), Gaussian)
    assert "one Gaussian for labels with few rows: 1 of them" in found.outcome.message
    assert found.chosen.settings["one Gaussian for labels with few rows"] == [2]


def test_labels_are_needed() -> None:
    bare = MemoryPosteriors(torch.zeros(9, 2), torch.ones(9, 2))
    with pytest.raises(ArrayError, match="kind conditional: needs labels, and these posteriors have none"):
        fit("conditional", bare, selection=bare, keep_duplicates=True)


def test_its_candidate_gets_a_share_like_that_of_every_kind() -> None:
    found = fit("conditional", labelled(60), selection=labelled(200, seed=1))
    assert isinstance(found.distribution, Conditional)
    assert found.chosen.epsilon in EPSILONS


@pytest.mark.parametrize(
    "base",
    [
        GaussianSettings("diagonal"),
        AggregatedSettings(),
        ExemplarsSettings(bandwidth=0.4),
        FlowSettings("maf", 1, (8,), epochs=1, batch=32),
        VampSettings(4, epochs=1, batch=32),
    ],
    ids=lambda s: s.kind,
)
def test_every_kind_can_be_the_base(base: Settings, monkeypatch) -> None:
    monkeypatch.setattr("zprime.latent.gradient.STEPS", 5)
    p, chooser = labelled(), labelled(200, seed=1)
    here = context(p)
    there = Context(here.model, here.train, context(chooser).train)
    settings = ConditionalSettings(base)
    assert settings.name == f"conditional-{base.kind}"
    assert fields(settings) == {"base": {"kind": base.kind, **fields(base)}, "least_rows": 10.0}
    r = settings.fit(task(p, selection=chooser, context=there, rng=stream(0, "fit"))).distribution
    assert {b.kind for b in r.bases} == {base.kind}
    stores = ("aggregated", "exemplars", "vamp")  # after so few steps vamp's inputs are rows
    assert r.holds_rows == (base.kind in stores)
    for y in range(3):
        z = given(r, y).sample(300, rng=stream(0, "s"))
        torch.testing.assert_close(z.mean(0), torch.full((2,), 3.0 * y).double(), rtol=0, atol=0.3)


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (ConditionalSettings(), "base: expected a kind that needs no labels itself, got conditional"),
        (VampSettings(), "kind vamp: needs the model and the rows"),
    ],
)
def test_bases_that_cannot_be(base: Settings, text: str) -> None:
    p = labelled()
    with pytest.raises(UsageError, match=text):
        ConditionalSettings(base).fit(task(p, selection=p, rng=stream(0, "fit")))


def test_a_rare_label_borrows_the_covariance_within_labels() -> None:
    p = labelled()
    assert p.labels is not None
    keep = ((p.labels != 2) | (torch.arange(p.n) < 30)).nonzero().flatten()
    few = p.take(keep)
    n = int((few.labels == 2).sum())
    assert 1 < n < 20
    r = (
        ConditionalSettings(GaussianSettings(), least_rows=0.0)
        .fit(task(few, selection=few, rng=stream(0)))
        .distribution
    )
    rare = r.given(2)
    assert isinstance(rare, Gaussian)
    moment = [moments(few.take((few.labels == y).nonzero().flatten())) for y in range(3)]
    shares = torch.bincount(few.labels).double() / few.n
    within = sum(w * s for w, (_, s) in zip(shares, moment, strict=True))
    expected = (n * moment[2][1] + 20 * within) / (n + 20)
    torch.testing.assert_close(rare.components.scale_tril[0] @ rare.components.scale_tril[0].T, expected)
    torch.testing.assert_close(rare.mean, moment[2][0])


def test_labels_without_weight_are_left_out() -> None:
    p = labelled()
    assert p.labels is not None
    q = p.weighted((p.labels != 1).double())
    settings = ConditionalSettings(MixtureSettings(components=1))
    r = settings.fit(task(q, selection=q, rng=stream(0))).distribution
    assert r.labels == (0, 2)
    assert float(r.log_weight.exp().sum()) == pytest.approx(1)


def test_a_label_is_given_through_what_wraps_it() -> None:
    r = made(components=1)
    assert given(Defensive(r, 0.1), 2) is r.given(2)
    wide = given(Defensive(Active(r, (0, 2), 3), 0.05), 1)
    assert isinstance(wide, Active)
    assert wide.base is r.given(1)
    assert labels_of(Defensive(Active(r, (0, 2), 3), 0.05)) == (0, 1, 2)
    assert labels_of(r.given(1)) == ()
    with pytest.raises(UsageError, match=r"given: expected a conditional latent distribution, got mixture\(1\)"):
        given(r.given(1), 1)


def test_the_draws_come_in_no_order_of_labels() -> None:
    z = made(components=1).sample(600, rng=stream(0, "s"))[:, 0]
    halves = [float(h.mean()) for h in z.split(300)]
    assert halves[0] == pytest.approx(halves[1], abs=0.6)
