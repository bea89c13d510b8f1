"""Questions that people ask in public, reduced to small inputs with known answers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import zprime
from oracles import linear_gaussian
from zprime import bring, likelihoods
from zprime.errors import UsageError
from zprime.latent.gaussian import moments
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.page import html
from zprime.reporting.samples import summary
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED
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
        ({"weight": "2"}, "weight: expected a number above 0, got '2'"),
        (
            {"reconstruction": "mean"},
            "entries: expected how many numbers there are in a row, beside reconstruction='mean', got None; give",
        ),
        ({"kl": "mean"}, "latents: expected how many latents there are, beside kl='mean', got None; give latents="),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_losses_that_are_none_are_refused(how: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        likelihoods.Gaussian.from_loss(**how)


ROWS = {  # of the table in docs/bring.md: what it says -> the same by from_loss, for w = 0.7, beta = 1.9, D = 12, d = 3
    r"| half the sum of squares + KL | 1 |": ({"weight": 0.5}, 1.0),
    r"| sum of squares + KL | $\sqrt{1/2} = 0.707$ |": ({}, 0.5**0.5),
    r"| mean of squares over $D$ entries + KL | $\sqrt{D/2}$.": ({"reconstruction": "mean", "entries": 12}, 6**0.5),
    r"| $w$ × sum of squares + $\beta$ × KL | $\sqrt{\beta / (2 w)}$ |": (
        {"weight": 0.7, "beta": 1.9},
        (1.9 / 1.4) ** 0.5,
    ),
    r"| $w$ × mean of squares over $D$ entries + $\beta$ × KL | $\sqrt{\beta D / (2 w)}$ |": (
        {"weight": 0.7, "beta": 1.9, "reconstruction": "mean", "entries": 12},
        (1.9 * 12 / 1.4) ** 0.5,
    ),
    r"| $w$ × sum of squares + $\beta$ × mean of the KL over $d$ latents | $\sqrt{\beta / (2 w d)}$ |": (
        {"weight": 0.7, "beta": 1.9, "kl": "mean", "latents": 3},
        (1.9 / (1.4 * 3)) ** 0.5,
    ),
    r"| $w$ × mean of squares over $D$ entries + $\beta$ × mean of the KL over $d$ latents "
    r"| $\sqrt{\beta D / (2 w d)}$ |": (
        {"weight": 0.7, "beta": 1.9, "reconstruction": "mean", "entries": 12, "kl": "mean", "latents": 3},
        (1.9 * 12 / (1.4 * 3)) ** 0.5,
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_losses_says_what_from_loss_gives(row: str) -> None:
    how, sigma = ROWS[row]
    assert f"  {row}" in (Path(__file__).parent.parent / "docs" / "bring.md").read_text("utf-8")
    assert math.exp(float(likelihoods.Gaussian.from_loss(**how).log_scale)) == pytest.approx(sigma, rel=1e-6)


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
        settings=replace(QUICK, rows=200, draws=400, first_draws=400),
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


def test_whether_the_images_were_checked_to_be_copies() -> None:
    """A strong fit in 64 latents, whose scales are tiny: the aggregated posterior decodes to the training rows.

    The controls fire, `aggregated` copies, the prior does not; and membership stands beside the distances.
    """
    rng, d, D = stream(23, "strong fit"), 64, 72
    basis = torch.linalg.qr(torch.randn(D, d, generator=rng, dtype=torch.float64)).Q
    z = {s: torch.randn(n, d, generator=rng, dtype=torch.float64) for s, n in (("train", 150), ("heldout", 240))}
    rows = {s: v @ basis.T + 0.01 * torch.randn(len(v), D, generator=rng, dtype=torch.float64) for s, v in z.items()}
    mine = bring.modules(
        lambda x: (x @ basis, torch.full((len(x), d), 0.01, dtype=torch.float64)),
        lambda z: z @ basis.T,
        rows,
        gives="std",
        likelihood=likelihoods.Gaussian(scale=0.01),
        check=False,
    )
    fits = {"aggregated": zprime.fit("aggregated", **mine.splits)}
    settings = replace(QUICK, rows=80, samples=100, draws=40, members=80)
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=settings)
    side = audit.samples
    assert side is not None
    status = {name: side.controls[name].copying for name in (PLANTED, RECONSTRUCTED, REAL)}
    assert status[PLANTED] is not None
    assert status[PLANTED].status == "copies"
    assert status[RECONSTRUCTED] is None or status[RECONSTRUCTED].status != "copies"
    assert status[REAL] is None or status[REAL].status != "copies"
    assert audit.copying("aggregated") == "copies"
    assert audit.copying("prior") != "copies"
    assert audit.shipped != "aggregated+p1"
    attacked = audit.membership
    assert attacked is not None
    assert attacked.candidates[CandidateId("aggregated")].auc.low > 0.95
    assert attacked.model is not None
    assert attacked.model.auc.low < 0.5 < attacked.model.auc.high  # nothing was trained: the decoder knows no row
    row = next(r for r in summary(audit, 100).rows if r.cells[0].key == audit.entry("aggregated").label)
    assert "copies" in {c.text for c in row.cells}
    page = html(audit)
    start, end = page.index('id="samples"'), page.index('id="membership"')
    beside = page[start:end]
    assert beside.count("<h2") == 1  # the heading of the attack: no other section is between
    assert "gain of aggregated" in page[end:]


def match_rate(x: torch.Tensor) -> float:
    """Proportion of rows of a table of n in {1, 2, 3} and one-hot c whose c is the one that belongs to n."""
    n = x[:, 0].round().clamp(1, 3)
    return float((n == 1 + x[:, 1:].argmax(1)).double().mean())


def test_a_table_that_loses_a_relation_of_its_columns_loses_it_in_z() -> None:
    """n in {1, 2, 3} with c = a, b, c: 1.00 in data, 1/3 if columns are independent.

    Reconstructions keep the relation and draws of the prior do not: so it is z', and one that follows the codes mends
    it. Codes lie in three places along one of two latents, where N(0, I) has its mass in between, too.
    """
    rng = stream(20, "relation")
    sizes = {"train": 600, "heldout": 400}
    n = {s: 1 + torch.randint(3, (size,), generator=rng) for s, size in sizes.items()}
    rows = {
        s: torch.cat([v[:, None].double(), nn.functional.one_hot(v - 1, 3).double()], 1)
        + 0.05 * torch.randn(len(v), 4, generator=rng, dtype=torch.float64)
        for s, v in n.items()
    }
    assert match_rate(rows["train"]) == 1.0
    alone = torch.cat([rows["train"][:, :1], rows["train"][torch.randperm(600, generator=rng)][:, 1:]], 1)
    assert match_rate(alone) == pytest.approx(1 / 3, abs=0.06)
    corner = 1.5 * torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 1:] @ corner, torch.full((len(x), 2), 0.1, dtype=torch.float64)

    def decode(z: torch.Tensor) -> torch.Tensor:  # n is linear in z, and c is what lies nearest
        which = torch.softmax(8 * z @ corner.T, 1)
        return torch.cat([2 + z @ (corner.T @ torch.tensor([-1.0, 0.0, 1.0]).double() / 3.375)[:, None], which], 1)

    mine = bring.modules(encode, decode, rows, gives="std", likelihood=likelihoods.Gaussian(scale=0.2), check=False)
    assert mine.model is not None
    assert match_rate(mine.model.decode(mine.posteriors["heldout"].gather().mean).mean) == 1.0
    drawn = {
        "prior": zprime.latent.Prior(2),
        "mixture": zprime.fit(zprime.latent.MixtureSettings(components=3), **mine.splits).distribution,
    }
    rate = {name: match_rate(zprime.sample(mine.generator(r), 600, seed=1)[1]) for name, r in drawn.items()}
    assert rate["mixture"] > 0.95
    assert rate["prior"] < 0.85
    assert rate["prior"] > 1 / 3


def test_a_rare_class_is_drawn_at_once_and_says_from_how_many_rows() -> None:
    """18 of 450: no draw is thrown away, the covariance is shrunk towards that within classes, 18 rows are told."""
    rng = stream(0, "rare class")
    y = (torch.arange(450) < 18).long()
    mean = 4.0 * y[:, None] + 0.5 * torch.randn(450, 3, generator=rng, dtype=torch.float64)
    p = MemoryPosteriors(mean, torch.full_like(mean, 0.1), labels=y)
    found = zprime.fit("conditional", p, selection=p, keep_duplicates=True)
    rare = found.distribution.given(1)
    assert rare.least_rows == pytest.approx(18)
    assert found.chosen.settings["one Gaussian for labels with few rows"] == [1]
    drawn = rare.sample(5000, rng=stream(1)).double()
    assert len(drawn) == 5000
    torch.testing.assert_close(drawn.mean(0), mean[y == 1].mean(0), rtol=0, atol=0.05)
    own, within = (m[1] for m in (moments(p.take((y == 1).nonzero().flatten())), pooled(p, y)))
    shrunk = (18 * own + 20 * within) / 38
    torch.testing.assert_close(drawn.T.cov(), shrunk, rtol=0, atol=0.03)
    assert float((own - shrunk).abs().max()) > 0.04  # without shrinking it would be seen


def pooled(p: MemoryPosteriors, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means, and the covariance within classes, weighted by their rows."""
    each = [moments(p.take((y == label).nonzero().flatten())) for label in (0, 1)]
    share = torch.bincount(y).double() / len(y)
    return torch.stack([m for m, _ in each]), sum(w * s for w, (_, s) in zip(share, each, strict=True))
