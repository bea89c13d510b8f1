"""Minibatch estimators against the table of truths, enumeration, and the code that the mistake comes from."""

import itertools
import math

import pytest
import torch

from zoo import posteriors, weighted
from zprime.errors import UsageError
from zprime.measure.latents.minibatch import implied_information, log_weights, minibatch
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import Minibatch
from zprime.rng import stream

N, M = 400, 20
LOG_N, LOG_M = math.log(N), math.log(M)


def run(mean: torch.Tensor, scale: float) -> Minibatch:
    return minibatch(Split("train", MemoryPosteriors(mean, torch.full_like(mean, scale))), seed=0, batch=M)


def test_identical_posteriors() -> None:
    found = run(torch.full((N, 2), 0.4).double(), 0.5).estimates
    assert found["plug-in"].value == pytest.approx(0, abs=1e-9)
    assert found["minibatch-weighted"].value == pytest.approx(LOG_N, abs=1e-9)
    assert found["stratified"].value == pytest.approx(0, abs=1e-9)
    assert found["stratified, misplaced"].value == pytest.approx(0, abs=0.01)


def test_disjoint_posteriors() -> None:
    found = run(50.0 * torch.arange(N)[:, None].expand(N, 2).double(), 0.1).estimates
    assert found["plug-in"].value == pytest.approx(LOG_M, abs=1e-9)
    assert found["minibatch-weighted"].value == pytest.approx(LOG_N + LOG_M, abs=1e-9)
    assert found["stratified"].value == pytest.approx(LOG_N, abs=1e-9)
    assert found["stratified, misplaced"].value == pytest.approx(LOG_M, abs=0.2)


def test_a_minibatch_of_all_rows_is_exact() -> None:
    p = posteriors(2, n=60)
    exact = surgery(Split("train", p), rng=stream(0, "surgery")).information
    found = minibatch(Split("train", p), seed=0, batch=1000)
    assert (found.batch, found.rows) == (60, 60)
    # one minibatch: no error can be given, but the estimate is that of I from one draw a row
    assert not found.estimates["plug-in"].stable
    assert exact.stderr is not None
    assert exact.stderr < 0.05
    assert found.estimates["plug-in"].value == pytest.approx(exact.value, abs=4 * exact.stderr * 8**0.5)


def test_stratified_is_unbiased_for_the_mixture_at_a_code_of_row_0() -> None:
    """Over every minibatch, in every order, that has row 0 first: E sum_j W_0j q_j(z) = qbar(z)."""
    n, m = 6, 3
    p = posteriors(2, n=n)
    z = p.draw(rng=stream(0, "z"))[:1]
    density = torch.distributions.Normal(p.mean, p.scale).log_prob(z).sum(1).exp()
    truth = float(density.mean())

    def mean_of(name: str) -> float:
        w = log_weights(m, n)[name].exp()[0]
        batches = [torch.tensor((0, *rest)) for rest in itertools.permutations(range(1, n), m - 1)]
        return float(torch.stack([w @ density[b] for b in batches]).mean())

    assert mean_of("stratified") == pytest.approx(truth, rel=1e-12)
    assert mean_of("plug-in") > 1.05 * truth  # the row's own weight is 1/M, not 1/N


@pytest.mark.parametrize(("m", "n"), [(2, 5), (8, 50), (7, 7)])
def test_misplaced_weights_are_those_of_the_published_code(m: int, n: int) -> None:
    others = m - 1
    weights = torch.full((m, m), 1 / others, dtype=torch.float64)
    flat = weights.view(-1)
    flat[:: others + 1] = 1 / n
    flat[1 :: others + 1] = (n - others) / (n * others)
    weights[others - 1, 0] = (n - others) / (n * others)
    torch.testing.assert_close(log_weights(m, n)["stratified, misplaced"].exp(), weights)
    right = log_weights(m, n)["stratified"].exp()
    torch.testing.assert_close(right.sum(1), torch.ones(m).double())
    torch.testing.assert_close(right.diagonal(), torch.full((m,), 1 / n).double())


def test_implied_information_by_hand() -> None:
    pairs = torch.tensor([[[0.0, -1.0], [-2.0, 0.5]]], dtype=torch.float64)
    w = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    first = 0.0 - math.log(0.25 + 0.75 * math.exp(-1))
    second = 0.5 - math.log(0.5 * math.exp(-2) + 0.5 * math.exp(0.5))
    assert float(implied_information(pairs, w.log())) == pytest.approx((first + second) / 2)


def test_blocks_of_pairs_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split("train", posteriors(30))
    whole = minibatch(split, seed=0, batch=7)
    monkeypatch.setattr("zprime.measure.latents.minibatch.NUMBERS", 1)
    assert minibatch(split, seed=0, batch=7) == whole


def test_refusals() -> None:
    with pytest.raises(UsageError, match="minibatch: expected posteriors of equal weight, got weights"):
        minibatch(Split("train", weighted(2, torch.float64)), seed=0)
    with pytest.raises(UsageError, match="batch: expected minibatches of at least 2 rows, got 1"):
        minibatch(Split("train", posteriors(2, n=1)), seed=0)
