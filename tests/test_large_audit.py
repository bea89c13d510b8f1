"""An audit of rows that lie in files: no step copies them, and the numbers are those of rows in memory."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import small
from zprime.arrays import count_columns, is_binary
from zprime.audit_stage import AuditStage
from zprime.data import Dataset, DataSettings, Source, blocks
from zprime.data.blocks import as_matrix, taken
from zprime.kernels import neighbours_parts, scaling
from zprime.results.audit import load
from zprime.run_folder import RunFolder

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

LIMITED = """
import resource, sys
from pathlib import Path
import numpy, scipy.special
from zprime import VAE, AuditSettings, TrainSettings, VAESettings, auditing, encode, fit, train
from zprime.data import SPLITS, DataSettings, Dataset, Source, blocks
from zprime.kernels import neighbours_parts, scaling
from zprime.measure.samples import features, study
blocks.LARGE = blocks.AT_ONCE = scaling.LARGE = 1 << 18
blocks.BLOCK = 1 << 16
neighbours_parts.AT_ONCE = 1 << 18
scaling.SOME = 1 << 14
# so that it does not take long: what works on codes alone, or on features of many columns
features.STEPS, study.KNOWN = 20, 60
auditing.surgeries = lambda study: {}
quiet = lambda *rest: None
how = AuditSettings(rows=12, draws=120, grid=4, map=20, samples=60, exchange=50, simulated=0, members=20,
                    latent_side=False, bandwidth_path=False)
def work(file, out):
    x = numpy.load(file, mmap_mode="r")
    data = Dataset(Source("t", x, numpy.arange(len(x)) % 3), DataSettings("t"))
    vae = VAE.build(data.shape, VAESettings(latents=2, hidden=(8,)).resolve(data.shape), seed=0)
    rows = {s: data.rows(s) for s in SPLITS}
    training = TrainSettings(epochs=1, batch=256)
    train(vae, rows["train"], rows["selection"], training, checkpoint=out / "ck", progress=quiet)
    q = {s: encode(vae, r, out / s, progress=quiet) for s, r in rows.items()}
    fits = {"gaussian": fit("gaussian", q["train"], selection=q["selection"], seed=0)}
    few = lambda x: x[:, :4]
    return auditing.audit(fits, q, model=vae, rows=rows, settings=how, features=few, progress=quiet)
out = Path(sys.argv[3])
work(sys.argv[1], out / "warm")
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + int(sys.argv[4]),) * 2)
found = work(sys.argv[2], out)
print(found.samples.classifier is not None, found.data.near is not None)
"""


@linux
def test_an_audit_holds_no_copy_of_the_rows(tmp_path: Path) -> None:
    """Its searches for neighbours, its classifier and its duplicates go through the training rows in parts."""
    files = [tmp_path / "small.npy", tmp_path / "large.npy"]
    for file, n in zip(files, (1000, 30_000), strict=True):
        np.save(file, np.random.default_rng(0).normal(3, 2, (n, 200)).astype(np.float32))
    room = files[1].stat().st_size // 2  # the training rows are two thirds
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "MALLOC_MMAP_THRESHOLD_": "500000"}
    (tmp_path / "out").mkdir()
    args = [sys.executable, "-c", LIMITED, *files, tmp_path / "out", str(room)]
    done = subprocess.run([str(a) for a in args], env=env, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr[-1500:]


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large."""
    for where, name in ((blocks, "LARGE"), (blocks, "BLOCK"), (blocks, "AT_ONCE"), (scaling, "LARGE")):
        monkeypatch.setattr(where, name, 20)
    monkeypatch.setattr(scaling, "SOME", 40)
    monkeypatch.setattr(neighbours_parts, "AT_ONCE", 100)


def parts_of(value: object, where: str = "") -> dict[str, object]:
    """Every number of an audit by its place, but for what was measured of the machine."""
    if is_dataclass(value):
        return {k: v for f in fields(value) for k, v in parts_of(getattr(value, f.name), f"{where}.{f.name}").items()}
    if isinstance(value, dict):
        return {k: v for name, one in value.items() for k, v in parts_of(one, f"{where}.{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, one in enumerate(value) for k, v in parts_of(one, f"{where}.{i}").items()}
    return {where: value.tolist() if isinstance(value, Tensor) else value}


TIMED = (
    ".command",
    "seconds",
    "draws_per_second",
    "data_draws",
    "posteriors_draws",
    "versions",
    "machine",
    "draws_a_second",
)


def test_an_audit_of_rows_in_files_is_that_of_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: distances are computed of two rows alone, whichever parts they are searched in."""
    job, one = small.run(tmp_path / "run", small.table(tmp_path / "x.npz", 200))
    rows = {split: r.x for split, r in job.folder.rows.items()}
    shrink(monkeypatch)
    folder = RunFolder(job.path)
    monkeypatch.setattr(type(folder), "rows", {s: r.take(torch.arange(len(r))) for s, r in job.folder.rows.items()})
    assert all(torch.equal(folder.rows[s].x, x) for s, x in rows.items())
    AuditStage(folder, seed=0).run(small.AUDIT, into=tmp_path / "again")
    two = load(tmp_path / "again")
    before, after = parts_of(one), parts_of(two)
    assert before.keys() == after.keys()
    other = [k for k, v in before.items() if repr(v) != repr(after[k]) and not any(w in k for w in TIMED)]
    assert not other


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("d", "k"), [(3, 1), (3, 9), (300, 4)])
def test_a_search_in_parts_changes_no_bit(d: int, k: int, exclude: bool, backend: str) -> None:
    from zprime.kernels import ExactIndex

    x = torch.randn(400, d, generator=torch.Generator().manual_seed(1))
    x[200:220] = x[:20]  # equal distances
    x[300] = 1e3
    queries, without = (x, torch.arange(400)) if exclude else (x[::3] + 0.1, None)
    whole = ExactIndex(x).nearest(queries, k, exclude=without)
    with pytest.MonkeyPatch.context() as changed:
        shrink(changed)
        changed.setattr(neighbours_parts, "AT_ONCE", 60 * d)
        index = ExactIndex(x)
        assert isinstance(index._search, neighbours_parts.Parts)
        parts = index.nearest(queries, k, exclude=without)
        far = index.nearest(queries * 1e13, k)
    assert torch.equal(parts[1], whole[1])
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(far[1], ExactIndex(x).nearest(queries * 1e13, k)[1])


def test_rows_that_are_taken_or_changed_lie_in_files_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2, 3)
    at = torch.randperm(50)[:30]
    whole = taken(x, at), as_matrix(x), as_matrix(x, torch.sin), as_matrix(x.double())
    shrink(monkeypatch)
    made = []
    collected = blocks.collected
    monkeypatch.setattr(blocks, "collected", lambda *a, **k: made.append(1) or collected(*a, **k))
    parts = taken(x, at), as_matrix(x), as_matrix(x, torch.sin), as_matrix(x.double())
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert parts[1].data_ptr() == x.data_ptr()
    assert len(made) == 3


def test_counts_and_bits_are_told_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.arrays.LOOKED_AT", 20)
    x = torch.poisson(torch.full((40, 10), 0.1))
    x[-1, 3], x[-1, 5] = 7, 0.5
    columns = count_columns(x)
    assert columns is not None
    assert columns.tolist() == [j != 5 for j in range(10)]
    x[-1, 6] = -1
    assert count_columns(x) is None
    assert is_binary((x > 0).float())
    assert not is_binary(x)


def test_the_hash_of_rows_does_not_depend_on_blocks_or_their_order_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6))
    whole = Dataset(Source("t", x), DataSettings("t"))
    shrink(monkeypatch)
    for same in (x, np.asfortranarray(x)):
        found = Dataset(Source("t", same), DataSettings("t"))
        assert (found.hash, found.bytes) == (whole.hash, whole.bytes)
