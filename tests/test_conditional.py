"""r(z|y): parts by label, other populations, and what it refuses."""

import pytest
import torch

from zprime.components import Diagonal
from zprime.errors import ArrayError, UsageError
from zprime.fitting import fit
from zprime.latent import Conditional, ConditionalSettings, Defensive, Gaussian, Mixture
from zprime.posteriors import InMemory
from zprime.rng import generator


def labelled(n: int = 300, seed: int = 0) -> InMemory:
    """Label y lies about 3 y."""
    rng = generator(seed, "labelled")
    y = torch.randint(3, (n,), generator=rng)
    mean = 3.0 * y[:, None] + 0.3 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return InMemory(mean.double(), torch.full((n, 2), 0.3).double(), labels=y)


def made(**settings: int) -> Conditional:
    p = labelled()
    found = ConditionalSettings(**settings).fit(p, selection=p, context=None, rng=generator(0, "fit"))
    return found.distribution


def test_each_label_is_drawn_from_its_own_rows() -> None:
    r = made(components=2)
    for y in range(3):
        z = r.given(y).sample(500, rng=generator(0, "s"))
        torch.testing.assert_close(z.mean(0), torch.full((2,), 3.0 * y).double(), rtol=0, atol=0.1)


def test_the_whole_is_the_sum_of_its_parts() -> None:
    r = made(components=1)
    p = labelled()
    z = p.draw(rng=generator(0, "z"))
    shares = torch.bincount(p.labels).double() / p.n  # type: ignore[arg-type]
    parts = torch.stack([r.given(y).log_prob(z).exp() * shares[y] for y in range(3)]).sum(0)
    torch.testing.assert_close(r.log_prob(z), parts.log())
    counts = torch.stack([(r.sample(3000, rng=generator(0, "s"))[:, 0] / 3).round() == y for y in range(3)]).sum(1)
    torch.testing.assert_close(counts.double() / 3000, shares, rtol=0, atol=0.03)


def test_another_population_has_other_shares() -> None:
    r = made(components=1).weighted({0: 1.0, 2: 3.0})
    z = r.sample(4000, rng=generator(0, "s"))
    assert float((z[:, 0] > 3).double().mean()) == pytest.approx(0.75, abs=0.03)
    with pytest.raises(UsageError, match="label: expected one of 0, 2, got 1"):
        r.given(1)
    with pytest.raises(UsageError, match="shares: expected numbers >= 0, one above 0, got"):
        r.weighted({0: -1.0})


def test_tilt_is_that_of_the_mixture_it_amounts_to() -> None:
    r = made(components=1, covariance="diagonal")  # type: ignore[arg-type]
    parts = [b for b in r.bases if isinstance(b, Mixture)]
    whole = Diagonal(r.log_weight, torch.cat([b.mean for b in parts]), torch.cat([b.scale_tril for b in parts]))
    mean, scale = torch.randn(6, 2, generator=generator(0, "m")).double(), torch.full((6, 2), 0.5).double()
    ours = r.tilt(mean, scale, draws=3000, rng=generator(0, "t"))
    theirs = whole.tilt(mean, scale, draws=3000, rng=generator(0, "t"))
    assert ours is not None
    torch.testing.assert_close(ours.log_ratio, theirs.log_ratio)
    torch.testing.assert_close(ours.draws.mean(1), theirs.draws.mean(1), rtol=0, atol=0.08)


def test_few_rows_get_one_gaussian_and_are_named() -> None:
    p = labelled()
    keep = (p.labels != 2) | (torch.arange(p.n) < 30)
    few = p.take(keep.nonzero().flatten())
    found = ConditionalSettings(components=2).fit(few, selection=few, context=None, rng=generator(0, "f"))
    assert isinstance(found.distribution.given(2), Gaussian)
    assert "one Gaussian for labels with few rows: [2]" in found.outcome.message


def test_labels_are_needed() -> None:
    bare = InMemory(torch.zeros(9, 2), torch.ones(9, 2))
    with pytest.raises(ArrayError, match="kind conditional: needs labels, and these posteriors have none"):
        fit("conditional", bare, selection=bare)


def test_fit_defends_it_like_every_kind() -> None:
    found = fit("conditional", labelled(60), selection=labelled(200, seed=1))
    assert isinstance(found.distribution, Conditional | Defensive)
    assert "epsilon" in found.chosen
