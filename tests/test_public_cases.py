"""Questions that people ask in public, reduced to small inputs with known answers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import zprime
from oracles import linear_gaussian
from zprime import bring, likelihoods
from zprime.errors import UsageError
from zprime.results.audit import AuditSettings
from zprime.rng import stream

QUICK = AuditSettings(rows=100, samples=0, draws=200, exchange=0, members=50, simulated=0, grid=4, map=50)


def test_all_dimensions_collapsed_keep_the_prior() -> None:
    """m = 1e-4 e, s = 1: I = 0, no gain above 1e-3, and no latent is active."""
    rng = stream(0, "collapsed")
    mean = {s: 1e-4 * torch.randn(400, 4, generator=rng, dtype=torch.float64) for s in ("train", "heldout")}
    mine = bring.arrays(mean, {s: torch.ones_like(m) for s, m in mean.items()}, check=False)
    fits = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture", "aggregated")}
    audit = zprime.audit(fits, mine.posteriors, settings=QUICK)
    assert audit.surgery["train"].information.value == pytest.approx(0, abs=1e-4)
    assert audit.surgery["train"].active == 0
    for e in audit.entries:
        assert abs(e.heldout.elbo.gain.value) < 1e-3, e.id
        assert e.heldout.exact_posterior is not None
        assert abs(e.heldout.exact_posterior.gain.value) < 1e-3, e.id
    assert audit.verdict.choice == "prior"


def test_a_loss_says_which_sigma_it_stands_for() -> None:
    """10 x mean over D + mean over d, D = 12,288, d = 32: sigma^2 = D / (20 d) = 19.2."""
    found = likelihoods.Gaussian.from_loss(reconstruction="mean", weight=10.0, entries=12_288, kl="mean", latents=32)
    assert math.exp(2 * float(found.log_scale)) == pytest.approx(19.2, rel=1e-5)


@pytest.mark.parametrize("reconstruction", ["sum", "mean"])
@pytest.mark.parametrize("kl", ["sum", "mean"])
def test_the_loss_is_the_negative_elbo_times_a_constant(reconstruction: str, kl: str) -> None:
    """Two models differ in the loss as they do in the ELBO of the likelihood that is given back."""
    rng, D, d = stream(1, "loss"), 12, 3
    how = {"reconstruction": reconstruction, "weight": 0.7, "entries": D, "kl": kl, "beta": 1.9, "latents": d}
    p = likelihoods.Gaussian.from_loss(**how)
    x = torch.randn(5, D, generator=rng)
    losses, elbos = [], []
    for _ in range(2):
        made, divergence = torch.randn(5, D, generator=rng), torch.rand(5, d, generator=rng)
        square = (x - made).square()
        rec = square.sum(1) if reconstruction == "sum" else square.mean(1)
        losses.append(0.7 * rec + 1.9 * (divergence.sum(1) if kl == "sum" else divergence.mean(1)))
        elbos.append(p(made).log_prob(x) - divergence.sum(1))
    constant = 1.9 / (d if kl == "mean" else 1)
    assert torch.allclose((losses[1] - losses[0]) / constant, elbos[0] - elbos[1], atol=1e-3)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"kl": "average"}, "kl: expected sum or mean, got 'average'"),
        ({"beta": 0.0}, "beta: expected a number above 0"),
    ],
)
def test_losses_that_are_none_are_refused(how: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        likelihoods.Gaussian.from_loss(**how)


def test_variances_taken_for_standard_deviations_are_caught() -> None:
    """v = .04 at distance .4: the exponent is -2 for sigma .2 and -50 for sigma .04."""
    p = torch.distributions.Normal(0.0, 0.2)
    assert float(p.log_prob(torch.tensor(0.4)) + 0.5 * math.log(2 * math.pi)) == pytest.approx(-0.391, abs=1e-3)
    wrong = torch.distributions.Normal(0.0, 0.04)
    assert float(wrong.log_prob(torch.tensor(0.4)) + 0.5 * math.log(2 * math.pi)) == pytest.approx(-46.78, abs=1e-2)
    model = linear_gaussian(D=6, d=2, var=0.3)
    rows = {s: model.sample(n, seed=i)[0] for i, (s, n) in enumerate((("train", 600), ("heldout", 400)))}
    vae = model.vae()

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale = vae.encode(x)
        return mean, scale.square()

    with pytest.raises(UsageError, match="variance"):
        bring.modules(encode, vae.decode, rows, gives="std")


def test_log_p_of_each_row_is_offered_and_exact_on_a_linear_model() -> None:
    """An anomaly score: rows that are shifted along a decoded direction score lower, by their exact log-density."""
    model = linear_gaussian(D=6, d=2, var=0.3)
    sizes = {"train": 600, "selection": 200, "heldout": 200}
    rows = {s: model.sample(n, seed=i)[0] for i, (s, n) in enumerate(sizes.items())}
    rows["heldout"][:20] += 4 * model.weight[:, 0] / model.weight[:, 0].norm()
    vae = model.vae()
    mine = bring.modules(vae.encode, vae.decode, rows, gives="std")
    audit = zprime.audit(
        {"gaussian": zprime.fit("gaussian", **mine.splits)},
        mine.posteriors,
        model=mine.model,
        rows=mine.rows,
        settings=replace(QUICK, rows=200, draws=400),
    )
    found = audit.log_prob("prior")
    exact = model.log_evidence(rows["heldout"])
    assert torch.allclose(found, exact, atol=0.1)
    assert float(found[:20].mean()) < float(found[20:].mean()) - 2
    with pytest.raises(UsageError, match="got 'nobody'"):
        audit.log_prob("nobody")


def test_a_wrapped_lambda_computes_in_evaluation_mode_and_its_statistics_stay() -> None:
    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(3, 3), norm)
    x = torch.randn(200, 3, generator=stream(0, "x"))
    before = norm.running_mean.clone()
    bring.modules(
        lambda x: (net(x), torch.full_like(x, 0.5)),
        lambda z: z,
        {"train": x, "heldout": x + 1},
        gives="std",
        likelihood=likelihoods.Gaussian(scale=1.0),
        check=False,
    )
    assert norm.training
    assert torch.equal(norm.running_mean, before)
