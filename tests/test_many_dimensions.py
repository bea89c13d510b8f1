"""More dimensions than rows: fits of the default kinds and their audit make no d x d matrix, and take little memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zprime import audit, fit
from zprime.arrays import in_proportion
from zprime.distribution import Prior
from zprime.fit_stage import KINDS
from zprime.latent import GaussianSettings, MixtureSettings
from zprime.latent.selection import Codes
from zprime.measure.entries import draws_per_second
from zprime.measure.latents.leave_one_out import scored
from zprime.measure.latents.surgery import draws_of
from zprime.measure.latents.total_correlation import total_correlation
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream

D = 65
LIMITS = (
    "latent.factors.DENSE",
    "latent.gaussian.FULL",
    "latent.mixture.FULL",
    "measure.study.DENSE",
    "measure.latents.averages.DENSE",
)
"""Dimensions up to which matrices are allowed: 1,024 or 512, here 64."""


class NoMatrix(TorchDispatchMode):
    """Raises where an operation gives a tensor with two axes of length D, or D^2 / 2 features."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                assert list(leaf.shape).count(D) < 2, f"{func}: {list(leaf.shape)}"
                assert leaf.ndim < 2 or leaf.shape[-1] < D * D // 2, f"{func}: {list(leaf.shape)}"
        return out


def posteriors(n: int, seed: int) -> MemoryPosteriors:
    """Codes with three common factors."""
    load = torch.randn(3, D, generator=stream(0, "load"))
    rng = stream(seed, "codes")
    mean = torch.randn(n, 3, generator=rng) @ load + 0.3 * torch.randn(n, D, generator=rng)
    return MemoryPosteriors(mean, torch.full((n, D), 0.5), row_ids=torch.arange(n) + 1000 * seed)


SPLITS = {name: posteriors(n, i) for i, (name, n) in enumerate((("train", 40), ("selection", 16), ("heldout", 16)))}

QUICK = {"mixture": MixtureSettings(polish=1, restarts=1)}


def test_fits_and_audit_of_the_default_kinds_make_no_matrix_of_all_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in LIMITS:
        monkeypatch.setattr(f"zprime.{limit}", D - 1)
    monkeypatch.setattr("zprime.latent.gaussian.MOST", 8)  # as many factors as dimensions would be a matrix too
    with NoMatrix():
        fits = {
            k: fit(QUICK.get(k, k), SPLITS["train"], selection=SPLITS["selection"], keep_duplicates=True) for k in KINDS
        }
        found = audit(fits, SPLITS, settings=AuditSettings(rows=16))
    for name in KINDS[:2]:
        assert f"{D} dimensions are many" in fits[name].outcome.message
    assert found.averages is not None
    assert found.latents.hole is not None


def test_the_mode_sees_a_matrix() -> None:
    with pytest.raises(AssertionError, match="65, 65"), NoMatrix():
        fit(GaussianSettings("full"), SPLITS["train"], selection=SPLITS["selection"], keep_duplicates=True)


WHOLE = """
import sys, tempfile
from pathlib import Path
import torch
import zprime
from zprime.latent import MixtureSettings
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings

def highest():
    status = Path("/proc/self/status").read_text()
    return int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) / 1024

def whole(d):
    splits = {}
    for i, (name, n) in enumerate((("train", 40), ("selection", 32), ("heldout", 32))):
        rng = torch.Generator().manual_seed(i)
        mean = torch.randn(n, 1, generator=rng) + 0.3 * torch.randn(n, d, generator=rng)
        splits[name] = MemoryPosteriors(mean, torch.full((n, d), 0.5), row_ids=torch.arange(n) + 1000 * i)
    kinds = {"gaussian": "gaussian", "mixture": MixtureSettings(polish=1, restarts=1), "aggregated": "aggregated"}
    fits = {
        name: zprime.fit(kind, splits["train"], selection=splits["selection"], keep_duplicates=True)
        for name, kind in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        zprime.audit(fits, splits, settings=AuditSettings(rows=32)).save(Path(folder) / "audit")
        page = zprime.report(Path(folder) / "audit", Path(folder) / "page.html")
        codes = zprime.load_audit(Path(folder) / "audit").tensors["map.prior"]
        assert len(codes) == 2000 * 1024 // max(1024, d)
        return page.stat().st_size / 1e6

torch.set_num_threads(1)
whole(8)  # libraries that are loaded on the way
before = highest()
page = whole(int(sys.argv[1]))
between = highest()
torch.ones(32, 2048, 2048)  # what must not be made: a matrix for every row
print(page, between - before, highest() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the most memory of a process is read from /proc")
def test_a_whole_audit_in_2048_dimensions_takes_less_memory_than_a_matrix_for_every_row() -> None:
    """The default kinds are fitted and audited, the audit is read again, and its page is written."""
    done = subprocess.run([sys.executable, "-c", WHOLE, "2048"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page, took, planted = map(float, done.stdout.split())
    assert took < 400  # megabytes; 32 x 2,048 x 2,048 numbers take 537, 290 was the most of six runs
    assert planted > 400
    assert page < 3


def test_work_of_the_audit_is_cut_in_proportion_above_1024_dimensions() -> None:
    """Draws of surgery and rows of leave-one-out are as many as ever up to there."""
    assert [draws_of(5000, d) for d in (2, 1024, 1025, 4096, 10**6)] == [8, 8, 8, 3, 1]
    assert draws_of(60_000, 16) == draws_of(200_000, 16) == 1
    assert [scored(5000, d) for d in (2, 1024, 4096, 10**6)] == [6000, 6000, 1500, 100]
    assert [in_proportion(1000, d) for d in (2, 1024, 4096)] == [1000, 1000, 250]


@pytest.mark.parametrize(("d", "draws"), [(16, 16), (1024, 16), (4096, 5)])
def test_codes_of_the_selection_split_are_fewer_above_1024_dimensions(d: int, draws: int) -> None:
    selection = MemoryPosteriors(torch.zeros(1000, d), torch.ones(1000, d))
    assert len(Codes.draw(selection, Prior(d), rng=stream(0)).z) == 1000 * draws


@pytest.mark.parametrize(("d", "points"), [(3, 1000), (4096, 250), (20_000, 100)])
def test_points_of_the_total_correlation_are_fewer_above_1024_dimensions(d: int, points: int) -> None:
    p = MemoryPosteriors(torch.zeros(1, d), torch.ones(1, d))
    asked: list[int] = []
    p.sample = lambda n, rng: asked.append(n) or torch.zeros(1, d)  # type: ignore[method-assign]
    p.log_prob = _stop  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        total_correlation(Split("train", p), seed=0)
    assert asked == [points]


@pytest.mark.parametrize(("d", "drawn"), [(16, 10_000), (4096, 2500)])
def test_fewer_draws_are_timed_above_1024_dimensions(d: int, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Prior, "sample", lambda _, n, **__: asked.append(n))
    draws_per_second(Prior(d), seed=0)
    assert asked == [drawn]


def _stop(*_: object) -> torch.Tensor:
    raise StopIteration
