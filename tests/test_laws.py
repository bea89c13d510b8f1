"""Laws that hold for any numbers: mixtures as values, choices that tie, and estimates to JSON and back."""

import json
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zprime import serialise
from zprime.components import Diagonal, Full
from zprime.latent.selection import RowScores, near_best, smallest_of_best
from zprime.rng import stream
from zprime.statistics.estimate import Estimate

SEEDS = st.integers(0, 10**6)
SIZES = st.integers(1, 6)


def mixture(seed: int, k: int, d: int) -> tuple[Diagonal, Tensor]:
    """Gaussians of scales from 0.01 to 10, and points near them and far off."""
    rng = stream(seed, "law", k, d)
    log_weight = torch.randn(k, generator=rng, dtype=torch.float64).log_softmax(0)
    mean = 3 * torch.randn(k, d, generator=rng, dtype=torch.float64)
    scale = torch.exp(math.log(0.01) + math.log(1000) * torch.rand(k, d, generator=rng, dtype=torch.float64))
    z = 3 * torch.randn(5, d, generator=rng, dtype=torch.float64)
    return Diagonal(log_weight, mean, scale), torch.cat([z, mean, 100 * z])


@settings(max_examples=20)
@given(SEEDS, SIZES, SIZES)
def test_a_mixture_is_above_each_of_its_terms_and_below_the_largest_component(seed: int, k: int, d: int) -> None:
    r, z = mixture(seed, k, d)
    whole = r.log_prob(z)
    each = torch.stack([Diagonal(torch.zeros(1).double(), r.mean[[i]], r.scale[[i]]).log_prob(z) for i in range(k)])
    slack = 1e-9 * (1 + each.abs().amax(0))
    assert bool((whole >= (each + r.log_weight[:, None]).amax(0) - slack).all())
    assert bool((whole <= each.amax(0) + slack).all())
    torch.testing.assert_close(whole, torch.logsumexp(each + r.log_weight[:, None], 0), rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(SEEDS, SIZES, SIZES)
def test_neither_order_nor_shape_nor_place_nor_unit_matters(seed: int, k: int, d: int) -> None:
    r, z = mixture(seed, k, d)
    whole = r.log_prob(z)
    near = {"rtol": 1e-8, "atol": 1e-8}
    order = torch.randperm(k, generator=stream(seed, "order"))
    torch.testing.assert_close(Diagonal(r.log_weight[order], r.mean[order], r.scale[order]).log_prob(z), whole, **near)
    torch.testing.assert_close(Full(r.log_weight, r.mean, torch.diag_embed(r.scale)).log_prob(z), whole, **near)
    moved = Diagonal(r.log_weight, r.mean + 7, r.scale).log_prob(z + 7)
    torch.testing.assert_close(moved, whole, rtol=1e-6, atol=1e-6)
    larger = Diagonal(r.log_weight, 4 * r.mean, 4 * r.scale).log_prob(4 * z)
    torch.testing.assert_close(larger + d * math.log(4), whole, **near)


ROWS = st.integers(2, 12)
CANDIDATES = st.integers(1, 5)


@given(SEEDS, ROWS, CANDIDATES, st.floats(-5, 5))
def test_a_choice_is_of_the_best_and_its_ties_and_the_smallest_of_them(
    seed: int, rows: int, count: int, shift: float
) -> None:
    rng = stream(seed, "gains")
    values = torch.randn(count, rows, generator=rng, dtype=torch.float64) * torch.rand(1, generator=rng)
    sizes = torch.randint(4, (count,), generator=rng).tolist()
    gains = [RowScores(v) for v in values]
    tied = near_best(gains)
    best = int(values.mean(1).argmax())
    assert best in tied
    for i in range(count):
        gap = values[best] - values[i]
        limit = max(0.05, float(gap.std() / math.sqrt(rows)))
        if abs(float(gap.mean()) - limit) > 1e-9 and i != best:
            assert (i in tied) is (float(gap.mean()) < limit)
    chosen = smallest_of_best(gains, sizes)
    assert chosen in tied
    assert sizes[chosen] == min(sizes[i] for i in tied)
    # what all gain alike decides nothing, and weights count as rows do
    assert near_best([RowScores(v + shift) for v in values]) == tied
    twice = [RowScores(torch.cat([v, v]), torch.full((2 * rows,), 0.5 / rows).double()) for v in values]
    torch.testing.assert_close(torch.tensor([g.mean for g in twice]), torch.tensor([g.mean for g in gains]))


NUMBERS = st.floats(allow_nan=False)


@settings(max_examples=20)
@given(
    st.builds(
        Estimate,
        NUMBERS,
        st.none() | NUMBERS,
        NUMBERS,
        NUMBERS,
        st.integers(0, 10**6),
        st.text(),
        st.text(),
        st.none() | st.integers(),
        st.booleans(),
        st.text(),
    )
)
def test_an_estimate_comes_back_from_json(e: Estimate) -> None:
    assert serialise.from_jsonable(Estimate, json.loads(json.dumps(serialise.to_jsonable(e)))) == e
