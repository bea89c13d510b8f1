"""A generative model: a latent distribution and a decoder."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact, chain, exporting, memory, vae
from zprime.decoders import as_decoder
from zprime.distribution import LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.latent import rebuild
from zprime.memory import size
from zprime.results.kept import kept
from zprime.rng import fork, stream
from zprime.schema import guarded, need
from zprime.schema.kinds import check
from zprime.tables import facts, to_html
from zprime.vae import Decoder, decoded

log = logging.getLogger("zprime")


@dataclass(frozen=True)
class GenerativeModel:
    """Draws z' from a latent distribution, and x' from the decoder.

    `GenerativeModel(r, decoder)` takes a decoder of any make; nothing of the data is needed.

    Attributes:
        latent: the distribution that z' is drawn from.
        decoder: p(x|z): an object with `decode(z)`, a torch module, or a function of z. It answers a torch
            Distribution, or the mean of one as an array with a row for each z: probabilities, not logits.
        shift, scale: `x' = decoded * scale + shift` gives the units of the data as they were stored.
        image: (channels, height, width) if x' are images of range 0 to 1, else None.
        copying: whether its samples copy training rows: `passes` or `copies`, by an audit, or `untested`.
        built_by: the function that builds a decoder of the user's own, as a run names it; else empty.
        notes: what to know of z' before it is given to another decoder than this one: sentences.
    """

    latent: LatentDistribution
    decoder: Decoder | Callable[..., object]
    shift: Tensor = field(default_factory=partial(torch.zeros, ()))
    scale: Tensor = field(default_factory=partial(torch.ones, ()))
    image: tuple[int, ...] | None = None
    copying: str = "untested"
    built_by: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `UsageError` where the decoder, or the latent distribution, is none."""
        need_latent("latent", self.latent)
        as_decoder(self.decoder)

    def stream(
        self, n: int, *, rng: torch.Generator, noise: str = "mean", given: Any = None
    ) -> Iterator[tuple[Float[Tensor, "b d"], Float[Tensor, "b *datum"]]]:
        """Batches of (z', x'), x' in the decoder's scaled units.

        Args:
            n: how many in all.
            rng: source of randomness.
            noise: `mean` gives the mean of p(x|z'), `draw` a draw from it.
            given: a condition, or one for each sample (see `zprime.sample`).

        Raises:
            UsageError: n < 1, more than the memory holds, an unknown `noise`, or conditions that the decoder is not
                told.
            ArrayError: conditions of another shape than the decoder takes.
        """
        if n < 1:
            raise UsageError(f"n: expected at least 1 sample, got {n}")
        memory.need(
            4 * n * self.latent.d, f"sample: {n:,} draws of z' ({self.latent.d:,} numbers each)", "draw fewer at a time"
        )
        z = self.latent.sample(n, rng=fork(rng, "z"))
        for part, x in decoded(as_decoder(self.decoder), z, noise=noise, rng=rng, given=given):
            yield part, x.cpu().to(torch.promote_types(x.dtype, torch.float32))

    def sample(
        self, n: int, *, rng: torch.Generator, noise: str = "mean", given: Any = None
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n *datum"]]:
        """Draw z' and x' in one call; x' is in the decoder's scaled units."""
        shape = self.decoder.shape if isinstance(self.decoder, vae.VAE) else None
        numbers = self.latent.d + max(self.shift.numel(), math.prod(shape or (1,)))
        memory.need(  # the batches, and these joined
            8 * n * numbers, f"sample: {n:,} draws of z' and x' ({numbers:,} numbers each)", "draw fewer at a time (-n)"
        )
        z, x = zip(*self.stream(n, rng=rng, noise=noise, given=given), strict=True)
        return torch.cat(z), torch.cat(x)

    def restore(self, x: Float[Tensor, "n *datum"]) -> Float[Tensor, "n *datum"]:
        """From the decoder's scaled units to the units of the data."""
        return x * self.scale + self.shift

    def save(
        self,
        path: str | Path,
        *,
        key: str = "",
        seed: int | None = None,
        allow_copies: bool = False,
        allow_rows: bool = False,
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> artifact.Artifact:
        """Write decoder and latent distribution, and nothing else, to an artefact folder.

        Raises:
            UsageError: the decoder is not one that zprime built, the path cannot be written, or its samples copy
                training rows or it stores such rows, and that was not allowed.
        """
        check_leaks(self, allow_copies=allow_copies, allow_rows=allow_rows)
        if not isinstance(self.decoder, vae.VAE):
            raise UsageError(
                "save: zprime cannot save a decoder of your own without pickle: save it yourself, "
                "and the latent distribution by model.latent.save(path); zprime.load_latent(path) loads that, and "
                "zprime.GenerativeModel(latent, decoder) puts the two together again"
            )
        weights = {k: v for k, v in self.decoder.state_dict().items() if not k.startswith("encoder.")}
        tensors = {f"decoder.{k}": v for k, v in weights.items()}
        tensors |= {f"latent.{k}": v for k, v in self.latent.tensors().items()}
        tensors |= {"shift": self.shift, "scale": self.scale}
        config = {
            "vae": vae.describe(self.decoder),
            "latent": {"kind": self.latent.kind, "config": self.latent.config(), "label": self.latent.label},
            "image": None if self.image is None else list(self.image),
            "holds_training_rows": self.latent.holds_rows,
            "least_rows": self.latent.least_rows,
            "copying": self.copying,
            "unfit_to_publish": self.copying == "copies",
            "says": self.says(),
        }
        return artifact.write(path, artifact.Manifest("generator", config, key, seed, dict(inputs)), tensors=tensors)

    def export(
        self,
        path: str | Path,
        *,
        onnx: bool = False,
        given: Any = None,
        allow_copies: bool = False,
        allow_rows: bool = False,
    ) -> artifact.Artifact:
        """Write a folder by which anyone can draw z', and x', without zprime and without torch.

        It holds the arrays of r(z) (`latent.safetensors`), what they are (`latent.json`), a sampler that needs NumPy
        only (`sample.py`) and a `README.md`. z' is what the decoder of this model takes.

        Args:
            path: the folder to make; an earlier export there is replaced.
            onnx: write `generator.onnx` too: random numbers in, the mean of p(x|z') in the units of the data out.
            given: the condition that `generator.onnx` is of, where the decoder is told any; x' has it behind it.
            allow_copies: write even where an audit found that the samples copy training rows.
            allow_rows: write even a latent distribution that stores functions of single training rows.

        Raises:
            UsageError: `latent` is no Gaussian and no mixture of Gaussians; the folder holds something else; samples
                copy training rows or come from stored ones, and that was not allowed; or with `onnx`: the decoder
                cannot be written in ONNX, or the extra `onnx` is not installed.
        """
        check_leaks(self, allow_copies=allow_copies, allow_rows=allow_rows)
        about = {
            "kind": self.latent.kind,
            "label": self.latent.label,
            "holds_training_rows": self.latent.holds_rows,
            "least_rows": self.latent.least_rows,
            "copying": self.copying,
            "unfit_to_publish": self.copying == "copies",
            "says": self.says(),
        }
        about |= ({"decoder": self.built_by} if self.built_by else {}) | ({"notes": self.notes} if self.notes else {})
        drawn = exporting.from_noise(self.latent)
        exporting.check_place(Path(path))
        content = (
            exporting.to_onnx(drawn, as_decoder(self.decoder), self.shift, self.scale, given=given) if onnx else None
        )
        return exporting.write(path, drawn, about, onnx=content)

    def __repr__(self) -> str:
        """What it is made of, in a line."""
        return f"<GenerativeModel: {self.latent!r}, decoder {type(self.decoder).__name__}, copying {self.copying}>"

    def _repr_html_(self) -> str:
        """What it is made of, in a notebook."""
        module = isinstance(self.decoder, torch.nn.Module)
        weights = sum(p.numel() for p in self.decoder.parameters()) if isinstance(self.decoder, torch.nn.Module) else 0
        rows = [
            ("z′ from", f"{self.latent.label}, {self.latent.d} dimensions, {size(self.latent.bytes)}"),
            ("decoder", f"{type(self.decoder).__name__}{f', {weights:,} parameters in all' if module else ''}"),
            ("x′", "images " + " x ".join(map(str, self.image)) if self.image else "rows of numbers"),
            ("rows", self.says()),
        ]
        return to_html(facts("generative model", rows))

    def says(self) -> str:
        """How many training rows stand behind what this model carries, and whether it copies them, in words."""
        stored = f"{self.latent.label}: {kept(self.latent.least_rows, stored=self.latent.bytes)}."
        return f"{stored}{SINGLE if self.latent.holds_rows else ''}{SAYS[self.copying]}"


SINGLE = (
    " Anyone who has this model can decode each of them to about its training row. Do not publish it where the data "
    "are private."
)
SAYS = {
    "untested": "",
    "passes": " Its samples passed the copying test: with 95 % confidence the share of them that are as near to "
    "training rows as copies are is below the limit of the audit (`--copies-limit`, 10 % unless it was set).",
    "copies": " Its samples copy training rows: unfit to publish.",
}


def check_leaks(model: GenerativeModel, *, allow_copies: bool, allow_rows: bool) -> None:
    """Refuse a model whose samples copy training rows, or that stores such rows, unless that is allowed.

    A model whose samples were not tested for copies, or not cleared of them, is let through with a warning.

    Raises:
        UsageError: they do, or it does, and it is not.
    """
    check_rows(model.latent, allow_rows=allow_rows)
    if model.copying == "copies" and not allow_copies:
        raise UsageError(
            f"{model.latent.label}: its samples copy training rows (the audit's copying test); it is unfit to publish. "
            "Take another latent distribution, or say --allow-copies (in Python: allow_copies=True)"
        )
    if model.copying == "untested" and not isinstance(model.latent, Prior):
        log.warning("%s: no audit has cleared its samples of copying training rows", model.latent.label)


def need_latent(name: str, r: object) -> None:
    """Raise `UsageError` for what is no latent distribution."""
    if not isinstance(r, LatentDistribution):
        way = "give its distribution: fit(...).distribution" if hasattr(r, "distribution") else "fit(...) makes one"
        raise UsageError(f"{name}: expected a latent distribution, got {type(r).__name__}; {way}")


def check_rows(latent: LatentDistribution, *, allow_rows: bool) -> None:
    """Refuse a latent distribution that stores functions of single training rows, unless that is allowed.

    Raises:
        UsageError: it does, and it is not; or it is no latent distribution.
    """
    need_latent("latent", latent)
    if latent.holds_rows and not allow_rows:
        raise UsageError(
            f"{latent.label}: it stores functions of single training rows, which anyone who has it can decode. Take "
            "another latent distribution, or say --allow-rows (in Python: allow_rows=True)"
        )


def sample(
    model: GenerativeModel,
    n: int,
    *,
    seed: int = 0,
    noise: str = "mean",
    given: Any = None,
    allow_copies: bool = False,
    allow_rows: bool = False,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n *datum"]]:
    """Draw z' and x', x' in the units of the data.

    Args:
        model: a latent distribution and a decoder.
        n: how many.
        seed: decides the draws.
        noise: `mean` gives the mean of p(x|z'), `draw` a draw from it.
        given: of a model that is told conditions (`zprime.bring.modules(conditions=...)`): the condition of all
            samples, or one for each, in the form in which the rows' were given. None draws them from those of the
            training rows. z' is drawn as ever; for r(z|label) give a model with `latent.given(r, label)`.
        allow_copies: draw even where an audit found that the samples copy training rows.
        allow_rows: draw even from a latent distribution that stores functions of single training rows.

    Raises:
        UsageError: no generative model, n < 1, an unknown `noise`, samples that copy training rows or come from stored
            ones, or conditions for a decoder that is told none, or that no training row has.
        ArrayError: conditions of another shape than the decoder takes.
    """
    if not isinstance(model, GenerativeModel):
        raise UsageError(
            f"model: expected a generative model, got {type(model).__name__}; zprime.GenerativeModel(r, decoder) makes "
            "one, and of a brought model mine.generator(r) or mine.shipped(audit, fits)"
        )
    check_leaks(model, allow_copies=allow_copies, allow_rows=allow_rows)
    z, x = model.sample(n, rng=stream(seed, "sample"), noise=noise, given=given)
    return z, model.restore(x)


def load(path: str | Path) -> GenerativeModel:
    """Read a generative model from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or of another kind.
    """
    source = chain.read(path, "generator")
    config, tensors = source.config, source.tensors()
    check(path, "generator", config, tensors)
    decoder = vae.rebuild_decoder(config["vae"], _part(tensors, "decoder."), where=path)
    described, image = config["latent"], config["image"]
    r = rebuild(described["kind"], described["config"], _part(tensors, "latent."), where=path)
    check_fits(r, decoder.latents, where=path)
    with guarded(path):
        need("holds_training_rows", config["holds_training_rows"] == r.holds_rows, "what latent says", not r.holds_rows)
    return GenerativeModel(
        r, decoder, tensors["shift"], tensors["scale"], None if image is None else tuple(image), config["copying"]
    )


def check_fits(latent: LatentDistribution, latents: int, *, where: Path | str) -> None:
    """Raise `ArtifactError` where a latent distribution has another dimension than the decoder takes."""
    with guarded(where):
        need("latent", latent.d == latents, f"{latents} dimensions, as the decoder takes", latent.d)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
