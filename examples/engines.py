"""What the examples of Ray and Dask begin with: a table, and a VAE that was trained on a part of it."""

from pathlib import Path

import numpy as np

import zprime
from zprime.latent.gaussians import Mixture

ROWS, STEPS = 20_000, 10


def table(folder: Path) -> Path:
    """`ROWS` rows of eight columns in two clumps, in `rows.npy`."""
    rng = np.random.default_rng(0)
    clump = rng.integers(0, 2, ROWS)
    x = 40 + 10 * rng.normal(size=(ROWS, 8)) + 60 * clump[:, None]
    np.save(folder / "rows.npy", x.astype(np.float32))
    return folder / "rows.npy"


def trained(folder: Path) -> tuple[zprime.Run, Path]:
    """A run with a VAE of two latents that was trained on 2,000 of the rows; and the file of all rows."""
    rows = table(folder)
    run = zprime.Run.create(folder / "run")
    training = zprime.TrainSettings(epochs=5)
    data = zprime.DataSettings(str(rows), limit=2000)
    run.train(data, zprime.VAESettings(latents=2, hidden=(32,)), training, seed=0)
    return run, rows


def start(run: zprime.Run) -> Mixture:
    """The mixture that EM begins with: fitted to the rows that the VAE was trained on."""
    splits = run.encode()
    settings = zprime.latent.MixtureSettings(components=5)
    fitted = zprime.fit(settings, splits["train"], selection=splits["selection"], keep_duplicates=True)
    assert isinstance(fitted.distribution, Mixture)
    return fitted.distribution


def told(engine: str, sums: zprime.Sums, bounds: list[float], alone: zprime.Sums) -> None:
    """Print what the engine found, beside the same without an engine."""
    print(f"{engine}: {sums.count:,.0f} rows, mean {np.round(sums.mean, 4)}")
    print(f"bound of EM: {bounds[0]:.6f} at the first step, {bounds[-1]:.6f} at the last, nats a row")
    print(f"largest difference from one process: {np.abs(sums.mean - alone.mean).max():.1e}")
