"""Encode rows into posteriors, shard by shard; an interrupted encoding continues after the last complete shard.

Posteriors that are flows are written as draws of each, with log q there. Noise of a row is a function of its numbers
and its id: equal rows have draws of their own, so that their errors are independent.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact, shards
from zprime.arrays import blocks, is_full, times
from zprime.components import choose
from zprime.data import Rows
from zprime.errors import NumericalError, UsageError
from zprime.posterior_flow import Drawn
from zprime.posteriors import Form, MemoryPosteriors, Posteriors, Shard, ShardedPosteriors
from zprime.progress import Progress, shown
from zprime.rng import stream
from zprime.semi_amortised import SemiAmortised, row_hash, semi_amortised
from zprime.trainable_prior import Encode
from zprime.vae import VAE, Encoder, Model

BATCH = 512
SHARD = shards.ROWS
DRAWS = 64
"""Of the q of a row where that is a flow: enough for a k-hat of the likelihood gain."""
LEAST = 4
"""Draws that may be asked for: a gain is held against that of a quarter of its draws."""
TRAINED = 8
"""A training row has one draw for so many of another row: its draws are fitted to and not weighed."""


@torch.no_grad()
def encoded(encode: Encode, x: Float[Tensor, "n *datum"]) -> MemoryPosteriors:
    """The posteriors of all rows, batch by batch, without gradients."""
    parts = [encode(x[block]) for block in blocks(len(x), BATCH)]
    return MemoryPosteriors(torch.cat([mean for mean, _ in parts]), torch.cat([scale for _, scale in parts]))


def encode(
    model: Encoder,
    rows: Rows,
    path: Path | None = None,
    *,
    key: str = "",
    seed: int | None = None,
    inputs: dict[str, str] | None = None,
    steps: int = 0,
    draws: int | None = None,
    progress: Progress = shown,
) -> Posteriors:
    """Encode every row to its posterior q(z|x) = N(mean, diag(scale^2)), or N(mean, scale scale^T), or to its code.

    A posterior that is a flow is encoded to draws, side by side, with log q there.

    Args:
        model: anything with `encode(x) -> (mean, scale)`.
        rows: one split.
        path: the artefact folder to write; without it the posteriors stay in memory.
        key: hash of all that the artefact depends on; shards that an interrupted encoding left under it are used.
        seed: for the manifest.
        inputs: for the manifest.
        steps: gradient steps on the q of each row, from the encoder's answer on, that raise its ELBO (`SemiAmortised`).
            They need a decoder with a gradient. q of a row still depends on this row alone. 0 takes the encoder's.
        draws: of the posterior of each row, where it is a flow: at least 4, and 64 if left out. Rows that are
            called `train` have one for eight of these, at least two.
        progress: called once a shard.

    Raises:
        NumericalError: the encoder gave NaN, infinity, or a scale that is not above 0; names the row and dimension.
        UsageError: `path` cannot be written, a model with which no steps can be made, or draws of one that gives
            Gaussians.
    """
    model = semi_amortised(model, steps)
    many = draws_of(model, rows.name, draws)
    if path is None:
        found = _numbers(model, rows, slice(0, len(rows)), many)
        progress(f"encode {rows.name}", len(rows), len(rows))
        return MemoryPosteriors(
            found["mean"],
            found.get("scale"),
            row_ids=_each(rows.ids, many),
            labels=None if rows.labels is None else _each(rows.labels, many),
            log_q=found.get("log_q"),
        )
    path = Path(path)
    artifact.check_replaceable(path)
    partial = _partial(path, key, many)
    names: list[str] = []
    d, form = 0, "diagonal"
    for k, block in enumerate(_blocks(rows, many)):
        progress(f"encode {rows.name}", block.start, len(rows))
        name = shards.file_of(k)
        names.append(name)
        _make_shard(model, rows, partial, k, many)
        stored = artifact.read_tensors(partial / name, None)
        d, form = stored["mean"].shape[1], _form(stored)
    index = {"row_ids": rows.ids} | ({} if rows.labels is None else {"labels": rows.labels})
    sizes = [b.stop - b.start for b in _blocks(rows, many)]
    config = {"split": rows.name, "n": len(rows), "d": d, "shards": names, "sizes": sizes}
    config |= {} if form == "diagonal" else {"form": form}
    config |= {"steps": model.steps} if isinstance(model, SemiAmortised) else {}
    if many:
        log_q = [artifact.read_tensors(partial / _log_q_of(k), None)["log_q"] for k in range(len(names))]
        index = {name: _each(t, many) for name, t in index.items()} | {"log_q": torch.cat(log_q)}
        config |= {"n": many * len(rows), "sizes": [many * n for n in sizes], "data": len(rows), "log_q": True}
        config |= {"draws": DRAWS if draws is None else draws}
    artifact.write_file(partial / shards.INDEX, artifact.pack(index))
    files = {n: hashlib.sha256((partial / n).read_bytes()).hexdigest() for n in [*names, shards.INDEX]}
    with artifact.staging(path) as folder:
        for name in files:
            os.replace(partial / name, folder / name)
        artifact.seal(folder, artifact.Manifest(shards.KIND, config, key, seed, inputs or {}), files=files)
    shutil.rmtree(partial, ignore_errors=True)
    progress(f"encode {rows.name}", len(rows), len(rows))
    return ShardedPosteriors(path)


def encode_shard(model: Encoder, rows: Rows, path: Path, key: str, k: int, draws: int | None = None) -> None:
    """Encode shard `k` of what `encode` is to write to `path`, unless it is there; `encode` then takes it from there.

    So several processes can encode the shards of one artefact.

    Args:
        model: anything with `encode(x) -> (mean, scale)`.
        rows: one split.
        path: as for `encode`.
        key: as for `encode`.
        k: which shard, below `shard_count(model, rows, draws)`.
        draws: as for `encode`.

    Raises:
        NumericalError: as `encode`.
        UsageError: as `encode`.
    """
    many = draws_of(model, rows.name, draws)
    _make_shard(model, rows, _partial(path, key, many), k, many)


def shard_count(model: Encoder, rows: Rows, draws: int | None = None) -> int:
    """How many shards the posteriors of these rows have."""
    return len(_blocks(rows, draws_of(model, rows.name, draws)))


def draws_of(model: Encoder, split: str, draws: int | None = None) -> int:
    """Draws of the posterior of each row of a split; 0 where it is no flow.

    Raises:
        UsageError: no number of draws, fewer than 4, or draws of what is no flow.
    """
    if not is_flow(model):
        if draws is not None:
            raise UsageError(
                f"draws: expected a VAE of zprime with --posterior flow, got draws={draws!r} for posteriors that are "
                "written as they are; leave draws out"
            )
        return 0
    if draws is None:
        draws = DRAWS
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < LEAST:
        raise UsageError(f"draws: expected a whole number from {LEAST} on, got {draws!r}")
    return max(2, draws // TRAINED) if split == "train" else draws


def _blocks(rows: Rows, draws: int) -> list[slice]:
    """The rows of each shard."""
    return list(blocks(len(rows), max(1, SHARD // max(1, draws))))


def _each(t: Tensor, draws: int) -> Tensor:
    """What is known of rows, of each draw where there are any."""
    return t.repeat_interleave(draws) if draws else t


def _log_q_of(k: int) -> str:
    """Where log q of a shard lies until all are there, and it is put into the index."""
    return f"log_q-{k:05d}.safetensors"


def _partial(path: Path, key: str, draws: int) -> Path:
    """Where the shards of an artefact lie until all are there."""
    partial = path.parent / f".{path.name}.partial-{key[:16]}{f'-{draws}' if draws else ''}"
    artifact.make_folder(partial)
    return partial


def _make_shard(model: Encoder, rows: Rows, partial: Path, k: int, draws: int) -> None:
    file = partial / shards.file_of(k)
    if not file.is_file():
        found = _numbers(model, rows, _blocks(rows, draws)[k], draws)
        if "log_q" in found:  # first: where the shard is there, so is its log q
            artifact.write_file(partial / _log_q_of(k), artifact.pack({"log_q": found.pop("log_q")}))
        artifact.write_file(file, artifact.pack(found))


def _numbers(model: Encoder, rows: Rows, part: slice, draws: int) -> dict[str, Tensor]:
    """What is kept of some rows: `mean` and `scale`; of codes `mean`; of flows `mean`, which are draws, and `log_q`."""
    if is_flow(model):
        return _drawn(model, rows, part, draws)
    mean, scale = _encode(model, rows, part)
    return {"mean": mean} if answers_codes(model) else {"mean": mean, "scale": scale}


@runtime_checkable
class Flowing(Model, Protocol):
    """A VAE of zprime whose q(z|x) is a flow, known by draws."""

    @property
    def form(self) -> str:
        """`flow`."""
        ...

    @property
    def latents(self) -> int:
        """Latent dimension d."""
        ...

    def draw(
        self, x: Float[Tensor, "n *datum"], *, rng: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Drawn:
        """Draws of the q of each row, with log q there."""
        ...


def is_flow(model: object) -> TypeGuard[Flowing]:
    """Whether it is a VAE of zprime whose q(z|x) is a flow."""
    return isinstance(model, Flowing) and model.form == "flow"


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
        """Take the encoder and the rows; `stored` is the size of the rows on disk, in bytes (default: in memory).

        Raises:
            UsageError: posteriors that are flows.
        """
        if is_flow(model):
            raise UsageError("posteriors: flows are known by their draws, which are stored; take those of encode")
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


@torch.no_grad()
def _drawn(model: Flowing, rows: Rows, part: slice, draws: int) -> dict[str, Tensor]:
    """Draws of the posteriors of some rows, those of a row side by side, and log q(z|x) there, float64."""
    z, log_q = [], []
    for block in blocks(part.stop - part.start, max(1, BATCH // TRAINED)):
        cut = slice(part.start + block.start, part.start + block.stop)
        x = rows.x[cut]
        named = zip(x, rows.ids[cut].tolist(), strict=True)
        of_row = [stream(0, "flow posterior", row_hash(row), row_id) for row, row_id in named]
        noise = torch.stack([torch.randn(draws, model.latents, generator=g, dtype=torch.float64) for g in of_row])
        drawn = model.draw(x, noise=noise)
        bad = ~(torch.isfinite(drawn.z).all(2) & torch.isfinite(drawn.log_q))
        if bool(bad.any()):
            row, k = bad.nonzero()[0].tolist()
            raise NumericalError(
                f"encode: draw {k} of row {int(rows.ids[cut][row])} of {rows.name} has log q {drawn.log_q[row, k]:g}; "
                "expected finite numbers: the encoder is not usable on this row"
            )
        z.append(drawn.z.flatten(0, 1))
        log_q.append(drawn.log_q.double().flatten())
    return {"mean": torch.cat(z), "log_q": torch.cat(log_q)}
