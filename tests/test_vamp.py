"""kind vamp: pseudo-inputs learned through a frozen encoder."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from ring import (
    AREA,
    GRID,
    company_does_not_matter,
    draws_agree,
    fit,
    gaussian_kl,
    kl,
    mass,
    same_bits_twice,
    saved_bits,
)
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.kernels import trainable_mixture_log_prob
from zprime.latent.kind import Context, Fit
from zprime.latent.vamp import PseudoInputs, Vamp, VampSettings, all_left, medoids
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


class Line(nn.Module):
    """A frozen encoder of 3 inputs: q(z|x) = N(w * x[:2], diag(scale(x[2])^2)); the third input is the width alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gain * x[:, :2], (0.2 + 0.2 * torch.sigmoid(x[:, 2:])).expand(-1, 2)

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(z, 1.0), 1)


MODEL = Line()


def rows(n: int, name: str) -> Rows:
    """On a circle of radius 4 (radius 2 for the codes), widths from narrow to wide."""
    rng = stream(0, "vamp", name)
    angle = 2 * math.pi * torch.rand(n, generator=rng, dtype=torch.float64)
    width = torch.randn(n, generator=rng, dtype=torch.float64)
    return Rows(name, torch.stack([4 * angle.cos(), 4 * angle.sin(), width], 1), torch.arange(n))


TRAIN, SELECTION = rows(150, "train"), rows(60, "selection")
CONTEXT = Context(MODEL, TRAIN, SELECTION)


def encode(x: Rows) -> MemoryPosteriors:
    with torch.no_grad():
        return MemoryPosteriors(*MODEL.encode(x.x))


def fitted(settings: VampSettings, train: MemoryPosteriors | None = None, **extra: Any) -> Fit[Vamp]:
    return fit(settings, train or encode(TRAIN), encode(SELECTION), **{"context": CONTEXT, **extra})


@pytest.fixture(scope="module")
def found() -> Fit[Vamp]:
    return fitted(VampSettings(components=16, epochs=6, batch=256, lr=1e-2))


def test_ring_is_followed_where_one_gaussian_cannot_and_better_than_by_rows(found) -> None:
    p = encode(TRAIN)
    start = fitted(VampSettings(components=16, epochs=1, batch=2, lr=1e-12)).distribution
    assert gaussian_kl(p) > 0.7
    assert kl(p, found.distribution) < 0.05
    assert kl(p, found.distribution) < 0.5 * kl(p, start)
    assert found.outcome.ok


def test_every_row_as_a_component_and_no_step_is_the_aggregated_posterior() -> None:
    p = encode(TRAIN)
    r = fitted(VampSettings(components=1000, epochs=1, batch=2, lr=1e-300)).distribution
    assert r.label == "vamp(150)"
    torch.testing.assert_close(r.log_prob(GRID), p.log_prob(GRID), rtol=0, atol=1e-6)
    assert r.holds_rows  # it is the training rows' posteriors, and says so


def test_one_wide_cloud_is_met_at_its_own_entropy() -> None:
    """Rows that are all alike: one component is the one posterior."""
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).expand(30, -1)
    same = Rows("same", x, torch.arange(30))
    p = encode(same)
    r = fit(VampSettings(components=1, epochs=1, batch=8), p, p, context=Context(MODEL, same, same)).distribution
    assert abs(kl(p, r)) < 1e-6


def test_components_are_the_encoders_posteriors_at_inputs_inside_the_box(found) -> None:
    """mean = w x and scale = s(x) can be solved for x here: all of it must lie in the range of the rows."""
    r = found.distribution
    x = r.mean / MODEL.gain.detach()
    low, high = TRAIN.x.amin(0), TRAIN.x.amax(0)
    width = torch.logit((r.scale[:, 0] - 0.2) / 0.2)
    torch.testing.assert_close(r.scale[:, 0], r.scale[:, 1])
    assert (x >= low[:2] - 1e-9).all()
    assert (x <= high[:2] + 1e-9).all()
    assert (width >= low[2] - 1e-6).all()
    assert (width <= high[2] + 1e-6).all()


def test_inputs_that_want_to_leave_the_box_stop_at_its_wall() -> None:
    """Posteriors wider than the encoder can give pull the widths up: to the largest of the rows, and no further."""
    p = encode(TRAIN)
    r = fitted(
        VampSettings(components=4, epochs=2, batch=32, lr=0.05), MemoryPosteriors(p.mean, 4 * p.scale)
    ).distribution
    widest = float(p.scale.max())
    assert float(r.scale.max()) == pytest.approx(widest, abs=1e-9)
    assert float(r.scale.min()) > 0.95 * widest


def test_learned_inputs_are_no_training_rows_once_all_have_left_these() -> None:
    """Few epochs leave some within half of the distance to the nearest other code: they count as rows until then."""
    for epochs, rows in ((1, True), (40, False)):
        found = fitted(VampSettings(components=16, epochs=epochs, batch=256, lr=0.05, patience=0))
        assert found.distribution.holds_rows == rows
        assert found.distribution.least_rows == (1 if rows else None)
    p = encode(TRAIN)
    gap = torch.cdist(found.distribution.mean, p.mean) + torch.cdist(found.distribution.scale, p.scale)
    assert found.chosen.settings["epoch"] > 0
    assert float(gap.min()) > 1e-4  # none has moved onto another row


def test_codes_that_are_not_the_encoders_own_make_no_row_leave() -> None:
    """Posteriors may have been moved after encoding (`--steps`): how far an input has moved is by the encoder alone."""
    p = encode(TRAIN)
    moved = MemoryPosteriors(p.mean + 0.5, p.scale)
    found = fitted(VampSettings(components=3, epochs=1, batch=8, lr=1e-9), moved)
    gap = torch.cdist(found.distribution.mean, p.mean)
    assert float(gap.amin(1).max()) < 1e-4  # at rows
    assert found.distribution.holds_rows


def test_a_pseudo_input_counts_as_its_row_until_it_is_half_way_to_the_nearest_other_code() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
    began = torch.tensor([0, 2])
    for first, second, left in (
        (0.51, 1.6, True),
        (0.49, 1.6, False),  # the nearest other code of row 0 is 1 away
        (0.51, 1.4, False),  # that of rows 2 and 3, which are the same, is 3 away
    ):
        assert all_left(codes, began, torch.tensor([[0.0, -first], [0.0, 3 + second]])) == left
    assert not all_left(torch.ones(5, 2), torch.tensor([1]), torch.full((1, 2), 9.0))  # all rows have one code


def test_pseudo_inputs_stay_inside_and_constant_entries_stay_put() -> None:
    x = torch.tensor([[0.0, 5.0, 7.0], [10.0, -5.0, 7.0], [4.0, 0.0, 7.0]])
    inputs = PseudoInputs(x, torch.tensor([2, 0]))
    assert torch.equal(inputs.rows(), x[[2, 0]])
    with torch.no_grad():
        inputs.free += torch.tensor([[3.0, -3.0, 3.0], [0.5, 0.0, -9.0]])
    inputs.clamp()
    assert torch.equal(inputs.rows(), torch.tensor([[10.0, -5.0, 7.0], [5.0, 5.0, 7.0]]))


def test_encoder_is_left_as_it_was(found) -> None:
    """No gradient, no step, no change of mode."""
    model = Line().train()
    fitted(VampSettings(components=3, epochs=1, batch=8), context=Context(model, TRAIN, SELECTION))
    assert model.gain.grad is None
    assert model.gain.requires_grad
    assert float(model.gain.detach()) == 0.5
    assert model.training


def test_log_mixture_is_torchs_own_and_its_gradient_reaches_the_inputs() -> None:
    rng = stream(0)
    mean, scale = torch.randn(4, 3, generator=rng), torch.rand(4, 3, generator=rng) + 0.1
    log_weight, z = torch.randn(4, generator=rng).log_softmax(0), torch.randn(9, 3, generator=rng)
    parts = Independent(Normal(mean, scale), 1)
    expected = MixtureSameFamily(Categorical(logits=log_weight), parts).log_prob(z)
    torch.testing.assert_close(trainable_mixture_log_prob(z, mean, scale, log_weight), expected)


def test_starting_rows_are_different_and_one_to_a_clump() -> None:
    rng = stream(0)
    clump = torch.arange(5).repeat_interleave(40)
    mean = torch.stack([10.0 * clump, 0.1 * torch.randn(200, generator=rng)], 1)
    taken = medoids(MemoryPosteriors(mean, torch.ones(200, 2)), 60, rng=stream(1))
    assert len(set(taken.tolist())) == 60
    everything = medoids(MemoryPosteriors(mean, torch.ones(200, 2)), 200, rng=stream(1))
    assert sorted(everything.tolist()) == list(range(200))
    alike = medoids(MemoryPosteriors(torch.ones(10, 2), torch.ones(10, 2)), 10, rng=stream(1))
    assert sorted(alike.tolist()) == list(range(10))


def test_density_adds_up_to_one(found) -> None:
    assert mass(found.distribution) == pytest.approx(1, abs=1e-6)


def test_draws_follow_the_density(found) -> None:
    draws_agree(found.distribution)


def test_evidence_gain_is_the_integral(found) -> None:
    """A mixture of Gaussians, so log E_q[r/p] has a closed form: against the grid."""
    r = found.distribution
    mean, scale = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    out = r.tilt(mean, scale, draws=0, rng=stream(0))
    q = MemoryPosteriors(mean, scale)
    terms = q.log_prob(GRID) + r.log_prob(GRID) + 0.5 * GRID.square().sum(1) + math.log(2 * math.pi)
    expected = float(torch.logsumexp(terms, 0)) + math.log(AREA)
    assert float(out.log_ratio[0]) == pytest.approx(expected, abs=1e-6)


def test_same_seed_same_bits() -> None:
    same_bits_twice(
        VampSettings(components=4, epochs=1, batch=16),
        encode(TRAIN),
        lambda settings, train, seed: fitted(settings, train, seed=seed),
    )


def test_saved_and_loaded_to_the_same_bits(found, tmp_path) -> None:
    saved_bits(found.distribution, tmp_path / "r")


def test_log_prob_does_not_depend_on_company(found) -> None:
    company_does_not_matter(found.distribution)


def test_what_it_needs_is_asked_for() -> None:
    with pytest.raises(UsageError, match="kind vamp: needs the model and the rows"):
        fitted(VampSettings(), context=None)
    with pytest.raises(UsageError, match="components: expected at least 1, got 0"):
        fitted(VampSettings(components=0))
    with pytest.raises(ArrayError, match="context: expected the 150 rows that the posteriors belong to, got 60"):
        fitted(VampSettings(), context=Context(MODEL, SELECTION, SELECTION))


def test_encoder_without_gradients_is_refused() -> None:
    class Closed(Line):
        @torch.no_grad()
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().encode(x)

    with pytest.raises(UsageError, match="carries no gradient with respect to its input"):
        fitted(VampSettings(components=2), context=Context(Closed(), TRAIN, SELECTION))
