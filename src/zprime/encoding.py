"""VAE + rows -> posteriors, shard by shard; an interrupted encoding goes on from the last whole shard."""

import hashlib
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from zprime import artifact
from zprime.arrays import blocks
from zprime.data import Rows
from zprime.distribution import Progress, silent
from zprime.errors import NumericalError
from zprime.posteriors import InMemory, Posteriors, Sharded
from zprime.vae import Encoder

BATCH = 512
SHARD = 16_384


def encode(
    model: Encoder,
    rows: Rows,
    path: Path | None = None,
    *,
    key: str = "",
    seed: int | None = None,
    inputs: dict[str, str] | None = None,
    progress: Progress = silent,
) -> Posteriors:
    """Encode every row to its posterior q(z|x) = N(mean, diag(scale^2)).

    Args:
        model: anything with `encode(x) -> (mean, scale)`.
        rows: one split.
        path: the artefact folder to write; without it the posteriors stay in memory.
        key: what the artefact follows from; shards of an interrupted encoding with the same key are used again.
        seed: for the manifest.
        inputs: for the manifest.
        progress: called once a shard.

    Raises:
        NumericalError: the encoder gave NaN, infinity, or a scale that is not above 0; names the row and dimension.
        UsageError: `path` cannot be written.
    """
    if path is None:
        mean, scale = _encode(model, rows, slice(0, len(rows)))
        progress(f"encode {rows.name}", len(rows), len(rows))
        return InMemory(mean, scale, row_ids=rows.ids, labels=rows.labels)
    path = Path(path)
    artifact.check_replaceable(path)
    partial = path.parent / f".{path.name}.partial-{key[:16]}"
    artifact.make_folder(partial)
    names: list[str] = []
    d = 0
    for block in blocks(len(rows), SHARD):
        progress(f"encode {rows.name}", block.start, len(rows))
        name = f"shard-{block.start // SHARD:05d}.safetensors"
        names.append(name)
        if not (partial / name).is_file():
            mean, scale = _encode(model, rows, block)
            artifact.write_file(partial / name, artifact.pack({"mean": mean, "scale": scale}))
        d = artifact.read_tensors(partial / name, None)["mean"].shape[1]
    index = {"row_ids": rows.ids} | ({} if rows.labels is None else {"labels": rows.labels})
    artifact.write_file(partial / "index.safetensors", artifact.pack(index))
    files = {n: hashlib.sha256((partial / n).read_bytes()).hexdigest() for n in [*names, "index.safetensors"]}
    sizes = [b.stop - b.start for b in blocks(len(rows), SHARD)]
    config = {"split": rows.name, "n": len(rows), "d": d, "shards": names, "sizes": sizes}
    with artifact.staging(path) as folder:
        for name in files:
            os.replace(partial / name, folder / name)
        artifact.seal(folder, "posteriors", config=config, files=files, key=key, seed=seed, inputs=inputs)
    shutil.rmtree(partial, ignore_errors=True)
    progress(f"encode {rows.name}", len(rows), len(rows))
    return Sharded(path)


@torch.no_grad()
def _encode(model: Encoder, rows: Rows, part: slice) -> tuple[Tensor, Tensor]:
    means, scales = [], []
    for block in blocks(part.stop - part.start, BATCH):
        cut = slice(part.start + block.start, part.start + block.stop)
        mean, scale = model.encode(rows.x[cut])
        bad = ~(torch.isfinite(mean) & torch.isfinite(scale) & (scale > 0))
        if bool(bad.any()):
            row, j = bad.nonzero()[0].tolist()
            raise NumericalError(
                f"encode: row {int(rows.ids[cut][row])} of {rows.name} got mean {mean[row, j].item():g} and scale "
                f"{scale[row, j].item():g} in dimension {j}; expected finite numbers and a scale above 0: the encoder "
                "is not usable on this row"
            )
        means.append(mean.detach())
        scales.append(scale.detach())
    return torch.cat(means), torch.cat(scales)
