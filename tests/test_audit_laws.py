"""What the audit's numbers must not move with: batches, shards, threads, and candidates that are not asked about."""

import functools
from collections.abc import Iterator

import pytest
import torch

from oracles import linear_gaussian
from zoo import ZOO
from zprime import encoding
from zprime.auditing import audit
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.measure.likelihood import ais, decoding
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.results.audit import Audit, AuditSettings

MODEL = linear_gaussian(D=5, d=2, var=0.5)
NAMES = ("mixture", "defensive-aggregated", "flow", "exemplars-full")
SETTINGS = AuditSettings(rows=18, draws=120, grid=4, map=10, simulated=100, ais=3, temperatures=5, samples=0)


def rows() -> dict[str, Rows]:
    parts = ((s, MODEL.sample(64, seed=i)[0]) for i, s in enumerate(("train", "selection", "heldout")))
    return {s: Rows(s, x, torch.arange(64)) for s, x in parts}


@functools.cache
def fits() -> dict[str, LatentDistribution]:
    return {n: ZOO[n](2, torch.float64) for n in NAMES}


def measure(posteriors: dict[str, Posteriors] | None = None) -> Audit:
    given = rows()
    if posteriors is None:
        posteriors = {s: MemoryPosteriors(*MODEL.posterior(r.x)) for s, r in given.items()}
    return audit(fits(), posteriors, model=MODEL.vae(), rows=given, settings=SETTINGS)


@pytest.fixture(scope="module")
def whole() -> Audit:
    return measure()


def same(a: Audit, b: Audit) -> None:
    """Every number of the record, and every tensor."""
    for part in ("verdict", "surgery", "latents", "likelihood", "log_prior"):
        compare(a.to_json()[part], b.to_json()[part], part)
    for x, y in zip(a.to_json()["entries"], b.to_json()["entries"], strict=True):
        compare({**x, "draws_per_second": 0}, {**y, "draws_per_second": 0}, str(x["id"]))
    assert set(a.tensors) == set(b.tensors)
    for name, value in a.tensors.items():
        within = 1e-5 if value.dtype == torch.float32 else 1e-7
        torch.testing.assert_close(b.tensors[name], value, rtol=within, atol=within, msg=name)


def compare(a, b, where: str) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for k in a:
            compare(a[k], b[k], f"{where}.{k}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            compare(x, y, f"{where}[{i}]")
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-6, abs=1e-7), where
    else:
        assert a == b, where


def test_the_same_again(whole: Audit) -> None:
    same(measure(), whole)


def test_the_comparison_sees_a_change(whole: Audit) -> None:
    posteriors = {s: MemoryPosteriors(*MODEL.posterior(r.x)) for s, r in rows().items()}
    posteriors["heldout"].mean[0] += 1e-3
    with pytest.raises(AssertionError):
        same(measure(dict(posteriors)), whole)


def test_not_with_the_number_of_latents_decoded_at_once(whole: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "DECODE", 37)
    monkeypatch.setattr(ais, "DECODE", 5)
    same(measure(), whole)


def test_not_with_the_blocks_of_densities_and_tilts(whole: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.kernels.compiled.module", None)  # nor with which kernels
    for name in (
        "mixture_torch.POINTS",
        "mixture_torch.COMPONENTS",
        "mixture_torch.PANEL",
        "dense.POINTS",
        "dense.FLOATS",
    ):
        monkeypatch.setattr(f"zprime.kernels.{name}", 37)
    for name in ("components.PAIRS", "latent.smoothed.POINTS", "latent.smoothed.PAIRS", "latent.network.ROWS"):
        monkeypatch.setattr(f"zprime.{name}", 11)
    same(measure(), whole)


def test_not_with_the_size_of_shards(whole: Audit, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 17)
    found: dict[str, Posteriors] = {s: encoding.encode(MODEL.vae(), r, tmp_path / s) for s, r in rows().items()}
    assert len(list(found["train"].shards())) == 4
    same(measure(found), whole)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_not_with_the_number_of_threads(whole: Audit, two_threads: None) -> None:
    same(measure(), whole)
