"""A small run that several tests look at."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from zprime import artifact, chain
from zprime.data import DataSettings
from zprime.results.audit import Audit, AuditSettings
from zprime.results.samples import Sampled
from zprime.running import Run
from zprime.training import TrainSettings
from zprime.vae import VAESettings

NETWORK = VAESettings(latents=2, hidden=(16,))
FLOW = replace(NETWORK, posterior="flow", flow_steps=2)
TRAINING = TrainSettings(epochs=4, batch=32)
AUDIT = AuditSettings(rows=12, draws=120, grid=4, map=20, samples=60)


def table(path: Path, n: int = 120) -> Path:
    """Rows in two clumps, in units of their own, with labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    x = 40 + 10 * rng.normal(size=(n, 5)) + 100 * y[:, None]
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def flow(folder: Path) -> Path:
    """A run whose posteriors are flows, with a model and no more."""
    job = Run.create(folder / "run")
    job.train(DataSettings(str(table(folder / "t.npz", 200))), FLOW, TRAINING, seed=0)
    return job.path


def run(folder: Path, data: Path, *, seed: int = 0) -> tuple[Run, Audit]:
    """All stages."""
    job = Run.create(folder)
    job.train(DataSettings(str(data)), NETWORK, TRAINING, seed=seed)
    job.encode()
    job.fit(seed=seed)
    return job, job.audit(AUDIT, seed=seed)


def put_audit(job: Run, audit: Audit) -> None:
    """Put another audit in the place of the one that the run has, as if the run had made it."""
    there = artifact.read(job.path / "audit")
    staged = job.path / chain.STAGED / "audit"
    audit.save(staged, key=there.key, inputs=there.inputs)
    chain.place(job.path, "audit", staged)


def cleared(audit: Audit, status: str = "passes") -> Audit:
    """The audit with every sample cleared of copying, or of another status."""
    if audit.samples is None:
        return audit

    def marked(e: Sampled) -> Sampled:
        both = (None if c is None else replace(c, status=status) for c in (e.copying, e.copying_draws))
        return replace(e, **dict(zip(("copying", "copying_draws"), both, strict=True)))

    verdict = replace(audit.samples.verdict, copying={})
    entries = [marked(e) for e in audit.samples.entries]
    return replace(audit, samples=replace(audit.samples, entries=entries, verdict=verdict))


def candidate(audit: Audit, name: str) -> str:
    """What an audit calls the candidate of a fit, e.g. `mixture+p1`."""
    return next(e.name for e in audit.leading if e.id.name == name)
