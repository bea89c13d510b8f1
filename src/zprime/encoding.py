"""Encode rows into posteriors, shard by shard; an interrupted encoding continues after the last complete shard."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact, shards
from zprime.arrays import blocks, is_full, times
from zprime.components import choose
from zprime.data import Rows
from zprime.errors import NumericalError
from zprime.posteriors import Form, MemoryPosteriors, Posteriors, Shard, ShardedPosteriors
from zprime.progress import Progress, shown
from zprime.semi_amortised import SemiAmortised, semi_amortised
from zprime.vae import VAE, Encoder

BATCH = 512
SHARD = shards.ROWS


def encode(
    model: Encoder,
    rows: Rows,
    path: Path | None = None,
    *,
    key: str = "",
    seed: int | None = None,
    inputs: dict[str, str] | None = None,
    steps: int = 0,
    progress: Progress = shown,
) -> Posteriors:
    """Encode every row to its posterior q(z|x) = N(mean, diag(scale^2)), or N(mean, scale scale^T), or to its code.

    Args:
        model: anything with `encode(x) -> (mean, scale)`.
        rows: one split.
        path: the artefact folder to write; without it the posteriors stay in memory.
        key: hash of all that the artefact depends on; shards that an interrupted encoding left under it are used.
        seed: for the manifest.
        inputs: for the manifest.
        steps: gradient steps on the q of each row, from the encoder's answer on, that raise its ELBO (`SemiAmortised`).
            They need a decoder with a gradient. q of a row still depends on this row alone. 0 takes the encoder's.
        progress: called once a shard.

    Raises:
        NumericalError: the encoder gave NaN, infinity, or a scale that is not above 0; names the row and dimension.
        UsageError: `path` cannot be written, or a model with which no steps can be made.
    """
    model = semi_amortised(model, steps)
    if path is None:
        mean, scale = _encode(model, rows, slice(0, len(rows)))
        progress(f"encode {rows.name}", len(rows), len(rows))
        given = None if answers_codes(model) else scale
        return MemoryPosteriors(mean, given, row_ids=rows.ids, labels=rows.labels)
    path = Path(path)
    artifact.check_replaceable(path)
    partial = _partial(path, key)
    names: list[str] = []
    d, form = 0, "diagonal"
    for block in blocks(len(rows), SHARD):
        progress(f"encode {rows.name}", block.start, len(rows))
        name = shards.file_of(block.start // SHARD)
        names.append(name)
        _make_shard(model, rows, partial, block.start // SHARD)
        stored = artifact.read_tensors(partial / name, None)
        d, form = stored["mean"].shape[1], _form(stored)
    index = {"row_ids": rows.ids} | ({} if rows.labels is None else {"labels": rows.labels})
    artifact.write_file(partial / shards.INDEX, artifact.pack(index))
    files = {n: hashlib.sha256((partial / n).read_bytes()).hexdigest() for n in [*names, shards.INDEX]}
    sizes = [b.stop - b.start for b in blocks(len(rows), SHARD)]
    config = {"split": rows.name, "n": len(rows), "d": d, "shards": names, "sizes": sizes}
    config |= {} if form == "diagonal" else {"form": form}
    config |= {"steps": model.steps} if isinstance(model, SemiAmortised) else {}
    with artifact.staging(path) as folder:
        for name in files:
            os.replace(partial / name, folder / name)
        artifact.seal(folder, artifact.Manifest(shards.KIND, config, key, seed, inputs or {}), files=files)
    shutil.rmtree(partial, ignore_errors=True)
    progress(f"encode {rows.name}", len(rows), len(rows))
    return ShardedPosteriors(path)


def encode_shard(model: Encoder, rows: Rows, path: Path, key: str, k: int) -> None:
    """Encode shard `k` of what `encode` is to write to `path`, unless it is there; `encode` then takes it from there.

    So several processes can encode the shards of one artefact.

    Args:
        model: anything with `encode(x) -> (mean, scale)`.
        rows: one split.
        path: as for `encode`.
        key: as for `encode`.
        k: which shard, below `shard_count(rows)`.

    Raises:
        NumericalError: as `encode`.
        UsageError: as `encode`.
    """
    _make_shard(model, rows, _partial(path, key), k)


def shard_count(rows: Rows) -> int:
    """How many shards the posteriors of these rows have."""
    return -(-len(rows) // SHARD)


def _partial(path: Path, key: str) -> Path:
    """Where the shards of an artefact lie until all are there."""
    partial = path.parent / f".{path.name}.partial-{key[:16]}"
    artifact.make_folder(partial)
    return partial


def _make_shard(model: Encoder, rows: Rows, partial: Path, k: int) -> None:
    file = partial / shards.file_of(k)
    if not file.is_file():
        mean, scale = _encode(model, rows, slice(k * SHARD, min(len(rows), (k + 1) * SHARD)))
        found = {"mean": mean} if answers_codes(model) else {"mean": mean, "scale": scale}
        artifact.write_file(file, artifact.pack(found))


def answers_codes(model: Encoder) -> bool:
    """Whether it is a VAE of zprime that has no q(z|x): a deterministic autoencoder, which answers scales of 0."""
    return isinstance(model, VAE) and model.form == "points"


def _form(stored: Mapping[str, Tensor]) -> Form:
    """Form of the posteriors of a shard."""
    if "scale" not in stored:
        return "points"
    return "full" if is_full(stored["mean"], stored["scale"]) else "diagonal"


class Reencoded(Posteriors):
    """Posteriors that are not stored: the rows are, and each is encoded again when it is needed.

    This is one of two ways to store the aggregated posterior; the other is to store latent means and standard
    deviations. Both give the same numbers, up to rounding in batches of different sizes.
    """

    def __init__(self, model: Encoder, rows: Rows, *, stored: int | None = None) -> None:
        """Take the encoder and the rows; `stored` is the size of the rows on disk, in bytes (default: in memory)."""
        self.model, self.rows = model, rows
        first = _encode(model, rows, slice(0, 1))
        self.n, self.d = len(rows), first[0].shape[1]
        self.form = "points" if answers_codes(model) else "full" if is_full(*first) else "diagonal"
        self.row_ids, self.weights, self.labels = rows.ids, None, rows.labels
        self._stored = rows.x.numel() * rows.x.element_size() if stored is None else stored

    @property
    def bytes(self) -> int:
        """Size of the rows; the encoder is not counted."""
        return self._stored

    def shards(self) -> Iterator[Shard]:
        """Posteriors of the rows, encoded now, a shard at a time."""
        for block in blocks(self.n, SHARD):
            mean, scale = _encode(self.model, self.rows, block)
            yield Shard(block.start, mean, scale)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws of z': a random datum is encoded, then z' is drawn from its posterior. Other data are not encoded."""
        which = choose(self.log_weights.to(rng.device), n, rng).to(self.row_ids.device)
        unique, back = torch.unique(which, return_inverse=True)
        some = Rows(self.rows.name, self.rows.x[unique], self.rows.ids[unique])
        mean, scale = _encode(self.model, some, slice(0, len(some)))
        noise = torch.randn(n, self.d, generator=rng, dtype=mean.dtype, device=rng.device)
        return mean[back] + times(scale[back], noise.to(mean.device))


@torch.no_grad()
def _encode(model: Encoder, rows: Rows, part: slice) -> tuple[Tensor, Tensor]:
    means, scales = [], []
    for block in blocks(part.stop - part.start, BATCH):
        cut = slice(part.start + block.start, part.start + block.stop)
        mean, scale = model.encode(rows.x[cut])
        full = is_full(mean, scale)
        whole = torch.isfinite(scale).all(2) if full else torch.isfinite(scale)
        above = scale.diagonal(dim1=1, dim2=2) if full else scale
        bad = ~(torch.isfinite(mean) & whole & ((above > 0) | answers_codes(model)))
        if bool(bad.any()):
            row, j = bad.nonzero()[0].tolist()
            raise NumericalError(
                f"encode: row {int(rows.ids[cut][row])} of {rows.name} got mean {mean[row, j].item():g} and scale "
                f"{above[row, j].item():g} in dimension {j}; expected finite numbers and a scale above 0: the encoder "
                "is not usable on this row"
            )
        means.append(mean.detach())
        scales.append(scale.detach())
    return torch.cat(means), torch.cat(scales)
