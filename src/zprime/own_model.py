"""A model of the user's own in a run: its artefact names the code and holds none, and the code runs where it is named.

The artefact has the hashes of the file of the function and of the weights, what was found when the model was tried
(which answer is what, the scale of p(x|z), the units of the latents), and some of the model's answers, by which it is
known again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime import model_prior
from zprime.artifact import Artifact
from zprime.bring.coordinates import Coordinates
from zprime.bring.own import ROUGH, Chosen, Own, alike, answers, likelihood_name
from zprime.data.conditions import Layout
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.own_code import Code
from zprime.schema.kinds import check
from zprime.vae import Model

KIND = "own-model"
OWN = "own"
"""Under which a generator holds what is told of such a model."""


@final
@dataclass(frozen=True)
class OwnModel:
    """A VAE of your own.

    Attributes:
        model: the function that builds it, `mymodel.py:build` or `package.module:function`. Nothing is trained then.
            `zprime init` writes such a file. The code in it runs: name only code that you trust.
        model_weights: file of its weights, as torch.save(vae.state_dict(), FILE) writes it, or .safetensors. It is
            opened without running code.
    """

    model: str = ""
    model_weights: str = ""

    @property
    def given(self) -> bool:
        """Whether there is one.

        Raises:
            UsageError: there are only weights.
        """
        if self.model_weights and not self.model:
            raise UsageError("model-weights: expected --model too, the function that builds the model of these weights")
        return bool(self.model)

    def code(self) -> Code:
        """The code and the weights, read and not run.

        Raises:
            UsageError: there are none.
        """
        return Code.read(self.model, self.model_weights)


@dataclass(frozen=True)
class Taken:
    """A model of the user's own that was tried.

    Attributes:
        model: encoder and decoder.
        config: what its artefact says.
        tensors: what it holds.
        says: what to know of it: sentences.
    """

    model: Model
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    says: tuple[str, ...]


def take(code: Code, x: Float[Tensor, "n *datum"], *, n: int, seed: int, layout: Layout | None = None) -> Taken:
    """Build a model and try it on training rows.

    Args:
        code: that builds it.
        x: all training rows.
        n: rows of all splits.
        seed: decides the rows that it is tried on.
        layout: of a row that holds x and conditions; None without conditions.

    Raises:
        UsageError: the code raised an error, or what it builds cannot be used.
        ArrayError: encoder, decoder and rows do not fit together.
        NumericalError: numbers that are not finite.
    """
    own = Own.of(code.run(), code.guard, seed=seed, layout=layout)
    found, encoder = own.tried(x, n=n)
    kept = _kept(found.prior)
    data, pool = (x, None) if layout is None else layout.parts(x)
    chosen = Chosen(encoder, found.gives, found.scale, found.coordinates, pool)
    model, d = own.again(x[0], chosen), _latents(found.model, x)
    at = found.coordinates
    config = {
        "code": {"named": code.named, "function": code.function, "sha256": code.sha256},
        "weights": None
        if code.weights_file is None
        else {"file": code.weights_file.name, "sha256": code.weights_sha256},
        "encoder": encoder,
        "gives": found.gives,
        "likelihood": likelihood_name(own.claims.likelihood, model, d),
        "scale": found.scale,
        "beta": own.claims.beta,
        "shape": list(x.shape[1:]),
        "latents": d,
        "unit": bool(data.min() >= 0 and data.max() <= 1),
        "close": own.close,
        **_units(conditional=found.parts.prior is not None),
        **({} if layout is None else {"conditions": layout.config()}),
        "says": list(found.says),
        **model_prior.described(found.prior),
    }
    tensors = {
        "answers": answers(model, d),
        **kept,
        **({} if pool is None else {"conditions": pool}),
        **({} if at is None else {"coordinates.loc": at.loc, "coordinates.scale": at.scale}),
    }
    return Taken(model, config, tensors, found.says)


def _units(*, conditional: bool) -> dict[str, str]:
    """What the decoder takes where latents are in units of p(z|c): in words, with z' in these units."""
    return {"units": "loc(c) + scale(c) z', with the mean and the standard deviations of p(z|c)"} if conditional else {}


def _kept(prior: LatentDistribution | None) -> dict[str, Tensor]:
    """The arrays of a prior.

    Raises:
        UsageError: it cannot be saved.
    """
    try:
        return model_prior.tensors(prior)
    except UsageError as error:
        what = "it" if prior is None else prior.label
        raise UsageError(
            f"prior: a run keeps its prior, and {what} cannot be saved; give Gaussians or a mixture of them, or use "
            "zprime.bring.model in Python"
        ) from error


@torch.no_grad()
def _latents(model: Model, x: Tensor) -> int:
    return int(model.encode(x[:1])[0].shape[1])


def load(own: OwnModel, source: Artifact) -> Model:
    """Encoder and decoder of a run, from the code that made them; it runs only if it is the same as then.

    Args:
        own: where the code is.
        source: the artefact of the model, or of a generator that has it as its decoder.

    Raises:
        UsageError: no code is named, or another one, or other weights than the run was made with; or it fails.
        ArtifactError: the artefact was altered.
    """
    if not own.given:
        raise UsageError(missing(source))
    config, tensors = described(source), tensors_of(source)
    code = own.code()
    check_same(code, source)
    at = coordinates_in(tensors)
    layout = None if config.get("conditions") is None else Layout.of(config["conditions"])
    built = Own.of(code.run(), code.guard, seed=int(source.seed or 0), layout=layout)
    scale = None if config.get("scale") is None else float(config["scale"])
    row = torch.zeros(()).expand(config["shape"])  # which takes no memory
    model = built.again(row, Chosen(config["encoder"], config["gives"], scale, at, tensors.get("conditions")))
    close = max(built.close, float(config.get("close") or ROUGH))  # where it computed then, and where it does now
    if not alike(tensors["answers"], answers(model, config["latents"]), close):
        raise UsageError(
            f"model: {code.named} answers otherwise than when {source.path} was made, though its file is the same: "
            f"other code or weights that it loads have changed. Put them back, or {ANOTHER}"
        )
    return model


def described(source: Artifact) -> dict[str, Any]:
    """What is told of the model: the settings of its artefact, or a part of those of a generator."""
    config: dict[str, Any] = source.config if source.kind == KIND else source.config[OWN]
    return config


def tensors_of(source: Artifact) -> dict[str, Tensor]:
    """What is kept of the model, by the names that it has in its artefact.

    Raises:
        ArtifactError: it was altered.
    """
    tensors = source.tensors()
    if source.kind != KIND:
        tensors = {k.removeprefix(f"{OWN}."): v for k, v in tensors.items() if k.startswith(f"{OWN}.")}
    check(source.path, KIND, described(source), tensors)
    return tensors


def coordinates_in(tensors: Mapping[str, Tensor]) -> Coordinates | None:
    """The coordinates that latents of the run have; None for the model's own."""
    loc, scale = tensors.get("coordinates.loc"), tensors.get("coordinates.scale")
    return None if loc is None or scale is None else Coordinates(loc, scale)


@final
@dataclass(frozen=True)
class Untold:
    """In place of the decoder, where no code is named: r(z) is known all the same.

    Attributes:
        source: the artefact of the model, or of a generator that has it as its decoder.
    """

    source: Artifact

    def outside(self, r: LatentDistribution) -> LatentDistribution:
        """A distribution of the run, as one of the model's own z (`vae.Elsewhere`)."""
        at = coordinates_in(tensors_of(self.source))
        return r if at is None else at.outside(r)

    @property
    def inner(self) -> "Untold":
        """Of the model's own z there is no decoder either."""
        return self

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """Raise `UsageError`: say what to add."""
        raise UsageError(missing(self.source))


ANOTHER = "make another run with what there is now (zprime run --out ANOTHER, or --replace)"


def missing(source: Artifact) -> str:
    """What to say where the model is needed and no code is named."""
    named, weights = described(source)["code"]["named"], described(source).get("weights")
    options = f"--model {named}" + ("" if weights is None else f" --model-weights {weights['file']}")
    return (
        f"{source.path}: this model is made by {named}, and zprime runs no code that it was not told to run; add "
        f"{options}"
    )


def not_wanted(path: Path) -> UsageError:
    """What to say where code is named for a generator that holds its decoder."""
    return UsageError(
        f"model: {path} is a shipped generator, and holds its decoder; leave --model out{in_environment('model')}"
    )


def check_same(code: Code, source: Artifact) -> None:
    """Raise `UsageError` unless code and weights are those that a model was made with."""
    was, weights = described(source)["code"], described(source).get("weights")
    if code.function != was["function"]:
        raise UsageError(
            f"model: {source.path} was made by {was['named']}, got {code.named}; give --model {was['named']}"
        )
    if code.sha256 != was["sha256"]:
        raise UsageError(
            f"model: {code.file} is not the file that {source.path} was made with (SHA-256 {code.sha256[:12]}, "
            f"recorded {was['sha256'][:12]}). Put the old one back, or {ANOTHER}"
        )
    if code.weights_sha256 != ("" if weights is None else weights["sha256"]):
        got = "none" if code.weights_file is None else f"{code.weights_file} (SHA-256 {code.weights_sha256[:12]})"
        want = "none" if weights is None else f"{weights['file']} (SHA-256 {weights['sha256'][:12]})"
        raise UsageError(
            f"model-weights: expected those that {source.path} was made with, {want}, got {got}. Give these, "
            f"or {ANOTHER}"
        )


def in_environment(setting: str) -> str:
    """Where a setting may come from, if the environment has its variable: nobody typed it then."""
    variable = f"ZPRIME_{setting.upper()}"
    return f" (the environment has {variable}: unset {variable})" if variable in os.environ else ""


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of differences between two models of the user's own."""
    weights = (config.get("weights") or {"sha256": ""})["sha256"]
    return {"model": config["code"]["named"], "code": config["code"]["sha256"][:12], "weights": weights[:12]}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a page tells of the model."""
    weights = config.get("weights")
    told = {"built by": config["code"]["named"], "weights": None if weights is None else weights["file"]}
    told |= {"p(x|z)": config["likelihood"], "scale": config.get("scale"), "second answer": config["gives"]}
    return {name: value for name, value in told.items() if value is not None}
