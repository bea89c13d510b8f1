"""Encoding: whole = shards, resumed = undisturbed, bad encoders named."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from zprime import encoding
from zprime.data import Rows
from zprime.errors import ArtifactError, NumericalError
from zprime.posteriors import MemoryPosteriors, ShardedPosteriors
from zprime.rng import stream

N = 50


class Toy:
    """An encoder that counts the rows it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(x)
        return x[:, :2], 0.1 + x[:, 2:].abs()


@pytest.fixture
def rows() -> Rows:
    x = torch.randn(N, 4, generator=stream(0, "rows"))
    return Rows("train", x, torch.arange(N) * 3, labels=torch.arange(N) % 5)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 16)
    monkeypatch.setattr(encoding, "BATCH", 7)


def test_shards_equal_the_whole(rows: Rows, tmp_path: Path) -> None:
    memory = encoding.encode(Toy(), rows)
    disk = encoding.encode(Toy(), rows, tmp_path / "p", key="k")
    assert isinstance(disk, ShardedPosteriors)
    assert [len(s.mean) for s in disk.shards()] == [16, 16, 16, 2]
    assert isinstance(memory, MemoryPosteriors)
    again = ShardedPosteriors(tmp_path / "p")
    assert torch.equal(again.gather().mean, memory.mean)
    assert torch.equal(again.gather().scale, memory.scale)
    assert torch.equal(again.row_ids, rows.ids)
    assert again.labels is not None
    z = torch.randn(30, 2, generator=stream(0, "z"), dtype=torch.float64)
    torch.testing.assert_close(again.log_prob(z), memory.log_prob(z), rtol=0, atol=1e-10)
    out = torch.arange(30) * 3
    torch.testing.assert_close(again.log_prob(z, leave_out=out), memory.log_prob(z, leave_out=out), rtol=0, atol=1e-10)
    assert torch.equal(again.sample(40, rng=stream(0, "s")), memory.sample(40, rng=stream(0, "s")))
    assert again.bytes == memory.bytes == N * 2 * 2 * 4


def test_an_interrupted_encoding_goes_on(rows: Rows, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    first, second = Toy(), Toy()
    with pytest.raises(KeyboardInterrupt):
        encoding.encode(first, rows, tmp_path / "p", key="k", progress=stop)
    assert not (tmp_path / "p").exists()  # nothing half-written
    resumed = encoding.encode(second, rows, tmp_path / "p", key="k")
    assert (first.seen, second.seen) == (32, N - 32)
    assert torch.equal(resumed.gather().mean, encoding.encode(Toy(), rows).gather().mean)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_shards_of_another_key_are_not_used(rows: Rows, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoding.encode(Toy(), rows, tmp_path / "p", key="k", progress=stop)
    other = Toy()
    encoding.encode(other, rows, tmp_path / "p", key="other")
    assert other.seen == N


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda m, s: (m.index_fill(0, torch.tensor([3]), float("nan")), s), r"row 9 of train got mean nan"),
        (lambda m, s: (m, s.index_fill(0, torch.tensor([3]), 0.0)), r"row 9 .* and scale 0 in dimension 0"),
    ],
)
def test_a_bad_encoder_is_named(rows: Rows, spoil, sentence: str) -> None:  # type: ignore[no-untyped-def]
    class Bad:
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            m, s = x[:, :2].clone(), 0.1 + x[:, 2:].abs()
            return spoil(m, s) if torch.equal(x[0], rows.x[0]) else (m, s)

    with pytest.raises(NumericalError, match=sentence):
        encoding.encode(Bad(), rows)


def test_an_altered_shard_is_refused(rows: Rows, tmp_path: Path) -> None:
    encoding.encode(Toy(), rows, tmp_path / "p")
    file = tmp_path / "p" / "shard-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"shard-00001.safetensors: its SHA-256 is not the one in manifest.json"):
        ShardedPosteriors(tmp_path / "p").gather()


def test_keeping_the_data_instead_gives_the_same_posteriors(rows: Rows) -> None:
    memory = encoding.encode(Toy(), rows)
    toy = Toy()
    again = encoding.Reencoded(toy, rows)
    assert [len(s.mean) for s in again.shards()] == [16, 16, 16, 2]
    assert torch.equal(again.gather().mean, memory.gather().mean)
    z = torch.randn(30, 2, generator=stream(0, "z"), dtype=torch.float64)
    torch.testing.assert_close(again.log_prob(z), memory.log_prob(z), rtol=0, atol=1e-10)
    assert torch.equal(again.sample(40, rng=stream(0, "s")), memory.sample(40, rng=stream(0, "s")))
    toy.seen = 0
    again.sample(5, rng=stream(0, "s"))
    assert toy.seen <= 5  # only what was drawn is encoded
    assert again.bytes == N * 4 * 4
    assert encoding.Reencoded(Toy(), rows, stored=77).bytes == 77
