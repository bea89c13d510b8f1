"""A generative model: a latent distribution and a decoder."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact, exporting, memory, model_prior, vae
from zprime.calls import taken
from zprime.decoders import as_decoder
from zprime.decoding import all_decoded, at_least_float32, decoded
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.leaks import SAYS, SINGLE, check_leaks, need_latent
from zprime.memory import size
from zprime.results.kept import kept
from zprime.rng import fork, stream
from zprime.schema import guarded, need
from zprime.tables import facts, to_html
from zprime.vae import Decoder

log = logging.getLogger("zprime")


@dataclass(frozen=True)
class Recipe:
    """What is told of a model of the user's own, whose code is kept nowhere (`own_model`).

    Attributes:
        config: settings of its artefact: `code` says which function builds it.
        tensors: arrays of its artefact.
        seed: of its artefact.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    seed: int | None

    @property
    def weights(self) -> str:
        """Name of the file of its weights; empty where there is none."""
        return str((self.config.get("weights") or {"file": ""})["file"])

    @property
    def conditional(self) -> bool:
        """Whether the decoder is told conditions. Those of all training rows are among `tensors` then."""
        return self.config.get("conditions") is not None


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
        recipe: what a run tells of a decoder of the user's own; None for every other.
        audited: which audit measured it, where one did: `export` writes its card.
        notes: what to know of z' before it is given to another decoder than this one: sentences.
    """

    latent: LatentDistribution
    decoder: Decoder | Callable[..., object]
    shift: Tensor = field(default_factory=partial(torch.zeros, ()))
    scale: Tensor = field(default_factory=partial(torch.ones, ()))
    image: tuple[int, ...] | None = None
    copying: str = "untested"
    recipe: Recipe | None = None
    audited: exporting.Audited | None = None
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
        z = self._latents(n, rng)
        for part, x in decoded(as_decoder(self.decoder), z, noise=noise, rng=rng, given=given):
            yield part, at_least_float32(x)

    def _latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        if n < 1:
            raise UsageError(f"n: expected at least 1 sample, got {n}")
        memory.need(
            4 * n * self.latent.d, f"sample: {n:,} draws of z' ({self.latent.d:,} numbers each)", "draw fewer at a time"
        )
        return self.latent.sample(n, rng=fork(rng, "z"))

    def sample(
        self, n: int, *, rng: torch.Generator, noise: str = "mean", given: Any = None
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n *datum"]]:
        """Draw z' and x' in one call; x' is in the decoder's scaled units."""
        shape = self.decoder.shape if isinstance(self.decoder, vae.VAE) else None
        numbers = self.latent.d + max(self.shift.numel(), math.prod(shape or (1,)))
        memory.need(  # the batches, and these joined
            8 * n * numbers, f"sample: {n:,} draws of z' and x' ({numbers:,} numbers each)", "draw fewer at a time (-n)"
        )
        return all_decoded(as_decoder(self.decoder), self._latents(n, rng), noise=noise, rng=rng, given=given)

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

        Of a decoder of the user's own that a run knows, the artefact names the function that builds it.

        Raises:
            UsageError: the decoder is neither one that zprime built nor one that a run knows, the path cannot be
                written, or its samples copy training rows or it stores such rows, and that was not allowed.
        """
        check_leaks(self.latent, self.copying, allow_copies=allow_copies, allow_rows=allow_rows)
        config, tensors = self._parts(encoder=False)
        if self.recipe is not None:
            seed = self.recipe.seed
        return artifact.write(path, artifact.Manifest("generator", config, key, seed, dict(inputs)), tensors=tensors)

    def _parts(self, *, encoder: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and arrays of the artefact; with `encoder` also encoder and prior, by which it is measured again."""
        if isinstance(self.decoder, vae.VAE):
            config, tensors = _of_vae(self.decoder, encoder=encoder)
        elif self.recipe is not None and self.recipe.conditional:
            raise UsageError(
                "save: this model is told conditions, and what is known of it holds those of the training rows; export "
                "it (zprime export, with --onnx --given for x'), or save the latent distribution: model.latent.save"
            )
        elif self.recipe is not None:
            config = {"vae": None, "own": dict(self.recipe.config)}
            tensors = {f"own.{k}": v for k, v in self.recipe.tensors.items()}
        else:
            raise UsageError(
                "save: zprime cannot save a decoder of your own without pickle: save it yourself, "
                "and the latent distribution by model.latent.save(path); zprime.load_latent(path) loads that, and "
                "zprime.GenerativeModel(latent, decoder) puts the two together again"
            )
        tensors |= {f"latent.{k}": v for k, v in self.latent.tensors().items()}
        shape = (config["vae"] or config["own"])["shape"]
        tensors |= {name: t.expand(shape) for name, t in (("shift", self.shift), ("scale", self.scale))}
        config |= {
            "latent": {"kind": self.latent.kind, "config": self.latent.config(), "label": self.latent.label},
            "image": None if self.image is None else list(self.image),
            "holds_training_rows": self.latent.holds_rows,
            "least_rows": self.latent.least_rows,
            "copying": self.copying,
            "unfit_to_publish": self.copying == "copies",
            "says": self.says(),
        }
        return config, tensors

    @taken("export")
    def export(
        self,
        path: str | Path,
        *,
        onnx: bool = False,
        given: Any = None,
        allow_copies: bool = False,
        allow_rows: bool = False,
        name: str = "",
        license: str = "other",
    ) -> artifact.Artifact:
        """Write a folder by which anyone can draw z', and x', without zprime and without torch.

        It holds the arrays of r(z) (`latent.safetensors`), what they are (`latent.json`), a sampler that needs NumPy
        only (`sample.py`) and a `README.md`: the card, where an audit measured this model (`audited`), and then also
        what `zprime verify` measures again by (`check.json`). z' is what the network of this model takes. Of a decoder
        that zprime built, or that a run knows, it also holds zprime's own artefact (`generator`).

        Args:
            path: the folder to make; an earlier export there is replaced.
            onnx: write `generator.onnx` too: random numbers in, the mean of p(x|z') in the units of the data out.
            given: the condition that `generator.onnx` is of, where the decoder is told any; x' has it behind it.
            allow_copies: write even where an audit found that the samples copy training rows.
            allow_rows: write even a latent distribution that stores functions of single training rows.
            name: of the model, on the card; by default what z' is drawn from.
            license: on the card: an identifier of the hub, e.g. `mit`.

        Raises:
            UsageError: `latent` is no Gaussian and no mixture of Gaussians; the folder holds something else; samples
                copy training rows or come from stored ones, and that was not allowed; or with `onnx`: the decoder
                cannot be written in ONNX, or the extra `onnx` is not installed.
        """
        check_leaks(self.latent, self.copying, allow_copies=allow_copies, allow_rows=allow_rows)
        r = self.latent
        decoder: object = self.decoder
        if isinstance(decoder, vae.Elsewhere):
            r, decoder = decoder.outside(r), decoder.inner
        drawn = exporting.from_noise(r)
        about = exporting.said(drawn, self._about())
        exporting.check_place(Path(path))
        written = as_decoder(decoder), self.shift, self.scale
        content = exporting.to_onnx(drawn, *written, given=given) if onnx else None
        own = isinstance(self.decoder, vae.VAE) or (self.recipe is not None and not self.recipe.conditional)
        data = None if self.audited is None or not own else self.audited.data
        make = None
        if own:
            config, tensors = self._parts(encoder=data is not None)
            manifest = artifact.Manifest("generator", config, seed=None if self.recipe is None else self.recipe.seed)
            make = partial(artifact.write, manifest=manifest, tensors=tensors)
        weights = "" if self.recipe is None else self.recipe.weights
        use = exporting.use(about, whole=onnx, own=own, weights=weights, data=data)
        files = exporting.pages(about, use, self.audited, name=name, license=license)
        files |= {} if content is None else {exporting.ONNX: content}
        return exporting.write(path, drawn, about, files, make)

    def _about(self) -> dict[str, Any]:
        """What is told of r(z) and its samples to who has neither zprime nor torch."""
        about = {
            "kind": self.latent.kind,
            "label": self.latent.label,
            "holds_training_rows": self.latent.holds_rows,
            "least_rows": self.latent.least_rows,
            "copying": self.copying,
            "unfit_to_publish": self.copying == "copies",
            "says": self.says(),
        }
        about |= {} if self.recipe is None else {"decoder": self.recipe.config["code"]["named"]}
        return about | ({"notes": list(self.notes)} if self.notes else {})

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


def _of_vae(model: vae.VAE, *, encoder: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of a VAE that zprime built; without its encoder and its prior, unless these are asked for.

    Of one that was loaded without an encoder there is none to be had.
    """
    weights = model.state_dict()
    config: dict[str, Any] = {"vae": vae.describe(model)}
    tensors = {f"decoder.{k}": v for k, v in weights.items() if not k.startswith("encoder.")}
    if encoder and isinstance(model.prior, LatentDistribution):
        tensors |= {k: v for k, v in weights.items() if k.startswith("encoder.")} | model_prior.tensors(model.prior)
        config |= model_prior.described(model.prior)
    return config, tensors


@taken("sample", instead="of a brought model write sample(mine.generator(r), n)", types={"n": Integral})
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
    check_leaks(model.latent, model.copying, allow_copies=allow_copies, allow_rows=allow_rows)
    z, x = model.sample(n, rng=stream(seed, "sample"), noise=noise, given=given)
    return z, model.restore(x)


def check_fits(latent: LatentDistribution, latents: int, *, where: Path | str) -> None:
    """Raise `ArtifactError` where a latent distribution has another dimension than the decoder takes."""
    with guarded(where):
        need("latent", latent.d == latents, f"{latents} dimensions, as the decoder takes", latent.d)
