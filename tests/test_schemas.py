"""Whoever alters an artefact can compute its hashes again: then values alone are what a loader can go by.

Every setting is dropped and replaced, every tensor dropped and altered, one at a time. What is then loaded is refused by
an `ArtifactError`, or it works: no other exception, and nothing allocated that was not stored.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import small
import tampering
import zoo
from tampering import Count
from zprime import artifact, atomic, chain, fitting, latent, sampling, training, vae
from zprime.artifact import TENSORS, Manifest
from zprime.data import Rows
from zprime.distribution import REGISTRY, LatentDistribution
from zprime.errors import ArtifactError
from zprime.posteriors import ShardedPosteriors
from zprime.results.audit import load as load_audit
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.training import TrainSettings
from zprime.vae import VAE, VAESettings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small artefacts are written: none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def usable(r: LatentDistribution) -> None:
    """Density and draws are finite."""
    z = r.sample(5, rng=stream(0))
    assert z.shape == (5, r.d)
    assert bool(z.isfinite().all())
    if r.density != "none":
        assert bool(r.log_prob(torch.zeros(2, r.d, dtype=z.dtype)).isfinite().all())


def finish(count: Count, least: int) -> None:
    """Record the count where it was asked for, and fail with the first faults."""
    if "ZPRIME_COUNTS" in os.environ:
        with Path(os.environ["ZPRIME_COUNTS"]).open("a") as out:
            out.write(f"{count.loads} {count.refused} {count.harmless} {len(count.bad)}\n")
    assert not count.bad, f"{len(count.bad)} of {count.loads}:\n" + "\n".join(count.bad[:20])
    assert count.refused >= least


def tamper(path: Path, load: Callable[[], object], file: str = TENSORS) -> Count:
    """Load an artefact with every change to its settings, then with every change to one of its files."""
    count, whole = Count(), path.with_name("whole")
    shutil.copytree(path, whole)
    load()
    found = artifact.read(path)
    for what, config in tampering.configs(found.config):
        tampering.rewrite(path, config=config)
        count.of(what, load)
    shutil.rmtree(path)
    shutil.copytree(whole, path)
    for what, tensors in tampering.tensor_sets(found.tensors(file)) if file in found.files else ():
        tampering.rewrite(path, tensors=tensors, file=file)
        count.of(what, load)
    shutil.rmtree(path)
    whole.rename(path)
    return count


@pytest.mark.parametrize("name", zoo.ZOO)
def test_latent_distributions(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r"
    zoo.ZOO[name](2, torch.float32).save(path)
    finish(tamper(path, lambda: usable(latent.load(path))), 10)


def test_every_kind_says_what_it_holds() -> None:
    """A kind without a schema of its own is checked for finite numbers only."""
    for kind, cls in REGISTRY.items():
        if cls.__module__.startswith("zprime.") and kind != "aggregated-on-demand":
            assert cls.schema is not LatentDistribution.schema, kind
