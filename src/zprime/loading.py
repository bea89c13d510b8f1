"""Load a generative model from its artefact, with its decoder where this is in it."""

from pathlib import Path

from torch import Tensor

from zprime import artifact, chain, model_prior, own_model, vae
from zprime.artifact import Artifact
from zprime.distribution import LatentDistribution
from zprime.exporting import GENERATOR
from zprime.latent import rebuild
from zprime.own_model import OwnModel, Untold
from zprime.sampling import GenerativeModel, Recipe, check_fits
from zprime.schema import guarded, need
from zprime.schema.kinds import check
from zprime.vae import Decoder

KIND = "generator"


def load(path: str | Path, own: OwnModel = OwnModel()) -> GenerativeModel:
    """Read a generative model from its artefact folder.

    Args:
        path: the folder, or one that was exported and holds it.
        own: where the code of a decoder of your own is, `OwnModel("mymodel.py:build", "weights.pt")`: it runs if it is
            the same as then. Without it latents can be drawn, and x' cannot. Nothing for a decoder that zprime built.

    Raises:
        ArtifactError: missing, altered, or of another kind.
        UsageError: the code is another than then, or fails; or the artefact holds a decoder that zprime built.
    """
    path = inside(Path(path))
    source = chain.read(path, KIND)
    config, tensors = source.config, source.tensors()
    check(path, KIND, config, tensors)
    told, image = config["latent"], config["image"]
    r = rebuild(told["kind"], told["config"], _part(tensors, "latent."), where=path)
    latents = (config.get("vae") or {}).get("settings", config.get("own") or {})["latents"]
    check_fits(r, latents, where=path)
    with guarded(path):
        need("holds_training_rows", config["holds_training_rows"] == r.holds_rows, "what latent says", not r.holds_rows)
    shift, scale = tensors["shift"], tensors["scale"]
    decoder, recipe = _decoder(source, tensors, own)
    at = None if image is None else tuple(image)
    return GenerativeModel(r, decoder, shift, scale, at, config["copying"], recipe=recipe)


def inside(path: Path) -> Path:
    """Where the artefact lies: in a folder that was exported, or at the path itself."""
    exported = artifact.is_artifact(path) and artifact.read(path).kind == chain.EXPORT
    return path / GENERATOR if exported else path


def prior_of(model: GenerativeModel, *, where: Path | str) -> LatentDistribution | None:
    """What the VAE behind a loaded model was trained with; None is N(0, I).

    Raises:
        ArtifactError: altered.
    """
    if model.recipe is not None:
        return model_prior.rebuilt(model.recipe.config, model.recipe.tensors, where=where)
    prior = model.decoder.prior if isinstance(model.decoder, vae.VAE) else None
    return prior if isinstance(prior, LatentDistribution) else None


def _decoder(source: Artifact, tensors: dict[str, Tensor], own: OwnModel) -> tuple[Decoder, Recipe | None]:
    """The decoder, with its encoder where that is there; of the user's own also what is told of it."""
    config = source.config
    if config.get("vae") is None:
        recipe = Recipe(config["own"], own_model.tensors_of(source), source.seed)
        return own_model.load(own, source) if own.given else Untold(source), recipe
    if own.given:
        raise own_model.not_wanted(source.path)
    weights = _part(tensors, "decoder.")
    encoder = {k: v for k, v in tensors.items() if k.startswith("encoder.")}
    if not encoder:
        return vae.rebuild_decoder(config["vae"], weights, where=source.path), None
    whole, prior = {**weights, **encoder}, model_prior.load(source)
    return vae.rebuild(config["vae"], whole, where=source.path, prior=prior), None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
