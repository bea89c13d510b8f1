"""A trained VAE and its data, in the form that `fit` and `audit` take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime.arrays import blocks, check_finite, standard_kl
from zprime.bring import readings
from zprime.data import SPLITS, Rows
from zprime.encoding import encode
from zprime.errors import ArrayError, UsageError
from zprime.latent.context import Context
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import generator
from zprime.vae import Model

CHECKED = 256  # rows that the reading of the scale is checked on
BATCH = 512
ENCODERS = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Callables:
    """Two callables as a model: whatever they are, `encode` and `decode` answer as zprime asks."""

    encoder: ENCODERS
    decoder: Callable[[Tensor], Any]
    gives: str
    dtype: torch.dtype  # of the data, which is what the networks compute in

    def raw(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """The encoder's two answers as they are.

        Raises:
            ArrayError: not two matrices of one shape, a row for each datum.
        """
        out = self.encoder(x)
        shapes = [list(t.shape) for t in out if isinstance(t, Tensor)] if isinstance(out, tuple | list) else []
        if len(shapes) < 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(x):
            raise ArrayError(
                f"encode: expected two matrices (mean and scale) of shape [{len(x)}, d], got "
                f"{shapes or type(out).__name__}; wrap your encoder so that it returns (mean, scale)"
            )
        return out[0], out[1]

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z|x)."""
        mean, raw = self.raw(x)
        return mean, readings.read(raw, self.gives)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), with a datum as its event."""
        out = self.decoder(z.to(self.dtype))
        if not isinstance(out, Distribution) or out.batch_shape != z.shape[:1]:
            got = f"batch shape {list(out.batch_shape)}" if isinstance(out, Distribution) else type(out).__name__
            raise ArrayError(
                f"decode: expected a torch Distribution with batch shape [{len(z)}] and a datum as its event, got "
                f"{got}; wrap the last dimensions in torch.distributions.Independent, or give likelihood="
            )
        return out


@dataclass(frozen=True)
class Brought:
    """What `fit` and `audit` need of a trained VAE.

    Attributes:
        posteriors: of the train, selection and held-out rows.
        model: encoder and decoder, or None for bare arrays.
        rows: the rows themselves, or None.
    """

    posteriors: Mapping[str, Posteriors]
    model: Model | None = None
    rows: Mapping[str, Rows] | None = None

    @property
    def splits(self) -> dict[str, Any]:
        """What `fit` takes after the kind: `fit(kind, **splits)`."""
        return {
            "train": self.posteriors["train"],
            "selection": self.posteriors["selection"],
            "context": self.context,
        }

    @property
    def context(self) -> Context | None:
        """Model and rows, for kinds that ask for them."""
        if self.model is None or self.rows is None:
            return None
        return Context(self.model, self.rows["train"], self.rows["selection"])


def modules(
    encoder: ENCODERS,
    decoder: Callable[[Tensor], Any],
    data: Mapping[str, Any],
    *,
    gives: str,
    likelihood: Callable[[Tensor], Distribution] | None = None,
    labels: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring any trained VAE: two torch modules, or any two callables on batches of tensors.

    Args:
        encoder: x, shape [n, *datum] -> (mean, scale), both [n, d].
        decoder: z, shape [n, d] -> a torch Distribution with a datum as its event, or what `likelihood` makes one of.
        data: `train`, the rows that the VAE was trained on, `heldout`, rows that it was not; and `selection`, if you
            have one: without it half of the held-out rows, at most 5,000, are set aside as selection split (rows that
            the VAE was trained on would flatter it). In the units that the encoder takes.
        gives: what the second answer of the encoder is: `std`, `variance`, `log-variance` or `log-std`.
        likelihood: decoder's output -> Distribution, e.g. `zprime.likelihoods.Bernoulli()` (logits) or
            `zprime.likelihoods.Gaussian(scale=0.1)`, where `decoder` gives a plain tensor.
        labels: split -> integers, for conditional kinds.
        check: whether to check `gives` by the ELBO on some training rows.
        seed: decides the selection split and the noise of the check.

    Raises:
        UsageError: a split is missing, an unknown reading, or one that the ELBO contradicts.
        ArrayError: shapes that do not fit, rows that are not finite.
    """
    rows = split(data, labels or {}, seed=seed)
    for module in (encoder, decoder):
        if isinstance(module, nn.Module):
            module.eval()

    def decode(z: Tensor) -> Any:
        out = decoder(z)
        return out if likelihood is None else likelihood(out)

    model = Callables(encoder, decode, gives, rows["train"].x.dtype)
    if check:
        _check(model, rows["train"].x[:CHECKED], seed)
    return Brought({s: encode(model, r) for s, r in rows.items()}, model, rows)


def arrays(
    mean: Mapping[str, Any],
    scale: Mapping[str, Any],
    *,
    gives: str = "std",
    labels: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring bare arrays: posterior means and scales, and no model; all that needs no decoder works.

    Args:
        mean: split -> [n, d]; `train` and `heldout`, and `selection` if there is one (see `modules`).
        scale: split -> [n, d], of the same splits.
        gives: what `scale` holds: `std`, `variance`, `log-variance` or `log-std`.
        labels: split -> integers.
        check: whether to check `gives` by the variance of the codes.
        seed: decides the selection split.

    Raises:
        UsageError: a split is missing, an unknown reading, or one that the codes contradict.
        ArrayError: shapes that do not fit, numbers that are not finite.
    """
    means = split(mean, labels or {}, seed=seed)
    raw = {k: v.x for k, v in split(scale, {}, seed=seed).items()}
    for s, r in means.items():
        if raw[s].shape != r.x.shape:
            raise ArrayError(f"scale: expected shape {list(r.x.shape)} in {s} as mean has, got {list(raw[s].shape)}")
    scales = {s: readings.read(x, gives) for s, x in raw.items()}
    if check:
        readings.check_moments(means["train"].x, raw["train"], gives)
    return Brought({s: InMemory(r.x, scales[s], row_ids=r.ids, labels=r.labels) for s, r in means.items()})


def split(data: Mapping[str, Any], labels: Mapping[str, Any], *, seed: int) -> dict[str, Rows]:
    """Train, selection and held-out rows as tensors, numbered through in this order of origin: train, rest.

    Raises:
        UsageError: a split is missing or unknown.
        ArrayError: not finite, empty, or labels that do not fit.
    """
    unknown = sorted(set(data) - set(SPLITS))
    if unknown or "train" not in data or "heldout" not in data:
        raise UsageError(
            f"data: expected train and heldout (and selection, if you have one), got {', '.join(data) or 'nothing'}"
        )
    x = {s: _tensor(s, data[s]) for s in SPLITS if s in data}
    y = {s: _labels(s, labels[s], len(x[s])) for s in labels if s in x}
    ids = {}
    start = 0
    for s in x:
        ids[s] = torch.arange(start, start + len(x[s]))
        start += len(x[s])
    if "selection" not in x:
        n = len(x["heldout"])
        order = torch.randperm(n, generator=generator(seed, "bring selection"))
        cut = min(n // 2, 5000)
        if cut < 2:
            raise ArrayError(f"data: expected at least 4 held-out rows, half of them to choose on, got {n}")
        parts = {"selection": order[:cut].sort().values, "heldout": order[cut:].sort().values}
        for values in (x, y, ids):
            whole = values.pop("heldout", None)
            if whole is not None:
                values.update({s: whole[at] for s, at in parts.items()})
    shapes = {s: tuple(t.shape[1:]) for s, t in x.items()}
    if len(set(shapes.values())) > 1:
        raise ArrayError(f"data: expected rows of one shape in all splits, got {shapes}")
    return {s: Rows(s, x[s], ids[s], y.get(s)) for s in SPLITS}


def _tensor(name: str, x: Any) -> Tensor:
    out = torch.as_tensor(x).detach()
    if out.ndim < 2 or len(out) < 2:
        raise ArrayError(f"data: expected at least 2 rows of at least one entry in {name}, got shape {list(out.shape)}")
    out = out if out.is_floating_point() else out.float()
    check_finite(name, out)
    return out


def _labels(name: str, y: Any, n: int) -> Tensor:
    out = torch.as_tensor(y)
    if out.shape != (n,) or out.is_floating_point():
        raise ArrayError(f"labels: expected {n} integers for {name}, got {out.dtype} of shape {list(out.shape)}")
    return out.long()


@torch.no_grad()
def _check(model: Callables, x: Tensor, seed: int) -> None:
    """Compare the claimed reading with the others by the ELBO, with the same noise for all."""
    mean, raw = model.raw(x)
    noise = torch.randn(mean.shape, generator=generator(seed, "bring noise"), dtype=mean.dtype)
    readings.check(raw, model.gives, partial(_elbo, model, x, mean, noise))


def _elbo(model: Callables, x: Tensor, mean: Tensor, noise: Tensor, scale: Tensor) -> Tensor:
    parts = []
    for i in blocks(len(x), BATCH):
        log_x = model.decode(mean[i] + scale[i] * noise[i]).log_prob(x[i])
        parts.append(log_x.double() - standard_kl(mean[i].double(), scale[i].double()).sum(1))
    return torch.cat(parts)


__all__ = ["Brought", "Callables", "arrays", "modules", "split"]
