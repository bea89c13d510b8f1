"""fit: the share of the prior, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zprime import audit, fitting
from zprime.arrays import standard_log_prob
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.fitting import fit, load_fit, save_fit
from zprime.latent import (
    SETTINGS,
    Aggregated,
    ConditionalSettings,
    Defensive,
    Gaussian,
    GaussianSettings,
    MixtureSettings,
    Prior,
    settings_for,
)
from zprime.latent.kind import Context
from zprime.latent.selection import EPSILONS, Codes, RowScores, best_epsilon, smallest_of_best
from zprime.measure.candidates import candidate_of
from zprime.posteriors import MemoryPosteriors, Shard
from zprime.rng import stream


def sharp(n: int, seed: int, scale: float = 0.02) -> MemoryPosteriors:
    """Codes of N(0, I) with narrow posteriors: an aggregated posterior that memorises its few rows."""
    return MemoryPosteriors(torch.randn(n, 4, generator=stream(seed, "sharp")), torch.full((n, 4), scale))


class Nothing:
    """A model that no fit of these tests asks."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError

    def decode(self, z: torch.Tensor) -> torch.distributions.Distribution:
        raise AssertionError


def of(name: str, p: MemoryPosteriors) -> Rows:
    """Rows that the posteriors could be of."""
    return Rows(name, p.mean * 3, p.row_ids)


def test_a_memorising_mixture_is_fitted_as_itself_and_its_candidate_is_defended() -> None:
    found = fit("aggregated", sharp(50, 0), selection=sharp(80, 1))
    assert isinstance(found.distribution, Aggregated)
    assert found.chosen.epsilon == 0.1
    candidate = candidate_of(found.distribution, found.chosen.epsilon, Prior(4))
    z = sharp(80, 2).draw(rng=stream(0, "z"))
    gain = candidate.log_prob(z) - standard_log_prob(z)
    assert float(gain.min()) >= math.log(0.1) - 1e-9


def test_the_candidate_of_a_good_fit_has_the_smallest_share() -> None:
    found = fit("gaussian", sharp(5000, 0), selection=sharp(800, 1))
    assert isinstance(found.distribution, Gaussian)
    assert found.chosen.epsilon == 0.01


@pytest.mark.parametrize("kind", ["log-pool", "barycentre", "product-of-experts"])
def test_what_no_verdict_may_choose_gets_no_share_and_is_what_its_definition_says(kind: str) -> None:
    """Also where a dimension has collapsed: no part of it is replaced by the prior."""
    p = sharp(50, 0, 0.3)
    p = MemoryPosteriors(p.mean * torch.tensor([1.0, 1.0, 1.0, 0.0]), p.scale.index_fill(1, torch.tensor(3), 1.0))
    found = fit(kind, p, selection=p, keep_duplicates=True)
    assert found.distribution.kind == kind
    assert not found.distribution.eligible
    assert (found.chosen.epsilon, found.chosen.active) == (None, None)
    assert fit("gaussian", p, selection=p, keep_duplicates=True).chosen.active == [0, 1, 2]


def test_the_prior_is_never_mixed_with_itself() -> None:
    assert isinstance(fit("prior", sharp(9, 0), selection=sharp(9, 1)).distribution, Prior)


def test_best_share_is_the_best_of_three_by_brute_force() -> None:
    base = fit("aggregated", sharp(50, 0, 0.3), selection=sharp(80, 1, 0.3)).distribution
    codes = Codes.draw(sharp(80, 1, 0.3), Prior(4), rng=stream(0, "codes"))
    epsilon, gains = best_epsilon(codes, base)
    means = {}
    for e in EPSILONS:
        log_r = Defensive(base, e).log_prob(codes.z)
        means[e] = float((log_r - standard_log_prob(codes.z)).mean())
    assert epsilon == max(means, key=lambda e: means[e])
    assert gains.mean == pytest.approx(max(means.values()))


def test_smallest_of_best_is_the_verdicts_rule() -> None:
    base = torch.randn(400, generator=stream(0, "b"), dtype=torch.float64)
    a, b, c = (RowScores(base + m) for m in (1.0, 0.96, 0.94))
    assert smallest_of_best([a, b, c], [300, 200, 100]) == 1  # c is further than 0.05 nats, at no error at all
    noise = torch.randn(400, generator=stream(0, "n"), dtype=torch.float64)
    noisy = RowScores(
        base + 0.6 + 10 * (noise - noise.mean()) / noise.std()
    )  # 0.4 below the best, with a standard error of 0.5
    assert smallest_of_best([a, noisy], [300, 100]) == 1  # a difference below its own standard error


def with_seen(count: int, n: int = 200) -> tuple[MemoryPosteriors, MemoryPosteriors]:
    """Posteriors of training and selection rows; the first `count` of the latter are of training rows."""
    train, other = sharp(300, 0, 0.3), sharp(n, 1, 0.3)
    mean = torch.cat([train.mean[50 : 50 + count], other.mean[count:]])
    return train, MemoryPosteriors(mean, other.scale, row_ids=torch.arange(1000, 1000 + n))


@pytest.mark.parametrize("context", [False, True])
def test_selection_rows_that_training_has_seen_are_refused_unless_told(context: bool) -> None:
    """Planted: 30 % of them. Without rows they are known by their posteriors."""
    train, selection = with_seen(60)
    words = {"context": Context(Nothing(), of("train", train), of("selection", selection))} if context else {}
    same = "equal a training row" if context else "have the posterior of a training row"
    with pytest.raises(ArrayError, match=rf"60 of 200 selection rows {same} \(rows 1000, .*keep_duplicates=True"):
        fit("aggregated", train, selection=selection, **words)
    flattered = fit("aggregated", train, selection=selection, keep_duplicates=True, **words)
    fair = fit("aggregated", train, selection=with_seen(0)[1], **words | ({"context": None} if context else {}))
    assert flattered.chosen.gain is not None
    assert fair.chosen.gain is not None
    assert flattered.chosen.gain > fair.chosen.gain + 0.05


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_few_are_left_out_with_a_warning(
    context: bool, parts: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 rows 2 are 1 %: the fit is that to the other 198; with a context, its rows are left out too."""
    train, selection = with_seen(2)
    tasks = []
    real = GaussianSettings.fit
    monkeypatch.setattr(GaussianSettings, "fit", lambda self, task: tasks.append(task) or real(self, task))
    bounds = [s.tolist() for s in torch.arange(300).chunk(parts)]
    shards = [Shard(at[0], train.mean[at], train.scale[at]) for at in bounds]
    monkeypatch.setattr(train, "shards", lambda: iter(shards))
    words = {"context": Context(Nothing(), of("train", train), of("selection", selection))} if context else {}
    with caplog.at_level("WARNING", "zprime"):
        found = fit("gaussian", train, selection=selection, **words)
    assert "2 of 200 selection rows" in caplog.text
    assert "left out (rows 1000, 1001)" in caplog.text
    kept = torch.arange(2, 200)
    assert torch.equal(tasks[0].selection.row_ids, selection.row_ids[kept])
    assert context is (tasks[0].context is not None)
    if context:
        assert torch.equal(tasks[0].context.selection.ids, selection.row_ids[kept])
    caplog.clear()
    assert found.chosen == fit("gaussian", train, selection=selection.take(kept)).chosen
    assert not caplog.text


def test_three_of_two_hundred_are_refused() -> None:
    train, selection = with_seen(3)
    with pytest.raises(ArrayError, match="3 of 200 selection rows"):
        fit("gaussian", train, selection=selection)


def test_equal_means_with_other_scales_are_other_rows() -> None:
    train, selection = with_seen(200)
    other = MemoryPosteriors(selection.mean, selection.scale * 1.001)
    assert fit("gaussian", train, selection=other).chosen.gain is not None


def test_rows_are_compared_before_they_are_drawn_and_belong_to_the_posteriors() -> None:
    """Equal 0/1 rows of different probabilities are no duplicates."""
    train, selection = with_seen(0)
    drawn = {n: replace(of(n, p), x=torch.ones(p.n, 4), grey=p.mean) for n, p in {"t": train, "s": selection}.items()}
    assert fit("gaussian", train, selection=selection, context=Context(Nothing(), drawn["t"], drawn["s"])).outcome.ok
    few = Context(Nothing(), drawn["t"], drawn["s"].head(9))
    with pytest.raises(ArrayError, match="context: expected the 200 rows of selection, got 9"):
        fit("gaussian", train, selection=selection, context=few)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="kind: expected one of prior, gaussian, .*, got 'flowery'"):
        fit("flowery", sharp(9, 0), selection=sharp(9, 1))
    other = MemoryPosteriors(torch.zeros(5, 3), torch.ones(5, 3))
    with pytest.raises(ArrayError, match="selection: expected 4 latent dimensions as in train, got 3"):
        fit("gaussian", sharp(9, 0), selection=other)


def test_the_time_of_a_fit_is_kept_and_is_no_part_of_its_hash(tmp_path: Path) -> None:
    settings = GaussianSettings()
    found = fit(settings, sharp(50, 0), selection=sharp(80, 1))
    assert found.seconds is not None
    assert found.seconds > 0
    slow, fast = (
        save_fit(replace(found, seconds=s), settings, tmp_path / str(s), key="", seed=0, inputs={}) for s in (9.0, 1.0)
    )
    assert slow.hash == fast.hash
    assert load_fit(slow.path).seconds == 9.0


def test_large_matrices_get_several_threads_and_small_steps_one() -> None:
    many, few = 55_000 * 16, 1_200 * 8
    assert settings_for("mixture").heavy(many)
    assert settings_for("conditional").heavy(many)
    assert not settings_for("mixture").heavy(few)
    for kind in ("flow", "flow-matching", "two-stage", "vamp", "resampled", "shared-nuts"):
        assert not settings_for(kind).heavy(many), kind
    assert not ConditionalSettings(base=settings_for("flow")).heavy(many)


def test_fits_of_many_passes_take_some_of_very_many_data(monkeypatch: pytest.MonkeyPatch) -> None:
    train, selection = sharp(400, 0), sharp(100, 1)
    whole = {kind: fit(kind, train, selection=selection, seed=2) for kind in ("gaussian", "exemplars")}
    monkeypatch.setattr(fitting, "MOST", 150)
    some = train.some(150, rng=stream(2, "fit", "some of many"))
    found = fit("exemplars", train, selection=selection, seed=2)
    assert found.outcome.message.startswith("fitted to 150 of 400 data, drawn at random; ")
    assert found.distribution.label == fit("exemplars", some, selection=selection, seed=2).distribution.label
    assert found.distribution.label != whole["exemplars"].distribution.label
    assert "drawn at random" not in whole["exemplars"].outcome.message
    gaussian = fit("gaussian", train, selection=selection, seed=2)  # one pass: all of them
    assert gaussian.outcome == whole["gaussian"].outcome
    assert torch.equal(*(f.distribution.mean for f in (gaussian, whole["gaussian"])))  # type: ignore[attr-defined]


def test_one_pass_is_quick() -> None:
    quick = {kind for kind, settings in SETTINGS.items() if settings.quick}
    assert quick == {"prior", "gaussian", "log-pool", "barycentre", "product-of-experts", "aggregated"}


def test_a_fit_tells_its_settings_and_the_audit_records_them(tmp_path) -> None:
    train, selection = sharp(40, 0), sharp(40, 1)
    labels = torch.arange(40) % 2
    train, selection = (MemoryPosteriors(p.mean, p.scale, row_ids=p.row_ids, labels=labels) for p in (train, selection))
    settings = ConditionalSettings(MixtureSettings(components=2))
    found = fit(settings, train, selection=selection)
    assert found.settings["base"] == "mixture"
    assert found.settings["base.components"] == 2
    save_fit(found, settings, tmp_path / "fit", key="", seed=0, inputs={})
    again = load_fit(tmp_path / "fit")
    assert again.settings == found.settings
    heldout = sharp(40, 2)
    done = audit({"by-label": again}, {"train": train, "selection": selection, "heldout": heldout})
    assert done.entry("by-label").settings == found.settings
    assert done.entry("prior").settings == {}
