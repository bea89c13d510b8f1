"""Rows that are large: worked on block by block, kept in files without a name, and never whole in memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zprime.data import SPLITS, Dataset, DataSettings, Source, blocks, load, new_rows
from zprime.data.blocks import Chosen, collected, converted
from zprime.data.scaling import scaled, scaled_rows, scaling
from zprime.errors import ArrayError, UsageError
from zprime.run_folder import RunFolder
from zprime.running import Run
from zprime.training import TrainSettings
from zprime.vae import VAESettings

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts memory and files as Linux does")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything is large: 20 numbers at once, and files in a folder of their own."""
    shrink(monkeypatch)
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(blocks, "_place", lambda: place)
    return place


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGE", "BLOCK", "AT_ONCE"):
        monkeypatch.setattr(blocks, name, 20)


def on_disk(x: Tensor) -> bool:
    """Whether a tensor's memory is a file."""
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ends = [(*(int(a, 16) for a in parts[0].split("-")), int(parts[4])) for parts in maps]
    return any(start <= x.data_ptr() < end and inode for start, end, inode in ends)


def table(n: int = 60, d: int = 4, **changes) -> Source:
    return Source(**{"name": "table", "x": np.random.default_rng(1).normal(3, 2, (n, d)), **changes})


# Scaling


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(3, 2, shape),
    "float32": lambda rng, shape: rng.normal(3, 2, shape).astype(np.float32),
    "far": lambda rng, shape: 1e9 + rng.normal(size=shape),
    "unit": lambda rng, shape: rng.uniform(size=shape),
    "tiny": lambda rng, shape: rng.uniform(size=shape) * 1e-30,
    "near one": lambda rng, shape: 1 - rng.uniform(size=shape) * 1e-8,
    "huge": lambda rng, shape: (rng.normal(size=shape) * 1e30).astype(np.float32),
    "least": lambda rng, shape: (rng.normal(size=shape) * 1e-30).astype(np.float32),
    "counts": lambda rng, shape: rng.poisson(3, shape),
    "times": lambda rng, shape: rng.integers(10**18, 10**18 + 10**6, shape),
    "bytes": lambda rng, shape: rng.integers(0, 256, shape).astype(np.uint8),
    "bool": lambda rng, shape: rng.integers(0, 2, shape).astype(bool),
    "half": lambda rng, shape: rng.normal(size=shape).astype(np.float16),
}


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(list(KINDS)),
    shape=st.sampled_from([(3,), (2, 2), (1, 2, 2)]),
    n=st.integers(2, 60),
    constant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_scale_as_all_rows_at_once(kind: str, shape: tuple[int, ...], n: int, constant: bool, seed: int) -> None:
    """Shift, scale, their types, and the scaled rows."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(KINDS[kind](rng, (n, *shape)))
    if constant:
        x.flatten(1)[:, 0] = x.flatten()[0].clone()
    ids = torch.from_numpy(rng.permutation(n)[: max(1, n - 3)])
    at_once = scaling(Chosen(x, ids), None)
    whole = scaled(x, *at_once)
    with pytest.MonkeyPatch.context() as changed:
        shrink(changed)
        block_by_block = scaling(Chosen(x, ids), None)
        same = scaled_rows(x, torch.arange(n), *at_once)
        parts = scaled_rows(x, torch.arange(n), *block_by_block)
    assert torch.equal(same, whole)
    for there, here in zip(at_once, block_by_block, strict=True):
        assert (here.dtype, here.shape) == (there.dtype, there.shape)
        torch.testing.assert_close(here, there, rtol=2e-5, atol=0)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_a_column_that_spans_too_much_is_named_block_by_block_too(small: Path) -> None:
    x = torch.tensor([[0.0, -1e308], [1.0, 1e308]], dtype=torch.float64).repeat(20, 1)
    with pytest.raises(ArrayError, match=r"column 1 \(counted from 0\) spans more than float64 holds"):
        scaling(Chosen.all_of(x), None)


def test_rows_that_are_too_far_are_called_by_their_numbers(small: Path) -> None:
    x = torch.zeros(40, 2, dtype=torch.float64)
    x[33] = 1e300
    with pytest.raises(ArrayError, match=r"\(row 33\)"):
        scaled_rows(x, torch.arange(40), torch.zeros(2).double(), torch.ones(2).double())


# Data sets


@linux
@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (table(), {}),
        (table(x=np.repeat(np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4)), 2, 0).astype(np.uint8)), {}),
        (table(test=9), {"limit": 20}),
        (table(columns={"g": np.arange(60) // 3}), {"group": "g"}),
    ],
)
def test_a_large_data_set_is_the_small_one_but_for_where_it_lies(
    source: Source, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = DataSettings("t", keep_duplicates=True, **changes)
    one = Dataset(source, chosen, seed=3)
    rows = {split: one.rows(split) for split in SPLITS}
    shrink(monkeypatch)
    two = Dataset(source, chosen, seed=3)
    assert (two.hash, two.duplicates) == (one.hash, one.duplicates)
    for split, there in rows.items():
        here = two.rows(split)
        assert torch.equal(here.ids, there.ids)
        torch.testing.assert_close(here.x, there.x, rtol=1e-6, atol=1e-6)
        assert (on_disk(here.x), on_disk(there.x)) == (True, False)


@linux
def test_small_splits_of_large_data_lie_in_files_too(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGE", 200)
    data = Dataset(table(), DataSettings("t"))
    assert all(on_disk(data.rows(split).x) for split in SPLITS)


@linux
def test_large_pixels_are_drawn_in_blocks_with_their_grey_values(small: Path) -> None:
    grey = np.random.default_rng(0).uniform(size=(400, 1, 4, 4))
    grey[:, 0, 0, 0] = 0.25
    data = Dataset(table(x=grey), DataSettings("t", binarise=True))
    rows = data.rows("train")
    assert rows.grey is not None
    assert on_disk(rows.x)
    assert on_disk(rows.grey)
    assert set(rows.x.unique().tolist()) == {0.0, 1.0}
    assert abs(float(rows.x[:, 0, 0, 0].mean()) - 0.25) < 0.08
    assert float(torch.corrcoef(torch.stack([rows.x.flatten(), rows.grey.flatten()]))[0, 1]) > 0.4
    assert torch.equal(rows.x, data.rows("train").x)


def test_duplicates_leave_the_rows_that_were_made_before(small: Path) -> None:
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[0] = x[599]
    data = Dataset(table(x=x, test=150), DataSettings("t"))
    assert data.duplicates["heldout"].count == 1
    rows = data.rows("heldout")
    assert len(rows.x) == len(rows.ids) == 149
    found = scaled(data.raw[rows.ids], data.shift, data.scale)
    assert torch.equal(rows.x, found)


# Files


@linux
def test_a_large_array_is_mapped_and_its_file_left_as_it_is(small: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 30))
    for name, array in (("c", x), ("f", np.asfortranarray(x)), ("swapped", x.astype(">f8"))):
        file = tmp_path / f"{name}.npy"
        np.save(file, array)
        before = file.read_bytes()
        data = load(DataSettings(str(file)))
        assert on_disk(data.raw)
        assert np.array_equal(data.raw.numpy(), x)
        assert torch.equal(data.rows("train").x, Dataset(table(x=x), DataSettings("t")).rows("train").x)
        assert file.read_bytes() == before


@linux
def test_new_rows_and_held_out_rows_are_made_in_blocks(small: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(60, 4)))
    data = load(DataSettings(str(tmp_path / "a.npy"), heldout_data=str(tmp_path / "b.npy")))
    assert on_disk(data.raw)
    rows, _ = new_rows(str(tmp_path / "b.npy"), data.describe(), data.tensors())
    assert on_disk(rows.x)
    assert torch.equal(rows.x, data.rows("heldout").x)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40), d=st.integers(1, 30), seed=st.integers(0, 99))
def test_parts_are_put_together_as_they_come(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d, 3))
    cuts = sorted(rng.integers(0, n + 1, 3))
    with pytest.MonkeyPatch.context() as changed:
        shrink(changed)
        assert np.array_equal(collected(iter(np.split(x, cuts)), x.shape, np.float32), x.astype(np.float32))
        assert np.array_equal(converted(x, np.float64, (0, 2, 1)), x.transpose(0, 2, 1))


@linux
@pytest.mark.parametrize("fails", [True, False])
def test_files_have_no_name_at_any_time(small: Path, *, fails: bool) -> None:
    seen = []

    def parts() -> Iterator[np.ndarray]:
        for _ in range(10):
            seen.extend(small.iterdir())
            yield np.ones((10, 10))
        if fails:
            raise ArrayError("no more")

    if fails:
        with pytest.raises(ArrayError, match="no more"):
            collected(parts(), (100, 10), np.float64)
    else:
        assert float(collected(parts(), (100, 10), np.float64).sum()) == 1000
    assert (seen, list(small.iterdir())) == ([], [])


def test_too_little_room_and_no_place_are_said_before_anything_is_written(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"expected 80.\d+ PB of room for a temporary file of rows, got .*TMPDIR"):
        collected(iter(()), (10**16, 1), np.float64)
    monkeypatch.setattr(blocks, "_place", lambda: small / "nowhere")
    with pytest.raises(UsageError, match=r"nowhere: cannot write the rows to a temporary file.*No such file.*TMPDIR"):
        collected(iter(()), (100, 1), np.float64)


def test_the_place_of_files_is_on_disk_unless_tmpdir_names_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert str(blocks._place()) == blocks.DISK
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert blocks._place() == tmp_path


@linux
def test_an_ingest_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    place, shards = tmp_path / "temporary", tmp_path / "shards"
    place.mkdir()
    shards.mkdir()
    for i in range(4):
        np.save(shards / f"{i}.npy", np.ones((50, 10)))
    code = (
        "import time; from zprime.data import blocks, numpy_files, load, DataSettings; blocks.LARGE = 20\n"
        "read = numpy_files._array\n"
        f"numpy_files.blocks = lambda n, shape: iter([print('now', flush=True) or time.sleep(60)])\n"
        f"load(DataSettings({str(shards)!r}))\n"
    )
    env = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
    assert list(place.iterdir()) == []


# Memory


LIMITED = """
import resource, sys
from pathlib import Path
import numpy, scipy.special
from zprime import VAE, TrainSettings, VAESettings, encode, train
from zprime.data import DataSettings, blocks, load
blocks.LARGE = blocks.AT_ONCE = 1 << 18
blocks.BLOCK = 1 << 16
warm = load(DataSettings(sys.argv[1]))
quiet = lambda *rest: None
def work(data, out):
    vae = VAE.build(data.shape, VAESettings(latents=2, hidden=(8,)).resolve(data.shape), seed=0)
    rows = data.rows("train")
    train(vae, rows, data.rows("selection"), TrainSettings(epochs=1, batch=256), checkpoint=out / "ck", progress=quiet)
    return encode(vae, rows, out / "q", progress=quiet)
out = Path(sys.argv[3])
work(warm, out / "warm")
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + int(sys.argv[4]),) * 2)
print(work(load(DataSettings(sys.argv[2])), out).n)
"""


@linux
def test_reading_training_and_encoding_hold_no_copy_of_the_rows(tmp_path: Path) -> None:
    """The training rows are twice what the process may take: no step makes an array of them, or of its bits, there."""
    small, large = tmp_path / "small.npy", tmp_path / "large.npy"
    rng = np.random.default_rng(0)
    np.save(small, rng.normal(3, 2, (2000, 200)).astype(np.float32))
    np.save(large, rng.normal(3, 2, (60_000, 200)).astype(np.float32))
    room = large.stat().st_size // 3
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    (tmp_path / "out").mkdir()
    args = [sys.executable, "-c", LIMITED, small, large, tmp_path / "out", str(room)]
    done = subprocess.run([str(a) for a in args], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "40000\n"), done.stderr[-800:]


def test_a_run_goes_on_with_the_same_data_in_blocks(small: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(3, 2, (90, 5)))
    run = Run(RunFolder(tmp_path / "run"))
    settings = DataSettings(str(tmp_path / "x.npy")), VAESettings(latents=2, hidden=(4,)), TrainSettings(epochs=2)
    run.train(*settings, seed=0)
    first = run.folder.model.hash
    again = Run(RunFolder(tmp_path / "run"))
    again.train(*settings, seed=0)
    assert again.folder.model.hash == first
    assert again.encode()["train"].n == 60
