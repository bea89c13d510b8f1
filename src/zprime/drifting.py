"""Whether new rows still fit what was shipped: the run, and rows that came after it."""

from dataclasses import replace

from zprime import artifact, vae
from zprime import data as datasets
from zprime.encoding import encode
from zprime.errors import UsageError
from zprime.measure.latents.drift import drift
from zprime.posteriors import ShardedPosteriors
from zprime.results.audit import load as load_audit
from zprime.results.drift import Drift
from zprime.rng import stream
from zprime.running import Run


def drift_of(run: Run, data: str, *, seed: int = 0) -> Drift:
    """Hold codes of the rows in `data` against those of the run's held-out rows, under what was shipped.

    The answer is kept in the run's audit, for the report.

    Args:
        run: a run that was audited.
        data: a file or folder, as a run's own data.
        seed: decides draws and shuffles.

    Raises:
        UsageError: nothing to read there; a latent distribution without a density.
        ArrayError: rows of another shape, that are not finite, or fewer than 8.
        ArtifactError: the run was not audited.
    """
    shipped = run.generative(run.choice()).latent
    if shipped.density == "none":
        raise UsageError(f"new data: {shipped.label} knows no log r(z), which drift is measured by; ship another kind")
    source = artifact.read(run.path / "data", "data")
    rows = datasets.new_rows(data, source.config, source.tensors(), seed=seed)
    codes = encode(vae.load(run.path / "model"), rows, progress=run.progress).gather()
    heldout = ShardedPosteriors(run.path / "posteriors" / "heldout").gather()
    found = drift(shipped, codes, heldout, source=shipped.label, rng=stream(seed, "drift"))
    _keep(run, found)
    return found


def _keep(run: Run, found: Drift) -> None:
    """Put it into the run's audit, in place of an earlier one; everything else stays as it was."""
    path = run.path / "audit"
    old = artifact.read(path, "audit")
    replace(load_audit(path), drift=found).save(path, key=old.key, **old.inputs)
