"""The model of a run: what its artefact says, and encoder and decoder themselves."""

from dataclasses import dataclass
from typing import final

from zprime import latent, model_prior, vae
from zprime.artifact import Artifact
from zprime.distribution import LatentDistribution
from zprime.results.facts import ModelInfo
from zprime.schema import guarded, need
from zprime.vae import Model


@final
@dataclass(frozen=True)
class RunModel:
    """The model of a run, of which nothing is loaded before it is asked for.

    Attributes:
        source: its artefact, checked.
    """

    source: Artifact

    @property
    def latents(self) -> int:
        """Latent dimension d."""
        return int(self.source.config["vae"]["settings"]["latents"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self.source.config["vae"]["shape"])

    @property
    def heavy(self) -> bool:
        """Whether its work is convolutions."""
        return bool(self.source.config["vae"]["settings"]["network"] == "conv")

    @property
    def prior(self) -> LatentDistribution:
        """What it was trained with.

        Raises:
            ArtifactError: it was altered.
        """
        prior = model_prior.load(self.source)
        return latent.Prior(self.latents) if prior is None else prior

    def info(self) -> ModelInfo:
        """The model, and how its training went.

        Raises:
            ArtifactError: it was altered.
        """
        trained = self.source.config
        settings, history = trained["vae"]["settings"], trained["history"]
        with guarded(self.source.path):
            need("epoch", trained["epoch"] <= len(history), f"one of {len(history)}", trained["epoch"])
        return ModelInfo(
            latents=settings["latents"],
            settings=settings,
            training=trained["training"],
            epoch=trained["epoch"],
            epochs=len(history),
            stopped=trained["stopped"],
            beta=trained["training"]["beta"],
            elbo=float(history[trained["epoch"] - 1]["selection"]),
        )

    def load(self) -> Model:
        """Encoder and decoder.

        Raises:
            ArtifactError: missing, or altered.
        """
        return vae.load(self.source.path)
