"""More rows than memory takes: what holds of sums over them in pieces, and how much memory a fit or an audit takes."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo import posteriors, sharded, weighted
from zprime import fitting
from zprime import posteriors as held
from zprime.latent import ConditionalSettings, Prior, VampSettings
from zprime.latent.gaussian import marginal_moments, moments
from zprime.measure.latents.averages import averages
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA as Linux counts it")


def numbers(p: MemoryPosteriors) -> list[Any]:
    """What an audit sums over all rows."""
    split = Split("train", p)
    cut = surgery(split, rng=stream(0, "surgery"))
    study = Study(split, Split("selection", p), Split("heldout", p), prior=Prior(p.d))
    found = averages(study, cut) if p.datum is None else None
    z = p.draw(rng=stream(0, "z"))
    return [asdict(cut), None if found is None else asdict(found), z, p.log_prob(z), *moments(p), *marginal_moments(p)]


def same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == (pytest.approx(b, rel=1e-9, abs=1e-9) if isinstance(a, float) else b)


def full() -> MemoryPosteriors:
    p = posteriors(3)
    return MemoryPosteriors(p.mean, torch.linalg.cholesky(torch.diag_embed(p.scale.square()) + 0.05))


def parts() -> MemoryPosteriors:
    p = posteriors(3)
    return MemoryPosteriors(p.mean, p.scale, row_ids=torch.arange(24) // 2)


@pytest.mark.parametrize(
    "p", [posteriors(3), weighted(3, torch.float64), full(), parts()], ids=["equal", "weighted", "full", "parts"]
)
def test_sums_do_not_depend_on_the_pieces_of_rows_in_memory(
    p: MemoryPosteriors, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(p.shards())) == 1
    whole = numbers(p)
    monkeypatch.setattr(held, "LEAST", 7)
    monkeypatch.setattr(held, "NUMBERS", 1)
    assert [s.start for s in p.shards()] == [0, 7, 14, 21]
    same(numbers(p), whole)


def test_draws_and_some_rows_do_not_depend_on_shards(tmp_path: Path) -> None:
    p = posteriors(3)
    on_disk = sharded(p, tmp_path / "q", 5)
    assert torch.equal(on_disk.sample(40, rng=stream(0, "z")), p.sample(40, rng=stream(0, "z")))
    assert torch.equal(on_disk.sample(2, rng=stream(1, "z")), p.sample(2, rng=stream(1, "z")))
    a, b = (q.some(9, rng=stream(0, "some")) for q in (on_disk, p))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.row_ids, b.row_ids)
    assert a.n == 9


def test_log_weights_of_a_shard_are_not_made_for_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the density of n rows takes time in proportion to their square."""
    on_disk = sharded(posteriors(2), tmp_path / "q", 5)
    asked: list[int] = []
    inner = type(on_disk)._log_weights_of
    monkeypatch.setattr(
        type(on_disk), "_log_weights_of", lambda q, rows: asked.append(rows.stop - rows.start) or inner(q, rows)
    )
    on_disk.log_prob(torch.zeros(1, 2).double())
    assert asked == [5, 5, 5, 5, 4]


def test_which_kinds_are_fitted_to_some_of_many_rows() -> None:
    assert fitting._of_posteriors(ConditionalSettings())
    assert not fitting._of_posteriors(ConditionalSettings(base=VampSettings()))
    assert not fitting._of_posteriors(VampSettings())


LIMITED = """
import resource, sys
import scipy.special, scipy.stats
import zprime
from zprime import fitting, latent
fitting.MOST = 500
quiet = lambda *rest: None
short = {"epochs": 1, "hidden": (8,), "batch": 128}
kinds = {
    "gaussian": {}, "log-pool": {}, "barycentre": {}, "product-of-experts": {}, "mixture": {"components": 4},
    "conditional": {"base": latent.MixtureSettings(components=2)}, "exemplars": {}, "flow": short,
    "flow-matching": {"width": 8, "epochs": 1}, "two-stage": short, "resampled": short,
}
some, many, selection = (zprime.load_posteriors(sys.argv[1] + name) for name in ("some", "many", "selection"))
def fit(kind, train):
    settings = type(latent.settings_for(kind))(**kinds[kind])
    return zprime.fit(settings, train, selection=selection, keep_duplicates=True, seed=0, progress=quiet)
for kind in kinds:
    fit(kind, some)
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + int(sys.argv[2]),) * 2)
for kind in kinds:
    fit(kind, many)
    print(kind, flush=True)
"""


@linux
def test_every_kind_that_needs_posteriors_alone_is_fitted_from_shards(tmp_path: Path) -> None:
    """The posteriors are three times what the process may take beside what fits to few rows took."""
    n = 400_000
    for name, size in (("some", 500), ("selection", 300), ("many", n)):
        rng = stream(0, name)
        label = torch.randint(4, (size,), generator=rng)
        mean = 0.3 * torch.randn(size, 16, generator=rng) + label[:, None] - 1.5
        scale = 0.1 + 0.2 * torch.rand(size, 16, generator=rng)
        MemoryPosteriors(mean, scale, labels=label).save(tmp_path / name)
    args = [sys.executable, "-c", LIMITED, f"{tmp_path}/", str(2 * n * 16 * 4 // 3)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-800:]
    assert len(done.stdout.splitlines()) == 11
