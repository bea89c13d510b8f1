"""The bracket of the hole, where the population is known: linear-Gaussian models on data that they did not make."""

import math

import pytest
import torch
from scipy.stats import t as student_t

from oracles import gaussian_kl, hermite, linear_gaussian
from studies import study
from zoo import posteriors as clumps
from zprime.errors import UsageError
from zprime.latent import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.latents.hole import gaussian_bound, hole, own_mixture
from zprime.measure.latents.surgery import surgery
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import Hole
from zprime.rng import stream

MODEL = linear_gaussian()
STRETCH = 1.6


def encoded(n: int, name: str, seed: int = 0) -> MemoryPosteriors:
    """Codes of rows whose z was drawn from N(0.5, 1.6^2 I)."""
    rng = stream(seed, "rows", name)
    z = 0.5 + STRETCH * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, 6, generator=rng, dtype=torch.float64)
    return MemoryPosteriors(*MODEL.posterior(z @ MODEL.weight.T + MODEL.bias + math.sqrt(MODEL.var) * noise))


def truth() -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and covariance of the population's aggregated posterior, a Gaussian here, and its KL from N(0, I)."""
    shrink = MODEL.gram / (MODEL.gram + MODEL.var)
    mean = 0.5 * shrink
    spread = STRETCH**2 * shrink.square() + MODEL.var * MODEL.gram / (MODEL.gram + MODEL.var).square()
    covariance = torch.diag(spread + MODEL.var / (MODEL.gram + MODEL.var))
    return mean, covariance, float(gaussian_kl(mean, covariance))


def run(seed: int, n: int = 150) -> Hole:
    p = {name: encoded(n, name, seed) for name in ("train", "selection", "heldout")}
    mean, covariance, _ = truth()
    candidates = Candidates(
        {"true": Gaussian(mean, torch.linalg.cholesky(covariance)), "off": Gaussian(mean + 1, covariance)}
    )
    rng = stream(seed, "ladder")
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=rng) for s in ("selection", "heldout")}
    return hole(study(p, seed=seed), split_gains, surgery(Split("train", p["train"]), rng=rng))


def test_the_bracket_holds_the_population_hole() -> None:
    runs = [run(seed) for seed in range(40)]
    _, _, value = truth()
    held = sum(r.low <= value <= r.high for r in runs)
    assert held >= 35  # 95 % of 40 is 38; fewer than 35 has probability 0.01
    below, above = (
        torch.tensor([[b.estimate.value for b in r.bounds if (b.target, b.side) == ("population", side)] for r in runs])
        for side in ("below", "above")
    )
    for i, name in enumerate(("moment match", "best ELBO gain", "leave-one-out")):
        excess = below[:, i] - value
        assert float(excess.mean()) < 4 * float(excess.std()) / 40**0.5, name
    assert float(above.mean()) > value
    assert float(below[:, 2].mean()) < float(above.mean())
    # the population is a Gaussian that was among the candidates, so the bounds from below are tight
    assert float((below[:, 1] - value).mean()) == pytest.approx(0, abs=4 * float(below[:, 1].std()) / 40**0.5)
    assert sum(r.high - r.low for r in runs) / 40 < 0.6


def test_every_number_says_which_hole_it_is_about() -> None:
    found = run(0)
    assert [(b.name, b.target, b.side, b.estimate.split) for b in found.bounds] == [
        ("moment-matched Gaussian", "population", "below", "heldout"),
        ("ELBO gain of true", "population", "below", "heldout"),
        ("leave-one-out", "population", "below", "heldout"),
        ("self-included", "population", "above", "heldout"),
        ("Gaussian part, 150 training rows", "empirical", "below", "train"),
        ("KL(qbar||p), 150 training rows", "empirical", "equal", "train"),
    ]
    assert found.high == found.bounds[3].estimate.high
    assert not found.saturated


def test_the_hole_is_never_called_negative() -> None:
    x, _ = MODEL.sample(80, seed=1)
    p = dict.fromkeys(("train", "selection", "heldout"), MemoryPosteriors(*MODEL.posterior(x)))
    candidates = Candidates({"bad": Gaussian(torch.full((2,), 3.0).double(), torch.ones(2).double())})
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=stream(0)) for s in ("selection", "heldout")}
    found = hole(study(p), split_gains, surgery(Split("train", p["train"]), rng=stream(0)))
    assert found.low == 0.0
    assert found.bounds[1].name == "ELBO gain of prior"
    assert found.bounds[1].estimate.value == 0.0


def test_the_gaussian_bound_by_quadrature() -> None:
    train, held = clumps(2, n=30), clumps(2, n=20, seed=1)
    w = train.log_weights.exp()
    mean = w @ train.mean
    covariance = (train.mean - mean).T @ ((train.mean - mean) / 30) + torch.diag(w @ train.scale.square())
    r = torch.distributions.MultivariateNormal(mean, covariance)
    p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    nodes, weights = hermite(held.mean, held.scale)
    gains = (r.log_prob(nodes) - p.log_prob(nodes)) @ weights
    found = gaussian_bound(Split("train", train), Split("heldout", held), seed=0)
    assert found.value == pytest.approx(float(gains.mean()), abs=1e-9)
    assert found.stderr == pytest.approx(float(gains.std() / 20**0.5), abs=1e-9)


def test_own_mixture_by_quadrature() -> None:
    p = clumps(2, n=12)
    nodes, weights = hermite(p.mean, p.scale)
    flat = nodes.reshape(-1, 2)
    ids = torch.arange(12).repeat_interleave(len(weights))
    prior = -0.5 * flat.square().sum(1) - math.log(2 * math.pi)

    def mean(v: torch.Tensor) -> float:
        return float((v.reshape(12, -1) @ weights).mean())

    below, above = mean(p.log_prob(flat, leave_out=ids) - prior), mean(p.log_prob(flat) - prior)
    # the same rows a hundred times over need weights: enough draws come from enough seeds
    found = [own_mixture(Split("heldout", p), seed=seed) for seed in range(150)]
    for i, exact in ((0, below), (1, above)):
        values = torch.tensor([f[i].value for f in found])
        assert float(values.mean()) == pytest.approx(exact, abs=4 * float(values.std()) / 150**0.5)
        assert float(values.std()) < 0.3


def test_a_lookup_table_is_called_one() -> None:
    rng = stream(0, "narrow")
    wide = torch.randn(300, 4, generator=rng, dtype=torch.float64)
    p = {
        k: MemoryPosteriors(wide[i::3], torch.full((100, 4), 0.01).double())
        for i, k in enumerate(("train", "selection", "heldout"))
    }
    candidates = Candidates({"off": Gaussian(torch.full((4,), 3.0).double(), torch.ones(4).double())})
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=rng) for s in ("selection", "heldout")}
    found = hole(study(p), split_gains, surgery(Split("train", p["train"]), rng=rng))
    assert found.saturated
    assert found.information.value <= found.log_n + 1e-9
    assert found.bounds[3].estimate.value == pytest.approx(found.floor, abs=0.5)
    # the codes are N(0, I) but for 1e-4 of variance: no hole, and the bracket does not rule that out
    assert found.low == 0.0


def test_two_rows_are_too_few() -> None:
    p = dict.fromkeys(("train", "selection", "heldout"), clumps(2, n=2))
    candidates = Candidates({"off": Gaussian(torch.ones(2).double(), torch.ones(2).double())})
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=stream(0)) for s in ("selection", "heldout")}
    with pytest.raises(UsageError, match="hole: expected at least 3 held-out rows, got 2"):
        hole(study(p, seed=0), split_gains, surgery(Split("train", p["train"]), rng=stream(0)))


def test_the_lower_end_pays_for_being_the_best_of_three() -> None:
    found = run(3)
    below = [b.estimate for b in found.bounds if (b.target, b.side) == ("population", "below")]
    assert len(below) == 3
    ends = [e.value - float(student_t.ppf(1 - 0.025 / 3, e.n - 1)) * (e.stderr or 0.0) for e in below]
    assert found.low == pytest.approx(max(ends))
    assert found.low > 0


def test_the_candidate_is_picked_on_the_selection_split_and_scored_on_the_other() -> None:
    def at(centre: float, seed: int) -> MemoryPosteriors:
        mean = centre + 0.3 * torch.randn(60, 2, generator=stream(seed, "at"), dtype=torch.float64)
        return MemoryPosteriors(mean, torch.full((60, 2), 0.4).double())

    sides = {
        name: Gaussian(torch.full((2,), c).double(), 0.5 * torch.eye(2).double())
        for name, c in (("up", 2.0), ("down", -2.0))
    }
    p = {"train": at(2.0, 0), "selection": at(2.0, 1), "heldout": at(-2.0, 2)}
    split_gains = {s: measure_gains(Candidates(sides), Split(s, p[s]), rng=stream(0)) for s in ("selection", "heldout")}
    found = hole(study(p, seed=0), split_gains, surgery(Split("train", p["train"]), rng=stream(0)))
    bound = next(b for b in found.bounds if "gain of" in b.name)
    assert bound.name.endswith("gain of up")
    assert bound.estimate.value < -10  # of held-out codes, which lie elsewhere
    assert bound.estimate.split == "heldout"
    match = found.bounds[0].estimate  # of training codes
    assert match.value < -10


@pytest.mark.parametrize(("copies", "saturated"), [(1, True), (2, False)])
def test_a_lookup_table_is_half_a_nat_from_log_n(copies: int, saturated: bool) -> None:  # noqa: FBT001
    """Posteriors far apart, each `copies` times: I is log N - log copies, and log 2 is more than half a nat."""
    mean = torch.randn(40 // copies, 4, generator=stream(0, "apart"), dtype=torch.float64).repeat(copies, 1)
    p = dict.fromkeys(("train", "selection", "heldout"), MemoryPosteriors(mean, torch.full((40, 4), 0.001).double()))
    candidates = Candidates({"off": Gaussian(torch.full((4,), 3.0).double(), torch.ones(4).double())})
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=stream(0)) for s in ("selection", "heldout")}
    found = hole(study(p, seed=0), split_gains, surgery(Split("train", p["train"]), rng=stream(0)))
    assert found.saturated is saturated


def test_of_held_out_rows_in_groups_the_whole_group_is_left_out() -> None:
    """Rows of a group at one place are no bound for each other; equal to mixtures made without the group."""
    rng = stream(9, "pairs")
    mean = torch.rand(20, 2, generator=rng, dtype=torch.float64).repeat_interleave(3, 0)
    p, groups = MemoryPosteriors(mean, torch.full_like(mean, 0.3)), torch.arange(60) // 3
    by_group, own, _ = own_mixture(Split("heldout", p, groups=groups), seed=0)
    by_row, same, _ = own_mixture(Split("heldout", p), seed=0)
    assert own.value == pytest.approx(same.value)
    assert by_group.value < by_row.value < own.value
    z = p.draw(rng=_after_the_rows(60), draws=2)
    gains = []
    for i in range(60):
        keep = groups != groups[i]
        others = MemoryPosteriors(p.mean[keep], p.scale[keep])
        at = z[[i, 60 + i]]
        gains.append(float((others.log_prob(at) + 0.5 * (2 * math.log(2 * math.pi) + at.square().sum(1))).mean()))
    assert by_group.value == pytest.approx(sum(gains) / 60)


def _after_the_rows(n: int) -> torch.Generator:
    """The random numbers of the hole's draws: those after the choice of the rows."""
    rng = stream(0, "hole")
    torch.randperm(n, generator=rng)
    return rng
