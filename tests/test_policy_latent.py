"""Who decides what in a fit: the selection split alone, at the stated limits, with a random stream for each part."""

import math

import pytest
import torch
from torch import Tensor

from zprime.distribution import LatentDistribution
from zprime.fitting import fit
from zprime.latent import Active, Conditional, ConditionalSettings, Defensive, Mixture, MixtureSettings, Prior
from zprime.latent.active import active_dimensions
from zprime.latent.em import ComponentEM, State
from zprime.latent.selection import Codes, RowScores, best_epsilon, smallest_of_best
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def base_of(r: LatentDistribution) -> LatentDistribution:
    return base_of(r.base) if isinstance(r, Defensive) else r


def narrow(n: int, seed: int, *, d: int = 2, shift: float = 0.0) -> MemoryPosteriors:
    """Codes of N(shift, I) with narrow posteriors: a mixture of many components learns the rows by heart."""
    mean = shift + torch.randn(n, d, generator=stream(seed, "narrow"), dtype=torch.float64)
    return MemoryPosteriors(mean, torch.full((n, d), 0.02).double())


# -- which split chooses ---------------------------------------------------------------------------------------------


def components(train: MemoryPosteriors, selection: MemoryPosteriors) -> int:
    settings = MixtureSettings(restarts=1, polish=0, least_rows=0.0)
    r = base_of(fit(settings, train, selection=selection, keep_duplicates=True).distribution)
    assert isinstance(r, Mixture)
    return len(r.mean)


def test_the_number_of_components_is_chosen_on_the_selection_split() -> None:
    train = narrow(60, 0)
    assert components(train, train) == 10  # of 2, 5 and 10 (a fifth of the rows is 12) the one that knows most by heart
    assert components(train, narrow(400, 1)) < 10


def test_each_label_is_fitted_to_its_rows_and_chosen_on_its_rows_of_the_selection_split() -> None:
    def both(n: int, seed: int) -> MemoryPosteriors:
        parts = [narrow(n, seed + 10 * y, shift=6.0 * y) for y in (0, 1)]
        mean, scale = (torch.cat([getattr(p, k) for p in parts]) for k in ("mean", "scale"))
        return MemoryPosteriors(mean, scale, labels=torch.arange(2).repeat_interleave(n))

    settings = ConditionalSettings(MixtureSettings(restarts=1, polish=0, least_rows=0.0))
    train = both(60, 0)
    for selection, few in ((train, False), (both(400, 1), True)):
        r = base_of(fit(settings, train, selection=selection, keep_duplicates=True).distribution)
        assert isinstance(r, Conditional)
        for y in (0, 1):
            part = r.given(y)
            assert isinstance(part, Mixture)
            assert (len(part.mean) < 10) is few
            assert float((part.log_weight.exp() @ part.mean).mean()) == pytest.approx(6.0 * y, abs=0.5)


@pytest.mark.parametrize(("wide", "active"), [(0.5, False), (1.4, True)])
def test_whether_unused_dimensions_are_fitted_is_chosen_on_the_selection_split(wide: float, active: bool) -> None:  # noqa: FBT001
    """In the second dimension all posteriors are N(0, 0.5^2): a fit gains there, unless the selection split is wide."""

    def codes(n: int, seed: int, scale: float) -> MemoryPosteriors:
        mean = 2 * torch.randn(n, 2, generator=stream(seed, "codes"), dtype=torch.float64) * torch.tensor([1.0, 0.01])
        return MemoryPosteriors(mean, torch.tensor([0.3, scale]).double().expand(n, 2).contiguous())

    train = codes(200, 0, 0.5)
    assert active_dimensions(train) == [0]
    r = base_of(fit("gaussian", train, selection=codes(200, 1, wide)).distribution)
    assert isinstance(r, Active) is active


@pytest.mark.parametrize("helps", [True, False])
def test_polish_is_kept_if_the_selection_split_gains(helps: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    train, selection = narrow(60, 0), narrow(400, 1)
    step = 0.4 if helps else -0.4

    def begin(self: ComponentEM, k: int, *, rng: torch.Generator) -> State:
        return State(torch.zeros(k).double(), torch.full((k, 2), -0.5).double(), torch.eye(2).double().repeat(k, 1, 1))

    def polish(self: ComponentEM, state: State, *, steps: int, rng: torch.Generator, points: int) -> State:
        return State(state.log_weight, state.mean + step, state.covariance)

    monkeypatch.setattr(
        ComponentEM, "start", begin
    )  # and there EM stays: it is given one step, whose state it looks at
    monkeypatch.setattr(ComponentEM, "step", lambda self, state: (state, 0.0))
    monkeypatch.setattr(ComponentEM, "polish", polish)
    centre = []
    for steps in (0, 3):
        r = base_of(fit(MixtureSettings(components=1, polish=steps), train, selection=selection).distribution)
        assert isinstance(r, Mixture)
        centre.append(float(r.mean.mean()))
    assert centre[1] - centre[0] == pytest.approx(0.4 if helps else 0.0, abs=0.05)


# -- streams of their own --------------------------------------------------------------------------------------------


def test_two_labels_with_the_same_rows_are_fitted_with_random_numbers_of_their_own() -> None:
    one = narrow(60, 0)
    p = MemoryPosteriors(one.mean.repeat(2, 1), one.scale.repeat(2, 1), labels=torch.arange(2).repeat_interleave(60))
    settings = ConditionalSettings(MixtureSettings(components=4, restarts=1))
    found = [base_of(fit(settings, p, selection=p, keep_duplicates=True, seed=s).distribution) for s in (0, 0, 1)]
    parts = [[r.given(y).tensors()["mean"] for y in (0, 1)] for r in found]
    assert not torch.equal(parts[0][0], parts[0][1])
    assert torch.equal(parts[0][0], parts[1][0])
    assert not torch.equal(parts[0][0], parts[2][0])


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_components_of_points_keep_a_thousandth_of_the_spread(covariance: str) -> None:
    """Three points many times over: posteriors' own scales bound a component's from below, points have none."""
    mean = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 12.0]]).double().repeat(20, 1)
    p = MemoryPosteriors(mean, torch.full((60, 2), 0.1).double())
    settings = MixtureSettings(components=3, covariance=covariance, codes="means", polish=0)
    r = base_of(fit(settings, p, selection=p, keep_duplicates=True).distribution)
    assert isinstance(r, Mixture)
    covariances = (
        torch.diag_embed(r.scale_tril.square()) if covariance == "diagonal" else r.scale_tril @ r.scale_tril.mT
    )
    spread = torch.tensor([8.0, 32.0]).double() + 0.01
    torch.testing.assert_close(covariances.diagonal(dim1=1, dim2=2), (1e-6 * spread).expand(3, 2), rtol=1e-3, atol=0)


def scored(values: Tensor) -> Codes:
    """One code a row; with `Prior.log_prob` set to `values`, they are the ELBO gains of every row."""
    return Codes(torch.zeros(len(values), 1).double(), torch.zeros(len(values)).double(), len(values))


@pytest.mark.parametrize(("missed", "share"), [(4, 0.01), (5, 0.05), (14, 0.05), (15, 0.1)])
def test_a_larger_share_of_the_prior_must_earn_a_hundredth_of_a_nat(
    missed: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows of a thousand are missed altogether: they gain log e; the others are worth as much under r as under p.

    A tenth is the best of three. A twentieth is behind by `missed / 1000 * log 2`, a hundredth by `* log 10`: the
    first is no more than 0.01 up to 14 rows, the second up to 4.
    """
    values = torch.zeros(1000).double()
    values[:missed] = -1000.0
    monkeypatch.setattr(Prior, "log_prob", lambda self, z: values)
    found, gains = best_epsilon(scored(values), Prior(1))
    assert found == share
    assert gains.mean == pytest.approx(missed / 1000 * math.log(share))


@pytest.mark.parametrize(("gap", "chosen"), [(0.049, 1), (0.051, 0)])
def test_a_gain_of_a_twentieth_of_a_nat_is_worth_its_bytes(gap: float, chosen: int) -> None:
    values = torch.randn(100, generator=stream(0, "gains"), dtype=torch.float64)
    gains = [RowScores(values + gap), RowScores(values)]  # the same of every row: no standard error
    assert smallest_of_best(gains, [100, 10]) == chosen
    assert smallest_of_best(gains, [10, 100]) == 0


@pytest.mark.parametrize(("errors", "chosen"), [(0.95, 1), (1.05, 0)])
def test_a_gain_of_one_standard_error_is_worth_its_bytes(errors: float, chosen: int) -> None:
    noise = torch.randn(100, generator=stream(0, "gains"), dtype=torch.float64)
    noise = 10 * (noise - noise.mean()) / noise.std()  # a standard error of 1 nat
    assert smallest_of_best([RowScores(noise + errors), RowScores(torch.zeros(100).double())], [100, 10]) == chosen
