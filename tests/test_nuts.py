"""shared-nuts: draws against the linear model's exact posterior, its diagnostics, and what it leaves untouched."""

import importlib
import subprocess
import sys
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from oracles import LinearGaussian, linear_gaussian
from tasks import task
from zprime.data import Rows
from zprime.distribution import rebuild
from zprime.errors import NumericalError, UsageError
from zprime.latent import nuts
from zprime.latent.kind import Context
from zprime.latent.nuts import SharedNUTSSettings, diagnose
from zprime.latent.product_of_experts import ProductOfExpertsSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

pytest.importorskip("pyro")

N = 8


class Plain(nn.Module):
    """The model without what type checks cost at every gradient."""

    def __init__(self, model: LinearGaussian) -> None:
        super().__init__()
        self.model = model

    def encode(self, x):
        return self.model.posterior(x)

    def decode(self, z) -> Distribution:
        mean = z @ self.model.weight.T + self.model.bias
        return Independent(Normal(mean, self.model.var**0.5, validate_args=False), 1, validate_args=False)


def group(model: LinearGaussian, vae: nn.Module, n: int = N) -> tuple[Context, MemoryPosteriors]:
    rng = stream(0, "group", n)
    z = torch.randn(model.weight.shape[1], generator=rng, dtype=torch.float64)
    noise = torch.randn(n, len(model.bias), generator=rng, dtype=torch.float64)
    x = model.weight @ z + model.bias + model.var**0.5 * noise
    mean, scale = model.posterior(x)
    rows = Rows("train", x, torch.arange(n) + 100)
    return Context(vae, rows, rows), MemoryPosteriors(mean, scale, row_ids=rows.ids, labels=torch.arange(n) % 2)


def skewed() -> LinearGaussian:
    """Columns of W far from orthogonal: the posterior is correlated, which no diagonal product of experts can say."""
    weight = torch.tensor([[1, 0.9], [1, 0.8], [0.5, 0.7], [0, 0.3]], dtype=torch.float64)
    return LinearGaussian(weight, torch.ones(4, dtype=torch.float64), 0.5)


def exact(model: LinearGaussian, x: torch.Tensor) -> MultivariateNormal:
    d = model.weight.shape[1]
    precision = torch.eye(d, dtype=torch.float64) + len(x) * model.weight.T @ model.weight / model.var
    return MultivariateNormal(
        torch.linalg.solve(precision, model.weight.T @ (x - model.bias).sum(0) / model.var), precision_matrix=precision
    )


@cache
def long_run():
    model = skewed()
    context, q = group(model, Plain(model))
    settings = SharedNUTSSettings(draws=1000, chains=2, warmup=80)
    return model, context, q, settings.fit(task(q, selection=q, context=context, rng=stream(0, "nuts")))


def test_draws_are_those_of_the_exact_posterior():
    model, context, _, done = long_run()
    truth = exact(model, context.train.x)
    assert done.outcome.ok
    assert "R-hat 1.0" in done.outcome.message
    z = done.distribution.draws
    assert len(z) == 1000
    ess = done.chosen.settings["ess"]
    # whitened by the truth: mean 0 and covariance I, within 5 Monte Carlo errors
    u = torch.linalg.solve_triangular(truth.scale_tril, (z - truth.mean).T, upper=False).T
    assert float(u.mean(0).abs().max()) < 5 / ess**0.5
    assert float((torch.cov(u.T) - torch.eye(2)).abs().max()) < 5 * (2 / ess) ** 0.5
    # which the diagonal product of experts gets wrong: here the posterior is correlated
    correlation = truth.covariance_matrix[0, 1] / truth.stddev.prod()
    assert abs(float(correlation)) > 0.8
    assert float(torch.corrcoef(z.T)[0, 1]) == pytest.approx(float(correlation), abs=0.08)


def test_agrees_with_the_product_of_experts_where_that_is_exact():
    model = linear_gaussian(5, 2)
    context, q = group(model, Plain(model), 20)
    shared = ProductOfExpertsSettings(label=1).fit(task(q, selection=q, rng=stream(0))).distribution
    done = SharedNUTSSettings(label=1, draws=200, chains=2, warmup=40).fit(
        task(q, selection=q, context=context, rng=stream(0))
    )
    u = (done.distribution.draws - shared.mean) / shared.scale
    assert float(u.mean(0).abs().max()) < 5 / done.chosen.settings["ess"] ** 0.5
    assert float((u.std(0) - 1).abs().max()) < 5 / done.chosen.settings["ess"] ** 0.5
    assert done.distribution.label == "shared-nuts(10)"


def test_sampling_picks_stored_draws_and_parts_rebuild_it():
    *_, done = long_run()
    r = done.distribution
    z = r.sample(5000, rng=stream(0, "sample"))
    assert bool((z[:200, None] == r.draws).all(2).any(1).all())
    assert float((z.mean(0) - r.draws.mean(0)).abs().max()) < 5 * float(r.draws.std(0).max()) / 5000**0.5
    again = rebuild("shared-nuts", r.config(), r.tensors())
    assert bool((again.sample(9, rng=stream(1)) == r.sample(9, rng=stream(1))).all())


def test_has_no_density_and_says_so():
    *_, done = long_run()
    assert done.distribution.density == "none"
    assert done.distribution.tilt(torch.zeros(1, 2), torch.ones(1, 2), draws=0, rng=stream(0)) is None
    with pytest.raises(
        UsageError, match=r"shared-nuts\(8\): this kind consists of Monte Carlo draws and has no density"
    ):
        done.distribution.log_prob(torch.zeros(1, 2))


class Bimodal(nn.Module):
    """x = |z|: two modes, far apart, that no chain can travel between."""

    def encode(self, x):
        return x, 0.05 * torch.ones_like(x)

    def decode(self, z) -> Distribution:
        return Independent(Normal(z.abs(), torch.full_like(z, 0.05)), 1)


def test_chains_that_disagree_are_a_bad_outcome():
    x = torch.full((4, 1), 2.0, dtype=torch.float64)
    rows = Rows("train", x, torch.arange(4))
    # codes of both signs, so that chains start in both modes
    q = MemoryPosteriors(
        x * torch.tensor([[1.0], [1], [-1], [-1]], dtype=torch.float64), torch.full((4, 1), 0.05, dtype=torch.float64)
    )
    done = SharedNUTSSettings(draws=60, chains=6, warmup=20).fit(
        task(q, selection=q, context=Context(Bimodal(), rows, rows), rng=stream(0, "bimodal"))
    )
    assert not done.outcome.ok
    assert done.chosen.settings["rhat"] > 1.5
    assert "the chains disagree" in done.outcome.message
    assert "raise warmup to 80 and draws to 240" in done.outcome.message
    assert set(done.distribution.draws.sign().flatten().tolist()) == {-1.0, 1.0}


def test_too_few_draws_are_a_bad_outcome():
    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    done = SharedNUTSSettings(draws=30, chains=1, warmup=30).fit(task(q, selection=q, context=context, rng=stream(0)))
    assert not done.outcome.ok
    assert "raise" in done.outcome.message
    assert done.chosen.settings["ess"] < 100 or done.chosen.settings["rhat"] > 1.01


def test_diagnostics_of_known_chains():
    rng = stream(0, "chains")
    z = torch.randn(4, 500, 2, generator=rng, dtype=torch.float64)
    z[:, :, 1] += torch.arange(4)[:, None]  # dimension 1: chains about different places
    rhat, ess = diagnose(z)
    assert rhat[0] < 1.01 < 1.5 < rhat[1]
    assert 1400 < ess[0] < 3000
    assert ess[1] < 20
    walk = z.cumsum(1)  # and chains that crawl
    assert max(diagnose(walk)[1]) < 100


def test_float32_models_and_determinism():
    model = linear_gaussian(5, 2)
    vae = model.vae()
    small = LinearGaussian(model.weight.float(), model.bias.float(), model.var).vae().float()
    results = []
    for v, dtype in ((vae, torch.float64), (small, torch.float32), (small, torch.float32)):
        context, q = group(model, v)
        rows = Rows("train", context.train.x.to(dtype), context.train.ids)
        q = MemoryPosteriors(q.mean.to(dtype), q.scale.to(dtype), row_ids=q.row_ids)
        settings = SharedNUTSSettings(draws=30, chains=1, warmup=30)
        results.append(
            settings.fit(task(q, selection=q, context=Context(v, rows, rows), rng=stream(0))).distribution.draws
        )
    assert results[1].dtype == torch.float32
    assert bool((results[1] == results[2]).all())
    truth = exact(model, group(model, vae)[0].train.x)
    assert float(((results[1].mean(0) - truth.mean) / truth.stddev).abs().max()) < 1


def test_one_chain_is_judged_by_its_halves():
    rng = stream(0, "one chain")
    z = torch.randn(1, 1001, 2, generator=rng, dtype=torch.float64)
    z[:, 500:, 1] += 1
    rhat, ess = diagnose(z)
    assert rhat[0] < 1.01 < 1.1 < rhat[1]
    assert 700 < ess[0] < 1500
    assert ess[1] < 50


def snapshot() -> dict[str, object]:
    return {
        "validation": Distribution._validate_args,
        "dtype": torch.get_default_dtype(),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),
        "filters": list(warnings.filters),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def test_leaves_the_global_state_alone():
    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    settings = SharedNUTSSettings(draws=8, chains=1, warmup=10)
    try:
        for switch in (True, False):
            Distribution.set_default_validate_args(switch)
            before = snapshot()
            settings.fit(task(q, selection=q, context=context, rng=stream(0)))
            assert snapshot() == before
        with torch.no_grad():
            settings.fit(task(q, selection=q, context=context, rng=stream(0)))
    finally:
        Distribution.set_default_validate_args(True)
    # and the global stream is not what decides
    torch.manual_seed(1)
    a = settings.fit(task(q, selection=q, context=context, rng=stream(0))).distribution.draws
    torch.manual_seed(2)
    b = settings.fit(task(q, selection=q, context=context, rng=stream(0))).distribution.draws
    assert bool((a == b).all())


def test_importing_pyro_for_the_first_time_changes_no_switch():
    """In a process of its own: Pyro sets the validation switch when it is imported, and zprime puts it back."""
    code = """
import random, sys, warnings, torch
import numpy as np
from torch.distributions import Distribution
import zprime.latent.nuts as nuts
assert "pyro" not in sys.modules
Distribution.set_default_validate_args(False)
filters, state = list(warnings.filters), torch.get_rng_state()
python, numpy = random.getstate(), np.random.get_state()[1].copy()
mcmc = nuts._library("pyro.infer.mcmc")
assert "pyro" in sys.modules
target = lambda p: 0.5 * p["z"].square().sum()
nuts._chain(mcmc, target, torch.ones(1), nuts.Length(5, 5), seed=torch.Generator(), tell=lambda *a: None)
nuts.diagnose(torch.randn(2, 50, 1, generator=torch.Generator()))
assert Distribution._validate_args is False
assert list(warnings.filters) == filters
assert bool((torch.get_rng_state() == state).all())
assert random.getstate() == python
assert bool((np.random.get_state()[1] == numpy).all())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["pyro", "arviz_stats"])
def test_without_a_library_of_the_extra(monkeypatch, library: str):
    """Said before the chains are run, not after."""
    load = importlib.import_module

    def missing(name: str):
        if name.startswith(library):
            raise ModuleNotFoundError(f"No module named {library!r}")
        return load(name)

    def run(*args: object, **given: object):
        pytest.fail("a chain was run")

    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(nuts, "_chain", run)
    text = f"kind shared-nuts: expected Pyro and arviz-stats .* named '{library}'; run: pip install 'zprime.nuts.'"
    with pytest.raises(UsageError, match=text):
        SharedNUTSSettings().fit(task(q, selection=q, context=context, rng=stream(0)))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"chains": 0}, "chains: expected at least 1, got 0"),
        ({"warmup": 3}, "warmup: expected at least 10, got 3"),
        ({"draws": 8, "chains": 4}, "draws: expected at least 16, got 8"),
        ({"group": (3,)}, "group: expected row ids of the training split"),
    ],
)
def test_settings_that_cannot_be_used(settings, text):
    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    with pytest.raises(UsageError, match=text):
        SharedNUTSSettings(**settings).fit(task(q, selection=q, context=context, rng=stream(0)))


def test_needs_the_model():
    model = linear_gaussian(5, 2)
    _, q = group(model, model.vae())
    with pytest.raises(UsageError, match="kind shared-nuts: needs the model and the rows"):
        SharedNUTSSettings().fit(task(q, selection=q, rng=stream(0)))


def test_rows_that_the_decoder_cannot_have_made():
    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    rows = Rows("train", context.train.x.clone(), context.train.ids)
    rows.x[3, 0] = torch.nan
    with pytest.raises(NumericalError, match="log p\\(x\\|z\\) of 8 rows is not finite at a code of row 10"):
        SharedNUTSSettings().fit(task(q, selection=q, context=Context(model.vae(), rows, rows), rng=stream(0)))


def test_reports_progress():
    model = linear_gaussian(5, 2)
    context, q = group(model, model.vae())
    seen = []
    SharedNUTSSettings(draws=8, chains=2, warmup=10).fit(
        task(q, selection=q, context=context, rng=stream(0), progress=lambda *a: seen.append(a))
    )
    assert [s for s in seen if s[1] == s[2]] == [("shared-nuts chain 1", 14, 14), ("shared-nuts chain 2", 14, 14)]
