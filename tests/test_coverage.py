"""The coverage benchmarks themselves: their groups run, their table calls a short interval short."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zprime.latent import gradient

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

# by its path: another package is called coverage
spec = importlib.util.spec_from_file_location("coverage_likelihood", BENCHMARKS / "coverage.py")
assert spec is not None
assert spec.loader is not None
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)
table = sys.modules["harness"].table
latent = importlib.import_module("coverage_latent").GROUPS
samples = importlib.import_module("generation")
samples.TRUTHS = 200  # pairs behind each truth: enough for what is asked here
models, hard = sys.modules["models"], sys.modules["hard"]
models.SOBOL = 2**9  # the same of the model that is not linear
GROUPS = {**coverage.GROUPS, **latent, **samples.GROUPS}
LONG = [pytest.param("memorised", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Fits by gradients may be bad: the truth is that of the fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "STEPS", 10)
        yield


@pytest.mark.parametrize("group", [*(g for g in GROUPS if g != "memorised"), *LONG])
def test_every_group_gives_intervals_and_their_truths(group: str) -> None:
    """Two data sets, the same at every run: enough to see a truth that is computed wrongly, two half-widths off."""
    for seed in (0, 1):
        found = GROUPS[group](seed)
        assert len({name for name, *_ in found}) == len(found)
        for name, low, high, truth in found:
            assert low < high, name
            assert math.isfinite(truth), name
            if math.isfinite(high - low) and name not in hard.COMPARED:
                assert abs(truth - (low + high) / 2) <= high - low, name


def test_the_table_tells_short_from_wide_from_right() -> None:
    def count(held: int) -> dict[str, float]:
        return {"n": 2000, "held": held, "below": 2000 - held, "above": 0, "width": 2000.0}

    page = table("Title", {"right": count(1895), "short": count(1850), "wide": count(1990)}, "Notes.")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert rows["right"].endswith("| holds |")
    assert rows["short"].endswith("| **short: 92.5%** |")
    assert rows["wide"].endswith("| wider than needed |")
    assert "0.05 / 3" in page


def test_rows_for_comparison_are_named_and_leave_the_others_as_strict() -> None:
    """What is expected to be short is not called short, and is not counted in the correction."""
    held = {"right": 1900, "ignores groups": 1200, "ignores nothing": 1900}
    counts = {k: {"n": 2000, "held": v, "below": 0, "above": 2000 - v, "width": 1.0} for k, v in held.items()}
    page = table("Title", counts, "Notes.", {k: "no groups" for k in held if k != "right"})
    assert "0.05 / 1 " in page
    assert "**short" not in page
    assert "| for comparison: no groups, short as expected |" in page
    assert "| for comparison: no groups, not measurably short |" in page


def test_every_row_for_comparison_is_measured() -> None:
    groups = ("design", "heavy-tails", "no-share", "bound", "two-modes")
    names = {name for group in groups for name, *_ in hard.GROUPS[group](0)}
    assert hard.COMPARED.keys() < names


def test_the_search_for_modes_is_what_puts_the_gain_right() -> None:
    as_it_is, searched = (low_high_truth for _, *low_high_truth in hard.folded(0))
    assert as_it_is[0] > as_it_is[2]
    assert searched[0] < searched[2] < searched[1] < as_it_is[0]


def test_truth_by_sobol_points_is_that_of_the_closed_form() -> None:
    """On the linear model, whose truth is an integral by quadrature: 512 points are right to 0.01 nats."""
    noise = models.sobol(6)
    model, r = coverage.MODEL, models.R
    x = models.latents(noise[:, :2]) @ model.weight.T + model.bias + math.sqrt(model.var) * noise[:, 2:]
    covariance = (r.scale_tril @ r.scale_tril.T)[None]
    of_r = model.log_evidence(x, log_weight=torch.zeros(1), mean=r.mean[None], covariance=covariance)
    found = float((of_r - model.log_evidence(x)).mean())
    assert found == pytest.approx(coverage.truth_gain(coverage.GAUSSIAN), abs=0.01)


def test_exact_gains_of_the_model_that_is_not_linear_keep_their_laws() -> None:
    """Coarse and fine quadrature agree; over rows of the prior E[exp gain] = 1; log p(x) is that of many draws."""
    x = models.bent_rows(models.sobol(6)[:64])
    fine, coarse = (models.bent_gain(x, models.MIXTURE, points) for points in (models.FINE[0], models.COARSE[0]))
    assert float((fine - coarse).abs().max()) < 1e-3
    noise = models.sobol(6)
    own = models.Bent()(noise[:, :2]) + models.NOISE * noise[:, 2:]
    ratio = models.bent_gain(own, models.R, models.COARSE[0]).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * float(ratio.std()) / math.sqrt(len(own)))
    z = torch.randn(200_000, 2, generator=coverage.stream(0, "importance"), dtype=torch.float64)
    fits = -0.5 * ((x[:4, None] - models.Bent()(z)) / models.NOISE).square().sum(2)
    by_draws = fits.sub(4 * math.log(models.NOISE * math.sqrt(2 * math.pi))).exp().mean(1).log()
    torch.testing.assert_close(models.bent_log_prob(x[:4]), by_draws, rtol=0, atol=0.1)
