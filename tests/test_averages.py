"""The averages of the posteriors: each is the best by its own criterion, and its KLs are what sampling says."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from studies import study
from zprime.latent.factors import Matrix
from zprime.measure.latents.averages import averages, forward_kl, reverse_kl
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

D = 3


def posteriors(n: int, seed: int, scale: float = 0.4) -> MemoryPosteriors:
    rng = stream(seed, "averages")
    mean = torch.randn(n, D, generator=rng, dtype=torch.float64) + torch.tensor([1.0, 0, -1]).double()
    spread = scale * (0.5 + torch.rand(n, D, generator=rng, dtype=torch.float64))
    return MemoryPosteriors(mean, spread)


TRAIN, HELD = posteriors(60, 0), posteriors(40, 1)
FOUND = averages(study({"train": TRAIN, "heldout": HELD}), surgery(Split("train", TRAIN), rng=stream(0, "s")))


def torchs(p: MemoryPosteriors, i: int) -> MultivariateNormal:
    return MultivariateNormal(p.mean[i], torch.diag(p.scale[i].square()))


def test_kl_is_torchs() -> None:
    root = torch.randn(D, D, generator=stream(0, "root"), dtype=torch.float64)
    mean, covariance = torch.tensor([0.3, -1.0, 2.0]).double(), root @ root.T + torch.eye(D)
    r = MultivariateNormal(mean, covariance)
    for i in (0, 7):
        assert float(forward_kl(TRAIN, mean, Matrix(covariance))[i]) == pytest.approx(
            float(kl_divergence(torchs(TRAIN, i), r))
        )
        assert float(reverse_kl(TRAIN, mean, Matrix(covariance))[i]) == pytest.approx(
            float(kl_divergence(r, torchs(TRAIN, i)))
        )


def test_each_is_the_best_by_its_own_criterion() -> None:
    names = ("prior", "moment match", "log-pool", "barycentre", "product-of-experts")
    forward = {n: FOUND.members[n].forward.value for n in names}
    reverse = {n: FOUND.members[n].reverse.value for n in names}  # type: ignore[union-attr]
    assert min(forward, key=forward.__getitem__) == "moment match"
    assert min(reverse, key=reverse.__getitem__) == "log-pool"
    assert FOUND.members["aggregated posterior"].forward.value < forward["moment match"]
    # and no small change of the moment match does better
    mean, var = TRAIN.mean.mean(0), (TRAIN.scale.square() + (TRAIN.mean - TRAIN.mean.mean(0)).square()).mean(0)
    best = float(forward_kl(TRAIN, mean, Matrix(torch.diag(var))).mean())
    for step in (-0.02, 0.02):
        assert float(forward_kl(TRAIN, mean + step, Matrix(torch.diag(var))).mean()) > best
        assert float(forward_kl(TRAIN, mean, Matrix(torch.diag(var * (1 + step)))).mean()) > best


def test_compensation_identity() -> None:
    """Mean KL(q||r) = I + KL(qbar||r) for the prior, and the moment match takes off its own KL from the prior."""
    prior, match, exact = (FOUND.members[n] for n in ("prior", "moment match", "aggregated posterior"))
    assert prior.forward.value == pytest.approx(exact.forward.value + exact.to_prior.value)
    assert prior.forward.value - match.forward.value == pytest.approx(match.to_prior.value, abs=1e-9)
    assert match.to_prior.value <= exact.to_prior.value


def test_widths_tell_which_average_collapses() -> None:
    assert FOUND.members["prior"].width == 1
    for name in ("log-pool", "barycentre"):
        assert FOUND.members[name].width == pytest.approx(FOUND.width, rel=0.25)
    assert FOUND.members["moment match"].width > 2 * FOUND.width
    assert FOUND.members["product-of-experts"].width < 0.3 * FOUND.width


def test_held_out_rows_have_an_error_and_training_rows_none() -> None:
    for name, m in FOUND.members.items():
        assert m.forward.n == 60
        assert name == "aggregated posterior" or m.forward.stderr is None
        assert (m.heldout.n, m.heldout.split) == (40, "heldout")
        assert m.heldout.stderr is not None


def test_the_mixture_on_rows_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all training posteriors are one, the mixture is that Gaussian, and the KL a closed form."""
    monkeypatch.setattr("zprime.measure.latents.averages.DRAWS", 4000)
    one = MemoryPosteriors(TRAIN.mean[:1].repeat(5, 1), TRAIN.scale[:1].repeat(5, 1))
    cut = surgery(Split("train", one), rng=stream(0, "s"))
    found = averages(study({"train": one, "heldout": HELD}), cut).members["aggregated posterior"].heldout
    truth = forward_kl(HELD, one.mean[0], Matrix(torch.diag(one.scale[0].square()))).mean()
    assert found.value == pytest.approx(float(truth), rel=0.01)
    # narrow posteriors: closest of all to the rows it was made of, farther than the prior from others
    narrow, new = posteriors(60, 0, scale=0.02), posteriors(40, 1, scale=0.02)
    members = averages(
        study({"train": narrow, "heldout": new}), surgery(Split("train", narrow), rng=stream(0, "s"))
    ).members
    mixture, prior = members["aggregated posterior"], members["prior"]
    assert mixture.forward.value < prior.forward.value
    assert mixture.heldout.low > prior.heldout.high


def test_a_product_that_is_no_density_is_said() -> None:
    wide = MemoryPosteriors(TRAIN.mean, 1.4 * torch.ones_like(TRAIN.scale))
    found = averages(study({"train": wide, "heldout": HELD}), surgery(Split("train", wide), rng=stream(0, "s")))
    assert "product-of-experts" not in found.members
    assert "is no density" in found.product_fails


def test_offset_is_a_length_a_dimension() -> None:
    """A mean of c in every dimension is c away from the prior's, in however many dimensions."""
    p = MemoryPosteriors(torch.full((5, D), -0.7).double(), torch.full((5, D), 0.5).double())
    found = averages(study({"train": p, "heldout": HELD}), surgery(Split("train", p), rng=stream(0, "s")))
    assert found.members["moment match"].offset == pytest.approx(0.7)
    assert found.members["moment match"].width == pytest.approx(0.5)
    assert found.members["prior"].offset == 0


def test_weights_stand_for_rows_that_occur_more_than_once() -> None:
    times = torch.arange(60) // 20 + 1
    one = MemoryPosteriors(TRAIN.mean, TRAIN.scale, weights=(times / times.sum()).double())
    many = MemoryPosteriors(TRAIN.mean.repeat_interleave(times, 0), TRAIN.scale.repeat_interleave(times, 0))
    a, b = (
        averages(study({"train": p, "heldout": HELD}), surgery(Split("train", p), rng=stream(0, "s")))
        for p in (one, many)
    )
    assert list(a.members) == list(b.members)
    for name in ("prior", "moment match", "barycentre", "log-pool"):
        mine, theirs = a.members[name], b.members[name]
        assert mine.forward.value == pytest.approx(theirs.forward.value), name
        assert mine.reverse is not None
        assert theirs.reverse is not None
        assert mine.reverse.value == pytest.approx(theirs.reverse.value), name
        assert (mine.width, mine.offset) == (pytest.approx(theirs.width), pytest.approx(theirs.offset))
    assert a.width == pytest.approx(b.width)
