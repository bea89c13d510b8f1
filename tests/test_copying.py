"""Copying: the published statistics re-derived, planted copies found, and nobody accused who does not copy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from samples import CENTRES, clumps, junk, mixed
from zprime.errors import ArrayError
from zprime.kernels import ExactIndex
from zprime.measure.samples.copying import CELL_ROWS, Neighbours, TrainingSet, cells_of, copying
from zprime.measure.samples.features import Entries
from zprime.results.samples import Copying
from zprime.rng import stream

N, M = 800, 400
TRAIN = clumps(N, 0)
SET = TrainingSet(TRAIN, TRAIN[:, :2], reference=M, seed=0)
YARD = SET.neighbours(clumps(M, 1))


def found(x: torch.Tensor, yard: Neighbours = YARD) -> Copying:
    return copying(SET.neighbours(x), yard)


def copies(n: int, noise: float, seed: int = 0) -> torch.Tensor:
    rng = stream(seed, "copies")
    rows = TRAIN[torch.randint(N, (n,), generator=rng)]
    return rows + noise * torch.randn(rows.shape, generator=rng, dtype=rows.dtype)


def test_counts_are_compared_by_their_logarithm() -> None:
    """One large column, of which copies have another value, would hide that all others are copied."""
    rng = stream(0, "counts")
    rates = torch.cat([torch.full((1,), 1e4), torch.full((20,), 3.0)])
    train, fresh = (torch.poisson(rates.expand(n, -1), generator=rng) for n in (300, 200))
    fake = train[:200].clone()
    fake[:, 0] = torch.poisson(torch.full((200,), 1e4), generator=rng)
    plain, logs = (
        TrainingSet(train, train[:, 1:3], reference=200, entries=entries)
        for entries in (Entries(), Entries.fitting(train))
    )
    assert copying(plain.neighbours(fake), plain.neighbours(fresh)).status == "passes"
    assert copying(logs.neighbours(fake), logs.neighbours(fresh)).status == "copies"
    assert logs.neighbours(fake).parent.tolist() == list(range(200))
    planted = logs.plant(50, rng=rng)  # as rows, a tenth of the way to the next one by the logarithm
    at = logs.neighbours(planted)
    share = at.distance[:, 0] / logs.isolation(at.parent)
    assert 0.05 < float(share.median()) < 0.2


# -- the published statistics ------------------------------------------------------------------------------------------


def meehan_z(fake: torch.Tensor, test: torch.Tensor, train: torch.Tensor) -> float:
    """Z_U after Meehan et al. 2020, with their continuity correction."""
    tree = NearestNeighbors(n_neighbors=1).fit(train.numpy())
    a, b = (tree.kneighbors(x.numpy())[0][:, 0] for x in (fake, test))
    u = mannwhitneyu(a, b, alternative="less").statistic
    n, m = len(a), len(b)
    return float((u - (n * m / 2 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12))


@pytest.mark.parametrize("fake", [clumps(M, 2), copies(M, 0.2), junk(M, 0)])
def test_z_u_is_theirs(fake: torch.Tensor) -> None:
    assert found(fake).z_u.value == pytest.approx(meehan_z(fake, clumps(M, 1), TRAIN), abs=1e-3)


def test_c_t_is_theirs_over_the_same_cells() -> None:
    fake, test = mixed(clumps(M, 2), copies(M, 0.2), 0.5, 0), clumps(M, 1)
    a, b = SET.neighbours(fake), YARD
    terms = []
    for c in range(int(SET.cells.max()) + 1):
        mine, theirs, rows = fake[a.cell == c], test[b.cell == c], TRAIN[SET.cells == c]
        if len(mine) and len(theirs):
            terms.append((len(theirs), meehan_z(mine, theirs, rows)))  # theirs searches within the cell
    truth = sum(w * z for w, z in terms) / sum(w for w, _ in terms)
    assert copying(a, b).c_t.value == pytest.approx(truth, abs=1e-3)


def test_authenticity_and_ratio_are_theirs() -> None:
    fake = mixed(clumps(M, 3), copies(M, 0.05), 0.3, 0)
    d = np.linalg.norm(TRAIN.numpy()[:, None] - TRAIN.numpy()[None], axis=2)
    np.fill_diagonal(d, np.inf)
    cross = np.linalg.norm(fake.numpy()[:, None] - TRAIN.numpy()[None], axis=2)
    parent = cross.argmin(1)
    authentic = np.mean(cross.min(1) > d[parent].min(1))  # Alaa et al. 2022
    two = np.sort(cross, 1)[:, :2]
    got = found(fake)
    assert got.authenticity.value == pytest.approx(authentic)
    assert got.ratio.value == pytest.approx(float(np.mean(two[:, 0] / two[:, 1])), rel=1e-6)


def test_auc_is_the_chance_that_a_row_is_nearer() -> None:
    fake = clumps(M, 2)
    a, b = SET.neighbours(fake).distance[:, 0], YARD.distance[:, 0]
    chance = float((a[:, None] < b[None]).double().mean() + 0.5 * (a[:, None] == b[None]).double().mean())
    assert found(fake).auc.value == pytest.approx(chance)


# -- planted truths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_copies_are_found(noise: float) -> None:
    got = found(copies(M, noise))
    assert got.status == "copies"
    assert got.regional.low > 0.9
    assert got.near.low > 0.5


def test_an_honest_sample_passes() -> None:
    got = found(clumps(2000, 4))
    assert got.status == "passes"
    assert got.auc.low < 0.5 < got.auc.high
    assert got.regional.low < 0.5 < got.regional.high
    assert got.near.low < 0.05 < got.near.high
    assert got.z_u.low < 0 < got.z_u.high


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_copies_are_found_among_junk_that_balances_the_mean(share: float) -> None:
    got = found(mixed(junk(M, 1), copies(M, 0.05), share, 1))
    assert got.status == "copies"
    if share == 0.3:
        assert got.auc.high < 0.5  # on the whole these rows are far away: the tail gives them away
        assert got.near.low > 0.15


def test_a_few_copies_are_below_the_gate_and_the_limit_is_one_in_ten() -> None:
    assert found(mixed(clumps(M, 5), copies(M, 0.0), 0.04, 2)).status == "passes"
    assert found(mixed(clumps(4000, 5), copies(4000, 0.0), 0.2, 2)).status == "copies"


def test_junk_passes_and_is_far_off() -> None:
    got = found(junk(M, 2))
    assert got.status == "passes"
    assert got.auc.high < 0.01
    assert got.z_u.value > 20


def test_who_draws_from_a_dense_region_only_is_not_accused() -> None:
    # one clump with many training rows, three with few: rows of the dense one are all near the training set
    dense = clumps(3000, 6, modes=1, features=2)
    sparse = 3 * clumps(90, 7, features=2) + CENTRES[3]
    train = torch.cat([dense, sparse])
    data = TrainingSet(train, train, reference=M, seed=0)
    real = torch.cat([clumps(150, 8, modes=1, features=2), 3 * clumps(250, 9, features=2) + CENTRES[3]])
    got = copying(data.neighbours(clumps(M, 10, modes=1, features=2)), data.neighbours(real))
    assert got.auc.low > 0.55  # nearer on the whole
    assert got.status == "passes"  # but not like with like


def test_a_blur_is_nearer_to_all_rows_and_is_not_accused() -> None:
    got = found(clumps(M, 11, blur=0.5))
    assert got.regional.low > 0.7  # the middle of a clump is near to many training rows
    assert got.singled.low < 0.05  # and to none in particular
    assert got.status == "passes"


def test_copies_of_rows_that_stand_twice_are_found() -> None:
    twice = TrainingSet(torch.cat([TRAIN, TRAIN]), torch.cat([TRAIN, TRAIN])[:, :2], reference=M)
    got = copying(twice.neighbours(copies(M, 0.05)), twice.neighbours(clumps(M, 1)))
    assert got.ratio.value > 0.99  # first and second are the same: this one is blind
    assert got.status == "copies"


def test_the_error_of_a_proportion_of_none_is_agresti_and_coulls() -> None:
    """Of rows that are all far away none is near, and that proportion is known no better than by two rows of n + 4."""
    far = found(junk(M, 12))
    near = far.near
    p = 2 / (near.n + 4)
    assert near.value == far.auc.value == far.auc.low == 0  # an interval of a proportion starts at 0
    assert near.stderr == pytest.approx(math.sqrt(p * (1 - p) / near.n))


def test_a_planted_control_is_a_tenth_of_the_way_to_the_next_row() -> None:
    planted = SET.plant(500, rng=stream(0, "plant"))
    at = SET.neighbours(planted)
    share = at.distance[:, 0] / at.isolation  # of six normal numbers each: their mean square is 0.01
    assert float(share.square().mean().sqrt()) == pytest.approx(0.1, rel=0.07)
    assert float(share.max()) < 0.25
    assert copying(at, YARD).status == "copies"


# -- errors that hold --------------------------------------------------------------------------------------------------


def test_the_interval_of_the_auc_holds() -> None:
    rng = torch.Generator().manual_seed(0)
    cells, isolated = torch.zeros(150, dtype=torch.long), torch.ones(150)

    def rows(shift: float) -> Neighbours:
        d = torch.randn(150, 1, generator=rng, dtype=torch.float64).exp() * math.exp(shift)
        return Neighbours(d.expand(-1, 2), cells, cells, isolated.double())

    for shift in (0.0, -0.8, -2.0):
        truth = float(torch.special.ndtr(torch.tensor(-shift / math.sqrt(2))))
        inside = []
        for _ in range(100):
            e = copying(rows(shift), rows(0.0)).auc
            inside.append(e.low < truth < e.high)
        assert 0.88 <= np.mean(inside) <= 1, shift


def test_the_false_alarm_rate_is_nominal() -> None:
    """Two equal samples, 200 times: intervals leave the null value at about 5 %, and the gate never closes."""
    out = {"auc": 0, "within": 0, "near": 0, "singled": 0, "copies": 0}
    train = clumps(300, 99)
    data = TrainingSet(train, train[:, :2], reference=100)
    both = data.neighbours(clumps(200 * 200, 100))
    for seed in range(200):
        start = 200 * seed
        got = copying(both.take(slice(start, start + 100)), both.take(slice(start + 100, start + 200)))
        out["auc"] += not got.auc.low <= 0.5 <= got.auc.high
        out["within"] += not got.regional.low <= 0.5 <= got.regional.high
        out["near"] += not got.near.low <= 0.05 <= got.near.high
        out["singled"] += not got.singled.low <= 0.05 <= got.singled.high
        out["copies"] += got.status == "copies"
    assert 2 <= out["auc"] <= 20
    assert 2 <= out["within"] <= 20
    assert 1 <= out["near"] <= 20
    assert 1 <= out["singled"] <= 20
    assert out["copies"] == 0


# -- edges -------------------------------------------------------------------------------------------------------------


def test_no_overlap_at_all_still_has_an_interval() -> None:
    got = found(copies(M, 0.0))
    assert (got.regional.value, got.regional.high) == (1.0, 1.0)
    assert 0.98 < got.regional.low < 1


def test_regions_with_no_yardstick_are_left_out() -> None:
    one = replace(YARD, cell=torch.zeros_like(YARD.cell))
    got = copying(SET.neighbours(clumps(M, 2)), one)
    assert got.regional.n < M
    assert math.isfinite(got.regional.value)


def test_few_rows_are_one_region() -> None:
    assert int(TrainingSet(TRAIN, TRAIN[:, :2], reference=CELL_ROWS - 1).cells.max()) == 0
    assert len(torch.unique(cells_of(TRAIN[:, :2], 4, seed=0))) == 4


def test_equal_training_rows_are_each_others_neighbours() -> None:
    twice = TrainingSet(torch.cat([TRAIN, TRAIN[:5]]), torch.cat([TRAIN, TRAIN[:5]]), reference=M)
    assert bool((twice.isolation(torch.arange(5)) == 0).all())
    with pytest.raises(ArrayError, match="copying: expected at least 3 training rows, got 2"):
        TrainingSet(TRAIN[:2], TRAIN[:2], reference=M)


def test_an_index_of_these_rows_is_taken_and_one_of_others_is_not() -> None:
    train = TRAIN.float()
    index, other = ExactIndex(train), ExactIndex(train.clone())
    first, second = (TrainingSet(train, train[:, :2], reference=M, index=i) for i in (index, other))
    assert first._index is index
    assert second._index is not other
    unseen = train[:20] + 0.1
    assert torch.equal(first.neighbours(unseen).distance, second.neighbours(unseen).distance)
