"""How many components and factors are tried in many dimensions, and how roughly: the rules of `latent.sizes`."""

import pytest
import torch

from tasks import task
from zprime.arrays import WIDE
from zprime.latent import MixtureSettings, mixture, sizes
from zprime.latent.em import EMRun, run_em
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

D = 3


def two_groups(n: int, seed: int) -> MemoryPosteriors:
    rng = stream(seed, "groups")
    side = torch.randint(2, (n, 1), generator=rng) * 2.0 - 1
    mean = 3 * side + 0.3 * torch.randn(n, D, generator=rng)
    return MemoryPosteriors(mean, torch.full((n, D), 0.3), row_ids=torch.arange(n) + 10**6 * seed)


class Runs:
    """Every run of EM that a fit makes: where it stops, and the bounds it had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, float, EMRun]] = []
        monkeypatch.setattr(mixture, "run_em", self)

    def __call__(self, em, state, what, *, tolerance, **rest) -> EMRun:  # noqa: ANN001, ANN003
        run = run_em(em, state, what, tolerance=tolerance, **rest)
        self.made.append((what, tolerance, run))
        return run


@pytest.mark.parametrize(
    ("gains", "ends"),
    [
        ([1.0, 2.0], False),
        ([3.0, 2.0], False),  # one is not enough
        ([3.0, 2.0, 2.9], True),
        ([3.0, 2.0, 3.1], False),
        ([1.0, 3.0, 2.0, 2.5], True),
        ([3.0, 3.0, 3.04], True),  # a tie is no gain
        ([3.0, 3.0, 3.06], False),
    ],
)
def test_trying_ends_after_two_that_gain_no_more_than_the_best_before(gains: list[float], ends: bool) -> None:
    assert sizes.past_best(WIDE + 1, gains) is ends
    assert sizes.past_best(WIDE, gains) is False


def test_em_stops_roughly_only_in_many_dimensions_and_never_earlier_than_asked() -> None:
    assert sizes.rough(WIDE, 1e-3, 200) == (1e-3, 200)
    assert sizes.rough(WIDE + 1, 1e-3, 200) == (0.05, 40)
    assert sizes.rough(WIDE + 1, 0.2, 10) == (0.2, 10)


@pytest.mark.parametrize("covariance", ["diagonal", "low-rank"])
def test_in_many_dimensions_k_is_chosen_by_rough_runs_and_the_one_taken_is_finished(
    covariance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = 1 if covariance == "low-rank" else 0
    asked = MixtureSettings(covariance=covariance, least_rows=0.0, rank=rank, restarts=2)
    wanted = task(two_groups(1000, 0), selection=two_groups(300, 1), rng=stream(0, "fit"))
    few = asked.fit(wanted)
    for module in (mixture, sizes):
        monkeypatch.setattr(module, "WIDE", D - 1)
    monkeypatch.setattr(sizes, "STEPS", 2)
    runs = Runs(monkeypatch)
    many = asked.fit(wanted)
    assert all(len(run.bounds) <= 2 for _, _, run in runs.made[:-1])
    taken = many.chosen.settings["components"]
    assert taken == few.chosen.settings["components"] == 2
    # as many K as there are in few dimensions, but for those after two that gain no more
    assert [p.value for p in many.curve] == [p.value for p in few.curve][: len(many.curve)]
    assert len(many.curve) < len(few.curve)
    # every run but the last one is rough; that one goes on where the best start had stopped
    assert [tolerance for _, tolerance, _ in runs.made] == [0.05] * (len(runs.made) - 1) + [asked.tolerance]
    best = max(run.bounds[-1] for what, _, run in runs.made[:-1] if what == f"mixture({taken})")
    assert many.trace["bound"][0] >= best - 1e-9
    assert many.trace["bound"][-1] == pytest.approx(few.trace["bound"][-1], abs=0.01)


def test_in_many_dimensions_only_the_k_that_is_taken_is_polished(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mixture, sizes):
        monkeypatch.setattr(module, "WIDE", D - 1)
    fit = MixtureSettings(covariance="diagonal", least_rows=0.0, polish=2, restarts=1).fit(
        task(two_groups(300, 0), selection=two_groups(100, 1), rng=stream(0, "fit"))
    )
    assert "polished" in fit.chosen.settings
    polished: list[int] = []
    monkeypatch.setattr(mixture.ComponentEM, "polish", lambda _, state, **__: polished.append(len(state.mean)) or state)
    MixtureSettings(covariance="diagonal", least_rows=0.0, polish=2, restarts=1).fit(
        task(two_groups(300, 0), selection=two_groups(100, 1), rng=stream(0, "fit"))
    )
    assert polished == [2]


def test_in_many_dimensions_only_the_form_that_is_taken_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = task(two_groups(1000, 0), selection=two_groups(300, 1), rng=stream(0, "fit"))
    for module in (mixture, sizes):
        monkeypatch.setattr(module, "WIDE", D - 1)
    monkeypatch.setattr(mixture, "FULL", D - 1)
    asked = MixtureSettings(least_rows=0.0, restarts=2)
    runs = Runs(monkeypatch)
    fit = asked.fit(wanted)
    assert [tolerance for _, tolerance, _ in runs.made] == [0.05] * (len(runs.made) - 1) + [asked.tolerance]
    k = fit.chosen.settings["components"]
    form = {"covariance": "diagonal"} if fit.distribution.factor is None else {"covariance": "low-rank"}
    alone = MixtureSettings(k, rank=fit.chosen.settings.get("rank", 0), least_rows=0.0, restarts=2, **form).fit(wanted)
    assert torch.equal(fit.distribution.mean, alone.distribution.mean)
    assert fit.curve[0].value == 2
    assert f"{D} dimensions are many" in fit.outcome.message
