"""The N posteriors and their mixture: exact, streamed, with rows left out; the same in memory and in shards."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles import torch_mixture
from tasks import task
from zoo import posteriors, sharded, weighted
from zprime import artifact
from zprime.errors import ArrayError, ArtifactError
from zprime.latent import Aggregated, AggregatedSettings
from zprime.posteriors import MemoryPosteriors, Posteriors, ShardedPosteriors
from zprime.rng import stream

POINTS = 2 * torch.randn(40, 3, generator=stream(0, "points"), dtype=torch.float64)


def rich(d: int = 3) -> MemoryPosteriors:
    """With ids in no order, labels and weights."""
    p = weighted(d, torch.float64)
    ids = torch.randperm(1000, generator=stream(0, "ids"))[: p.n]
    return MemoryPosteriors(p.mean, p.scale, row_ids=ids, weights=p.weights, labels=ids % 3)


def without(p: MemoryPosteriors, i: int) -> Tensor:
    """log-density of the mixture of all rows but row i, by torch."""
    rest = [k for k in range(p.n) if k != i]
    return torch_mixture(p.mean[rest], p.scale[rest], p.log_weights[rest].log_softmax(0)).log_prob(POINTS)


@pytest.mark.parametrize("p", [posteriors(3), rich()], ids=["equal weights", "weights"])
def test_log_prob_is_the_mixture_of_all_rows(p: MemoryPosteriors) -> None:
    expected = torch_mixture(p.mean, p.scale, p.log_weights).log_prob(POINTS)
    torch.testing.assert_close(p.log_prob(POINTS), expected, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("p", [posteriors(3), rich()], ids=["equal weights", "weights"])
def test_leave_out_equals_the_mixture_without_that_row(p: MemoryPosteriors) -> None:
    for i in range(p.n):
        found = p.log_prob(POINTS, leave_out=p.row_ids[i].expand(len(POINTS)))
        torch.testing.assert_close(found, without(p, i), rtol=1e-10, atol=1e-9)


def test_each_point_leaves_out_its_own_row_and_unknown_ids_leave_out_none() -> None:
    p = rich()
    ids = torch.cat([p.row_ids, torch.tensor([-1, 5000] + [10**9] * 14)])
    found = p.log_prob(POINTS, leave_out=ids)
    for i in range(p.n):
        assert found[i].item() == pytest.approx(without(p, i)[i].item(), abs=1e-9)
    torch.testing.assert_close(found[p.n :], p.log_prob(POINTS)[p.n :], rtol=1e-12, atol=0)


def test_what_is_left_out_is_masked_and_never_subtracted() -> None:
    """The row left out is nearly all of the density: subtracting would leave nothing but rounding."""
    p = MemoryPosteriors(
        torch.tensor([[0.0], [30.0]], dtype=torch.float64), torch.tensor([[1e-3], [1.0]], dtype=torch.float64)
    )
    found = p.log_prob(torch.zeros(1, 1, dtype=torch.float64), leave_out=torch.tensor([0]))
    assert found.item() == pytest.approx(-0.5 * 30**2 - 0.5 * torch.log(torch.tensor(2 * torch.pi)).item(), abs=1e-6)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_shards_give_the_same_numbers_as_memory(tmp_path: Path, size: int) -> None:
    p = rich()
    q = sharded(p, tmp_path / "p", size)
    assert (q.n, q.d, q.bytes) == (p.n, p.d, p.bytes)
    torch.testing.assert_close(q.log_prob(POINTS), p.log_prob(POINTS), rtol=1e-12, atol=1e-12)
    out = p.row_ids[torch.arange(len(POINTS)) % p.n]
    torch.testing.assert_close(
        q.log_prob(POINTS, leave_out=out), p.log_prob(POINTS, leave_out=out), rtol=1e-12, atol=1e-12
    )
    by_label, labels = p.label_log_prob(POINTS)
    assert labels.tolist() == p.labels.unique().tolist()
    torch.testing.assert_close(by_label.logsumexp(1), p.log_prob(POINTS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.label_log_prob(POINTS)[0], by_label, rtol=1e-12, atol=1e-12)
    assert torch.equal(q.sample(50, rng=stream(0)), p.sample(50, rng=stream(0)))
    assert torch.equal(q.draw(rng=stream(0), draws=3), p.draw(rng=stream(0), draws=3))
    back = q.gather()
    for name in ("mean", "scale", "row_ids", "weights", "labels"):
        assert torch.equal(getattr(back, name), getattr(p, name))


def test_the_label_of_a_point_is_that_of_the_posteriors_about_it() -> None:
    mean = torch.tensor([[0.0], [1.0], [9.0]], dtype=torch.float64)
    p = MemoryPosteriors(mean, torch.full((3, 1), 0.5, dtype=torch.float64), labels=torch.tensor([4, 4, 7]))
    found, labels = p.label_log_prob(torch.tensor([[0.5], [9.0]], dtype=torch.float64))
    assert labels.tolist() == [4, 7]
    assert found.softmax(1).argmax(1).tolist() == [0, 1]
    assert found[1, 1].item() == pytest.approx(-math.log(3 * 0.5 * math.sqrt(2 * math.pi)))
    with pytest.raises(ArrayError, match="labels: these posteriors carry none"):
        MemoryPosteriors(mean, mean.abs() + 1).label_log_prob(mean)


def test_an_altered_shard_is_refused_by_name(tmp_path: Path) -> None:
    q = sharded(rich(), tmp_path / "p", 5)
    file = tmp_path / "p" / "shard-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match=r"shard-00001.safetensors: its SHA-256 is not the one in manifest.json"):
        q.log_prob(POINTS)
    artifact.write(tmp_path / "m", artifact.Manifest("model"))
    with pytest.raises(ArtifactError, match="expected an artefact of kind posteriors, got model"):
        ShardedPosteriors(tmp_path / "m")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_is_a_datum_at_random_then_its_posterior(dtype: torch.dtype) -> None:
    """Narrow posteriors far apart: every draw tells its parent; parents come as often as their weights say."""
    mean = 100.0 * torch.arange(4, dtype=dtype)[:, None].expand(4, 2)
    scale = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]], dtype=dtype)
    p = MemoryPosteriors(mean.clone(), scale, weights=torch.tensor([0.4, 0.0, 0.5, 0.1], dtype=dtype))
    z = p.sample(8000, rng=stream(0, "sample"))
    parent = (z[:, 0] / 100).round().long()
    share = torch.bincount(parent, minlength=4) / 8000
    assert z.dtype == dtype
    assert share[1] == 0
    torch.testing.assert_close(share, p.weights.float(), rtol=0, atol=5 * (0.25 / 8000) ** 0.5)
    for k in (0, 2, 3):
        mine = (z[parent == k] - mean[k]) / scale[k]
        torch.testing.assert_close(mine.std(0), torch.ones(2, dtype=dtype), rtol=0, atol=4 / (2 * len(mine)) ** 0.5)
        torch.testing.assert_close(mine.mean(0), torch.zeros(2, dtype=dtype), rtol=0, atol=4 / len(mine) ** 0.5)


def test_the_aggregated_kind_draws_and_scores_as_the_posteriors_do() -> None:
    p = rich()
    r = AggregatedSettings().fit(task(p, selection=p, rng=stream(0))).distribution
    assert isinstance(r, Aggregated)
    assert torch.equal(r.sample(30, rng=stream(0)), p.sample(30, rng=stream(0)))
    assert torch.equal(r.log_prob(POINTS), p.log_prob(POINTS))
    assert r.bytes == p.bytes + p.weights.numel() * 8


def test_draw_gives_every_row_its_own_codes_in_order() -> None:
    p = MemoryPosteriors(100.0 * torch.arange(50)[:, None].expand(50, 2), torch.full((50, 2), 0.5))
    z = p.draw(rng=stream(0), draws=40).reshape(40, 50, 2)
    noise = (z - p.mean) / p.scale
    assert float(noise.abs().max()) < 6
    assert float(noise.std()) == pytest.approx(1, abs=4 / (2 * 4000) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=4 / 4000**0.5)


def test_take_keeps_ids_and_labels_with_their_rows() -> None:
    p = rich()
    rows = torch.tensor([7, 2, 2])
    q = p.take(rows)
    for name in ("mean", "scale", "row_ids", "labels"):
        assert torch.equal(getattr(q, name), getattr(p, name)[rows])


def test_row_order_does_not_matter_to_the_density() -> None:
    p = rich()
    order = torch.randperm(p.n, generator=stream(0))
    q = MemoryPosteriors(p.mean[order], p.scale[order], row_ids=p.row_ids[order], weights=p.weights[order])
    torch.testing.assert_close(q.log_prob(POINTS), p.log_prob(POINTS), rtol=1e-12, atol=1e-12)
    out = p.row_ids[torch.arange(len(POINTS)) % p.n]
    torch.testing.assert_close(
        q.log_prob(POINTS, leave_out=out), p.log_prob(POINTS, leave_out=out), rtol=1e-11, atol=1e-11
    )


M, S = torch.zeros(3, 2), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MemoryPosteriors(torch.zeros(3), S), r"mean: expected shape \[n, d\], got \[3\]"),
        (lambda: MemoryPosteriors(M[:0], S[:0]), r"mean: expected at least one row and one column, got \[0, 2\]"),
        (
            lambda: MemoryPosteriors(M * torch.nan, S),
            r"mean: expected finite numbers, got nan in 3 of 3 rows \(row 0, 1, 2\)",
        ),
        (lambda: MemoryPosteriors(M, S * torch.inf), r"scale: expected finite numbers, got inf in 3 of 3 rows"),
        (lambda: MemoryPosteriors(M, torch.ones(4, 2)), r"scale: expected shape \[3, 2\] as mean has, got \[4, 2\]"),
        (lambda: MemoryPosteriors(M, torch.ones(3, 1)), r"scale: expected shape \[n, 2\], got \[3, 1\]"),
        (lambda: MemoryPosteriors(M, S.double()), r"scale: expected torch.float32 as mean is, got torch.float64"),
        (
            lambda: MemoryPosteriors(M, torch.tensor([[1.0, 1.0], [1.0, -2.5], [0.0, 1.0]])),
            r"scale: expected standard deviations above 0, got -2.5 in row 1, dimension 1; a log-variance must be",
        ),
        (
            lambda: MemoryPosteriors(M, S, weights=torch.tensor([0.5, 0.4, 0.2])),
            r"weights: expected 3 numbers >= 0 that add up to 1, got shape \[3\], smallest 0.2, sum 1.1",
        ),
        (lambda: MemoryPosteriors(M, S, weights=torch.tensor([1.5, -0.5, 0.0])), r"weights: .* smallest -0.5, sum 1"),
        (
            lambda: MemoryPosteriors(M, S, weights=torch.tensor([torch.nan, 0.5, 0.5])),
            r"weights: .* smallest nan, sum nan",
        ),
        (lambda: MemoryPosteriors(M, S, weights=torch.ones(2) / 2), r"weights: expected 3 numbers .* got shape \[2\]"),
        (
            lambda: MemoryPosteriors(M, S, row_ids=torch.arange(4)),
            r"row_ids and labels: expected 3 each, as mean has rows, got shapes \[\[4\]\]",
        ),
        (lambda: MemoryPosteriors(M, S, labels=torch.arange(2)), r"row_ids and labels: .* got shapes \[\[3\], \[2\]\]"),
        (lambda: MemoryPosteriors(M, S).log_prob(torch.zeros(5, 3)), r"z: expected shape \[n, 2\], got \[5, 3\]"),
        (
            lambda: MemoryPosteriors(M, S).log_prob(torch.zeros(5, 2), leave_out=torch.arange(4)),
            r"leave_out: expected 5 row ids, one a point, got \[4\]",
        ),
        (
            lambda: MemoryPosteriors(M[:1], S[:1]).log_prob(M, leave_out=torch.tensor([9, 0, 0])),
            r"leave_out: row 0 has all the weight of 1 posteriors: nothing would be left",
        ),
        (
            lambda: MemoryPosteriors(
                M, S, row_ids=torch.tensor([4, 5, 6]), weights=torch.tensor([0.0, 1.0, 0.0])
            ).log_prob(M, leave_out=torch.tensor([4, 5, 6])),
            r"leave_out: row 5 has all the weight of 3 posteriors: nothing would be left",
        ),
    ],
)
def test_what_cannot_be_used_is_said(make, text: str, unchecked: None) -> None:
    with pytest.raises(ArrayError, match=text):
        make()


def test_both_storages_are_posteriors() -> None:
    assert issubclass(MemoryPosteriors, Posteriors)
    assert issubclass(ShardedPosteriors, Posteriors)


def test_taking_rows_keeps_their_weights() -> None:
    p = rich()
    some = torch.tensor([1, 2, 3, 7])
    taken = p.take(some)
    assert p.weights is not None
    assert taken.weights is not None
    torch.testing.assert_close(taken.weights, p.weights[some] / p.weights[some].sum())
    assert posteriors(3).take(some).weights is None
    nothing = (p.weights == 0).nonzero().flatten()
    with pytest.raises(ArrayError, match="weights: expected one above 0 among the rows that are taken, got 6 zeros"):
        p.take(nothing)


def test_another_population_is_the_same_rows_with_other_weights() -> None:
    p = rich()
    weights = torch.rand(p.n, generator=stream(0, "w")).double()
    other = p.weighted(3 * weights)
    torch.testing.assert_close(other.log_weights.exp(), weights / weights.sum())
    assert torch.equal(other.row_ids, p.row_ids)
    for bad, text in (
        (weights[:3], r"weights: expected 24, one a row, got shape \[3\]"),
        (-weights, "weights: expected numbers >= 0, one above 0, got smallest -0"),
        (0 * weights, "weights: expected numbers >= 0, one above 0, got smallest 0, sum 0"),
        (weights / 0, "weights: expected finite numbers, got inf"),
    ):
        with pytest.raises(ArrayError, match=text):
            p.weighted(bad)


def test_draws_are_made_where_the_generator_is(tmp_path: Path) -> None:
    """Whatever torch's default device: here one that holds no numbers."""
    p = rich()
    for source in (p, sharded(p, tmp_path / "p", 7)):
        here = source.sample(5, rng=stream(0)), source.draw(rng=stream(0))
        with torch.device("meta"):
            there = source.sample(5, rng=stream(0)), source.draw(rng=stream(0))
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a, b)


def test_counting_bytes_reads_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = rich()
    source = sharded(p, tmp_path / "p", 5)
    reads: list[str] = []
    whole = artifact.Artifact.tensors
    monkeypatch.setattr(artifact.Artifact, "tensors", lambda self, name: reads.append(name) or whole(self, name))
    assert source.bytes == p.bytes == 2 * 24 * 3 * 8
    assert len(reads) == 1


@pytest.mark.parametrize(("p", "weights"), [(posteriors(3), "equal"), (rich(), "given")])
def test_a_notebook_is_told_of_weights(p: MemoryPosteriors, weights: str) -> None:
    assert re.search(rf"weights</th><td[^>]*>{weights}<", p._repr_html_())
