"""The share of a sample that may be copies: its limits hold, and clear honest samples."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from samples import clumps, mixed
from zprime.measure.samples.copying import Neighbours, TrainingSet
from zprime.measure.samples.known import SPREADS, Errors, Known, Nearness, Reference, nearness, share
from zprime.rng import stream
from zprime.statistics.estimate import exact, proportion

UNIT = {"unit": "proportion of rows", "split": "known copies", "seed": 0}
ALL = proportion(500, 500, **UNIT)  # type: ignore[arg-type]


def test_the_limits_are_clopper_and_pearsons() -> None:
    """7 of 200 rows, of copies of which 180 of 200 are near: 2.5 % for each of the two limits."""
    found = share(torch.arange(200) < 7, [proportion(180, 200, **UNIT)], split="selection")  # type: ignore[arg-type]
    assert found.value == pytest.approx(7 / 200 / 0.9)
    assert found.high == pytest.approx(float(beta.ppf(0.975, 8, 193)) / float(beta.ppf(0.025, 180, 21)))
    assert found.low == pytest.approx(float(beta.ppf(0.025, 7, 194)) / float(beta.ppf(0.975, 181, 20)))


def test_of_two_kinds_the_one_that_is_reached_less_bounds_both() -> None:
    """Half of the rows are near: all of them may be copies of a kind of which half are near."""
    near = torch.arange(200) < 100
    assert share(near, [ALL, proportion(50, 100, **UNIT)], split="x").value == pytest.approx(1.0)  # type: ignore[arg-type]
    assert share(near, [ALL], split="x").value == pytest.approx(0.5)
    assert share(~near & near, [proportion(0, 100, **UNIT)], split="x").high == 1.0  # type: ignore[arg-type]


def test_the_threshold_separates_and_is_as_large_as_it_can_be() -> None:
    copies, unseen = torch.linspace(0, 1, 200), torch.linspace(2, 3, 100)
    found = nearness(copies, unseen, seed=0)
    assert found.threshold == pytest.approx(float(copies[::2].max()))
    assert found.reached.value == pytest.approx(0.99)
    assert found.reached.n == 100  # the half that did not choose
    # half of the copies lie among the unseen rows: there the threshold stops short of these
    half = torch.cat([torch.linspace(0, 1, 200), torch.linspace(2, 3, 200)])[
        torch.randperm(400, generator=stream(0, "half"))
    ]
    found = nearness(half, unseen, seed=0)
    assert 0.9 <= found.threshold <= 2.1
    assert found.reached.value == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("n", "copies"), [(50, 0.1), (300, 0.1), (2000, 0.1)])
def test_one_copy_in_ten_is_cleared_in_one_run_of_twenty_at_most(n: int, copies: float) -> None:
    """Over 2,000 runs: known copies are near with .8, other rows never, which is the worst case of the rule."""
    rng, runs, cleared = stream(0, "clears"), 2000, 0
    ruler = Nearness(0.5, exact(0.8, n=1, unit="", split=""))
    for _ in range(runs):
        measured = int((torch.rand(500, generator=rng) < 0.8).sum())
        near = torch.rand(n, generator=rng) < copies * 0.8
        reached = replace(ruler, reached=proportion(measured, 500, **UNIT)).reached  # type: ignore[arg-type]
        cleared += share(near, [reached], split="x").high < 0.1
    assert cleared <= 0.05 * runs + 2.6 * math.sqrt(0.05 * 0.95 * runs)


# -- beside training rows ----------------------------------------------------------------------------------------------

N, SEED = 400, 0
TRAIN = clumps(N, 0)
SET = TrainingSet(TRAIN, TRAIN[:, :2], reference=200, seed=SEED)


def reconstructions(near: float) -> tuple[Neighbours, ...]:
    """Of training rows, at this distance from them; with a tenth of the spread at half of it."""
    rng = stream(SEED, "made")
    at, way = torch.randint(N, (500,), generator=rng), torch.randn(500, 6, generator=rng, dtype=torch.float64)
    way = way / way.norm(dim=1, keepdim=True)
    return tuple(SET.neighbours(TRAIN[at] + near * (0.5 + 0.5 * part) * way) for part in SPREADS)


def reference(near: float = 9.0, unseen: Tensor | None = None, *, limit: float = 0.1) -> Reference:
    """Reconstructions of training rows lie at this distance from them, those of unseen rows are unseen rows."""
    known = Known(
        SET.neighbours(SET.plant(500, rng=stream(SEED, "plant"))),
        reconstructions(near),
        Errors(SET, lambda rows: TRAIN[rows] + near / 2 / 6**0.5),
    )
    made = SET.neighbours(clumps(200, 1) if unseen is None else unseen)
    return Reference.of("selection", SET.neighbours(clumps(200, 2)), (made, None), known, limit=limit, seed=SEED)


FAR = reference()


@pytest.mark.parametrize("n", [300, 2000])
def test_an_honest_sample_passes_and_one_copy_in_ten_does_not(n: int) -> None:
    rows = SET.neighbours(SET.plant(n, rng=stream(1, "plant"))), SET.neighbours(TRAIN[torch.arange(n) % N])
    honest = SET.neighbours(clumps(n, 3))
    assert FAR.judge(honest).status == "passes"
    coin = torch.zeros(n, dtype=torch.bool)
    coin[: round(0.1 * n)] = True
    for copies in rows:
        take = Neighbours(
            *(
                torch.where(coin.reshape(-1, *[1] * (a.ndim - 1)), a, b)
                for a, b in zip(
                    (copies.distance, copies.parent, copies.cell, copies.isolation),
                    (honest.distance, honest.parent, honest.cell, honest.isolation),
                    strict=True,
                )
            )
        )
        found = FAR.judge(take)
        assert found.status == "untested"
        assert found.most > 0.1
        assert found.because == f"cannot exclude {100 * found.most:.2g} % of copies"


def test_a_share_below_the_limit_whose_upper_limit_is_above_it_is_not_cleared() -> None:
    found = FAR.judge(SET.neighbours(torch.cat([TRAIN[:24], clumps(276, 3)])))
    assert found.share is not None
    assert found.share.value < 0.1 < found.share.high
    assert found.status == "untested"


def test_the_limit_is_a_setting() -> None:
    few = SET.neighbours(torch.cat([TRAIN[:25], clumps(475, 3)]))
    assert [reference(limit=x).judge(few).status for x in (0.05, 0.1, 0.3)] == ["untested", "passes", "passes"]


def test_reconstructions_count_where_the_decoder_can_make_copies() -> None:
    assert FAR.decoded is None  # they are as far as unseen rows are
    assert FAR.spread == 0
    close = reference(0.5)
    assert close.decoded is not None
    assert close.spread == 1.0
    copies = SET.neighbours(torch.cat([TRAIN[:60] + 0.5 / 6**0.5, clumps(440, 3)]))
    assert close.judge(copies).most > 0.1
    assert FAR.judge(copies).status == "passes"  # seen by nothing else: they are not as near as planted copies
    assert close.judge(SET.neighbours(clumps(1000, 3))).status == "passes"


def test_what_cannot_be_told_from_new_rows_is_drawn_with_less_noise() -> None:
    """At a distance where every third unseen row lies too, no sample could be cleared."""
    wide = reference(1.15)
    assert wide.decoded is not None
    assert wide.spread == 0.1


def test_a_decoder_that_memorises_is_named_and_its_samples_copy() -> None:
    """It makes training rows of all that it is given: reconstructions of unseen rows too."""
    found = reference(0.0, TRAIN[torch.randperm(N, generator=stream(0, "lookup"))[:200]])
    assert found.memorises is not None
    made, real = found.memorises
    assert made.low > 0.9
    assert real.high < 0.05
    assert found.judge(SET.neighbours(TRAIN[:200])).status == "copies"
    assert FAR.memorises is None
    assert reference(0.5).memorises is None


def test_rows_that_are_copied_are_counted_by_id() -> None:
    ids = 1000 + torch.arange(N)
    rows = torch.cat([TRAIN[7:8].expand(5, -1), TRAIN[3:4].expand(2, -1), clumps(40, 3)])
    first, second = FAR.copied(SET.neighbours(rows), ids)[:2]
    assert (first.row, first.count) == (1007, 5)
    assert (second.row, second.count) == (1003, 2)
    assert len(FAR.copied(SET.neighbours(TRAIN), ids)) == 10


def test_errors_are_computed_once_for_a_row() -> None:
    asked: list[Tensor] = []

    def decode(rows: Tensor) -> Tensor:
        asked.append(rows)
        return TRAIN[rows] + 2.0

    errors = Errors(SET, decode)
    assert errors(torch.tensor([5, 3, 5])).tolist() == pytest.approx([2 * 6**0.5] * 3, rel=1e-5)
    errors(torch.tensor([3, 4]))
    assert [a.tolist() for a in asked] == [[3, 5], [4]]


def test_copies_among_junk_and_honest_rows_are_counted_the_same() -> None:
    """The limit does not lean on where the other rows are."""
    n, copies = 600, TRAIN[torch.arange(600) % N]
    far = 30 + clumps(n, 5)
    limits = [FAR.judge(SET.neighbours(mixed(x, copies, 0.15, 0))).most for x in (clumps(n, 4), far)]
    assert min(limits) > 0.15
