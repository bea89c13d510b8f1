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
from zprime import fitting, latent
from zprime import posteriors as held
from zprime.latent import ConditionalSettings, Prior, PriorSettings, VampSettings
from zprime.latent.gaussian import marginal_moments, moments
from zprime.measure.latents.averages import averages
from zprime.measure.latents.surgery import surgery
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import silent
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
    inner = type(on_disk).log_weights_of
    monkeypatch.setattr(
        type(on_disk), "log_weights_of", lambda q, rows: asked.append(rows.stop - rows.start) or inner(q, rows)
    )
    on_disk.log_prob(torch.zeros(1, 2).double())
    assert asked == [5, 5, 5, 5, 4]


@pytest.mark.parametrize("kind", latent.SETTINGS)
def test_a_kind_of_many_passes_is_fitted_to_some_of_many_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind of one pass takes the shards; one that needs model and rows takes them all, as these fit to all."""
    many = sharded(posteriors(2), tmp_path / "q", 5)
    monkeypatch.setattr(fitting, "MOST", 10)
    settings = latent.settings_for(kind)
    given: list[Posteriors] = []
    inner = PriorSettings()
    monkeypatch.setattr(type(settings), "fit", lambda _, task: given.append(task.train) or type(inner).fit(inner, task))
    if kind == "prior":
        return
    fitting.fit(settings, many, selection=many, keep_duplicates=True, progress=silent)
    some = not settings.quick and not settings.needs - {"labels"}
    assert given[0].n == (10 if some else 24)
    assert isinstance(given[0], MemoryPosteriors) is some


def test_conditional_takes_all_rows_where_its_base_needs_them() -> None:
    assert fitting._of_posteriors(ConditionalSettings())
    assert not fitting._of_posteriors(ConditionalSettings(base=VampSettings()))


LIMITED = """
import resource, sys
import zprime
from zprime import fitting, latent
fitting.MOST = 500
quiet = lambda *rest: None
kinds = {
    "gaussian": {}, "log-pool": {}, "barycentre": {}, "product-of-experts": {}, "mixture": {"components": 4},
    "exemplars": {"bandwidth": 0.5}
}
some, many, selection = (zprime.load_posteriors(sys.argv[1] + name) for name in ("some", "many", "selection"))
def work(train):
    for kind, values in kinds.items():
        settings = type(latent.settings_for(kind))(**values)
        zprime.fit(settings, train, selection=selection, keep_duplicates=True, seed=0, progress=quiet)
    z = selection.gather().mean
    train.log_prob(z), train.sample(1000, rng=zprime.rng.stream(0, "z"))
work(some)
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + int(sys.argv[2]),) * 2)
work(many)
"""


@linux
def test_fits_densities_and_draws_hold_no_copy_of_all_posteriors(tmp_path: Path) -> None:
    """The posteriors are twice what the process may take beside what fits to few rows took."""
    n, d = 200_000, 32
    for name, size in (("some", 500), ("selection", 300), ("many", n)):
        rng = stream(0, name)
        label = torch.randint(4, (size,), generator=rng)
        mean = 0.3 * torch.randn(size, d, generator=rng) + label[:, None] - 1.5
        scale = 0.1 + 0.2 * torch.rand(size, d, generator=rng)
        sharded(MemoryPosteriors(mean, scale, labels=label), tmp_path / name, 2_000)
    args = [sys.executable, "-c", LIMITED, f"{tmp_path}/", str(2 * n * d * 4 // 2)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-800:]
