"""Exact nearest neighbours against every distance computed by the direct form in float64."""

import math

import pytest
import torch
from torch import Tensor

from zprime.errors import ArrayError
from zprime.kernels import compiled, nearest, neighbours, neighbours_compiled, neighbours_torch
from zprime.kernels.scaling import Scaling
from zprime.rng import stream

needs_compiled = pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")


def brute(queries: Tensor, points: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All distances, sorted; equal ones by position."""
    exact = (queries.double()[:, None] - points.double()).square().sum(2).sqrt()
    if exclude is not None:
        exact = exact.masked_fill(exclude[:, None] == torch.arange(len(points)), torch.inf)
    found = exact.sort(dim=1, stable=True)
    return found.values[:, :k], found.indices[:, :k]


def check(queries: Tensor, points: Tensor, k: int, exclude: Tensor | None = None) -> None:
    distance, index = nearest(queries, points, k, exclude=exclude)
    expected, where = brute(queries, points, k, exclude)
    assert torch.equal(index, where)
    torch.testing.assert_close(distance, expected, rtol=1e-13, atol=0)


def cloud(m: int, n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rng = stream(0, "cloud", d)
    return torch.randn(m, d, generator=rng, dtype=dtype), torch.randn(n, d, generator=rng, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("d", "n", "k"), [(1, 3000, 1), (2, 3000, 5), (16, 3000, 20), (784, 500, 3), (3, 7, 7), (512, 97, 1)]
)
def test_equals_brute_force(d: int, n: int, k: int, dtype: torch.dtype, backend: str) -> None:
    check(*cloud(60, n, d, dtype), k)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3000, 4000, 0), (1 << 22, 1 << 23, 2)])
def test_the_answer_does_not_depend_on_blocks(
    sizes: tuple[int, int, int], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("PAIRS", "NUMBERS", "SPARE"), sizes, strict=True):
        monkeypatch.setattr(neighbours_torch, name, value)
    monkeypatch.setattr(neighbours_compiled, "TRIED", 7)
    monkeypatch.setattr(neighbours_compiled, "NUMBERS", sizes[0])
    queries, points = cloud(40, 20_000, 2)
    points[9000:9050] = points[:50]
    queries[:20] = points[:20]
    check(queries, points, 3)


@pytest.mark.parametrize(("shift", "scale"), [(1e4, 1.0), (0.0, 1e-30), (0.0, 1e30), (3e5, 1e-2)])
def test_far_from_the_origin_huge_or_tiny(shift: float, scale: float, backend: str) -> None:
    """float32 products say little or nothing here: the bound of their error must know it."""
    queries, points = cloud(30, 2000, 8)
    check(queries * scale + shift, points * scale + shift, 4)


def test_float64_far_beyond_what_float32_can_hold(backend: str) -> None:
    queries, points = cloud(30, 2000, 8, torch.float64)
    for scale in (1e-200, 1e200):
        check_scaled(queries, points, scale)


def check_scaled(queries: Tensor, points: Tensor, scale: float) -> None:
    """Distances that the direct form would lose: those of the unscaled rows, times a power of two."""
    scale = 2.0 ** round(math.log2(scale))
    distance, index = nearest(queries * scale, points * scale, 4)
    expected, where = brute(queries, points, 4)
    assert torch.equal(index, where)
    torch.testing.assert_close(distance / scale, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-42), (torch.float64, 1e-310)])
def test_denormal_numbers(dtype: torch.dtype, size: float, backend: str) -> None:
    queries, points = (x * size for x in cloud(10, 200, 3, dtype))
    distance, index = nearest(queries, points, 4)
    expected, where = brute(queries.double() / size, points.double() / size, 4)
    assert torch.equal(index, where)
    torch.testing.assert_close(distance / size, expected)


def test_float32_queries_of_float64_points(backend: str) -> None:
    """Both must lose the same centre, though float32 cannot hold it."""
    queries, points = cloud(30, 2000, 8, torch.float64)
    queries, points = (queries * 1e-3 + 1 / 3).float(), points * 1e-3 + 1 / 3
    check(queries, points, 4)
    check(points[:30], queries, 4)


def test_without_the_bound_tight_clusters_would_get_the_wrong_points(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: float32 cannot order points 1e-5 apart at distance 1, and with no bound nothing tells."""
    queries, points = (1e-5 * x + torch.arange(len(x))[:, None] % 2 for x in cloud(40, 3000, 200, torch.float64))
    check(queries, points, 4)
    for module in (neighbours_torch, neighbours_compiled):
        monkeypatch.setattr(module, "rounding", lambda d: 0.0)
    assert not torch.equal(nearest(queries, points, 4)[1], brute(queries, points, 4)[1])


def test_equal_distances_go_by_position_however_many_they_are(backend: str) -> None:
    points = torch.cat([torch.zeros(500, 3), torch.ones(300, 3), torch.zeros(700, 3)])
    distance, index = nearest(torch.zeros(2, 3), points, 40)
    assert index.tolist() == [list(range(40))] * 2
    assert float(distance.abs().max()) == 0
    check(torch.ones(3, 3), points, 310)
    check(torch.full((4, 3), 2.0), torch.zeros(50, 3), 5)


def test_what_is_excluded_is_not_found(backend: str) -> None:
    _, points = cloud(1, 1500, 4)
    points[700] = points[3]
    check(points, points, 2, torch.arange(1500))
    own = torch.where(torch.arange(1500) % 2 == 0, torch.arange(1500), -1)
    check(points, points, 1, own)
    assert nearest(points, points, 1, exclude=torch.arange(1500))[1][3].item() == 700
    few = points[:4]
    check(few, few, 3, torch.arange(4))


def wide(n: int, m: int, spread: float) -> tuple[Tensor, Tensor]:
    """Rows of 300 columns that lie near a plane of 20, and apart from it by `spread`."""
    rng = stream(0, "wide")
    plane = torch.randn(20, 300, generator=rng)
    both = torch.randn(n + m, 20, generator=rng) @ plane + spread * torch.randn(n + m, 300, generator=rng)
    both[1] = both[0]
    return both[n:], both[:n]


@needs_compiled
@pytest.mark.parametrize(("spread", "spares"), [(0.1, True), (100.0, False)])
def test_a_sieve_of_few_axes_changes_nothing_and_is_used_where_it_spares_work(
    spread: float, spares: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "torch":
        pytest.skip("the sieve of few axes is compiled")
    monkeypatch.setattr(neighbours_compiled, "ASKED", 100)
    monkeypatch.setattr(neighbours_compiled, "TRIED", 20)
    queries, points = wide(800, 100, spread)
    among = neighbours.ExactIndex(points)
    distance, index = among.nearest(queries, 3)
    assert among._search.few is not None
    assert (among._search.whole is None) == spares
    expected, where = brute(queries, points, 3)
    assert torch.equal(index, where)
    torch.testing.assert_close(distance, expected, rtol=1e-13, atol=0)
    # the first few queries, which the axes are tried on, and a second search
    again = among.nearest(queries[:5], 3, exclude=index[:5, 0])
    assert torch.equal(again[1][:, :2], index[:5, 1:])


@needs_compiled
@pytest.mark.parametrize("k", [1, 6])
def test_threads_change_no_bit(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = cloud(1000, 3000, 8)
    one = nearest(queries, points, k)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = nearest(queries, points, k)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"queries": torch.zeros(2, 4)}, r"queries: expected shape \[n, 3\], got \[2, 4\]"),
        ({"queries": torch.full((2, 3), torch.nan)}, r"queries: expected finite numbers, got nan in 2 of 2 rows"),
        ({"points": torch.zeros(0, 3)}, r"points: expected at least one row"),
        ({"k": 6}, r"k: expected 1 to 5 \(5 points\), got 6"),
        ({"k": 0}, r"k: expected 1 to 5 \(5 points\), got 0"),
        ({"k": 5, "exclude": torch.tensor([0, 1])}, r"k: expected 1 to 4 \(5 points\), got 5"),
        ({"exclude": torch.tensor([0])}, r"exclude: expected 2 positions, one a query, got \[1\]"),
    ],
)
def test_what_cannot_be_searched_is_said(change: dict, text: str, unchecked: None) -> None:
    given = {"queries": torch.zeros(2, 3), "points": torch.zeros(5, 3), "k": 1, **change}
    with pytest.raises(ArrayError, match=text):
        nearest(**given)


def test_points_that_are_searched_twice_and_queries_far_beyond_them(backend: str) -> None:
    """Queries 1e30 times as far out would overflow at the points' own scale."""
    queries, points = cloud(20, 900, 6)
    among = neighbours.ExactIndex(points * 1e-20)
    for scale in (1e-20, 1.0, 1e10):
        found = among.nearest(queries * scale, 3)
        once = nearest(queries * scale, points * 1e-20, 3)
        assert torch.equal(found[0], once[0])
        assert torch.equal(found[1], once[1])
    check(queries * 1e-20, points * 1e-20, 3)


def test_ties_among_the_nearest_go_by_position_where_all_others_are_farther(backend: str) -> None:
    """30 points in three places, in mixed order, and 200 far off: what is found at once needs no second look."""
    place = torch.randperm(30, generator=stream(0, "places")) % 3
    near = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])[place]
    points = torch.cat([100 + torch.arange(400.0).reshape(200, 2), near])[torch.randperm(230, generator=stream(0, "p"))]
    distance, index = nearest(torch.zeros(3, 2), points, 30)
    assert bool((distance == 1).all())
    assert index.tolist() == [sorted((points.abs().amax(1) == 1).nonzero().flatten().tolist())] * 3
    check(torch.tensor([[0.1, 0.2], [0.0, 0.5]]), points, 25)


@needs_compiled
def test_a_sieve_of_few_axes_errs_by_the_lengths_of_whole_rows() -> None:
    """Rows far from the axes are rounded by what they are, not by the little that the axes see of them."""
    points = torch.randn(50, 300, generator=stream(0, "whole"), dtype=torch.float64)
    scaling = Scaling.of(points, 0.0)
    axes = torch.linalg.qr(torch.randn(300, 4, generator=stream(0, "axes"), dtype=torch.float64)).Q
    columns = neighbours_compiled.Columns(points, scaling, axes)
    lengths = scaling.scaled(points).double().norm(dim=1)
    of = columns._of(points)
    assert of.fine is not None
    assert of.fine.shape == (50, 4 + 1)  # the last is the length of the rest
    torch.testing.assert_close(of.fine.double().norm(dim=1), lengths)
    torch.testing.assert_close(of.length, lengths)
    assert columns.longest == pytest.approx(float(lengths.max()))
