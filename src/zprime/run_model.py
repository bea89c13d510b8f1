"""The model of a run: what its artefact says, and encoder and decoder themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from zprime import latent, learned, model_prior, networks, own_model, train_settings, vae
from zprime.artifact import Artifact
from zprime.data.conditions import Layout
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.own_model import OwnModel
from zprime.results.facts import ModelInfo
from zprime.sampling import Recipe
from zprime.schema import guarded, need
from zprime.vae import Model

ELBO = "ELBO"
WHOLE_SECONDS = "seconds with what was before"
"""Of a refined model, among what the machine measured: its training, and all that it went on from."""


@final
@dataclass(frozen=True)
class RunModel:
    """The model of a run, of which nothing is loaded before it is asked for.

    Attributes:
        source: its artefact, checked: of a VAE of zprime, or of a model of the user's own, whose code is not in it.
        own: where that code is, as far as the user said.
    """

    source: Artifact
    own: OwnModel = OwnModel()

    @property
    def brought(self) -> bool:
        """Whether it is the user's own."""
        return self.source.kind == own_model.KIND

    @property
    def latents(self) -> int:
        """Latent dimension d."""
        config = self.source.config
        return int(config["latents"] if self.brought else config["vae"]["settings"]["latents"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        config = self.source.config
        return tuple(config["shape"] if self.brought else config["vae"]["shape"])

    @property
    def layout(self) -> Layout | None:
        """How x and conditions stand in a row; None of a model that is told none."""
        told = self.source.config.get("conditions") if self.brought else None
        return None if told is None else Layout.of(told)

    @property
    def pool(self) -> Tensor | None:
        """Conditions of its training rows, [n, k]; None of a model that is told none.

        Raises:
            ArtifactError: it was altered.
        """
        return None if self.layout is None else self.source.tensors()["conditions"]

    @property
    def form(self) -> str:
        """Form of q(z|x) of a VAE of zprime: `diagonal`, `full`, `flow`, or `points`."""
        return self.source.config["vae"]["settings"].get("posterior") or "diagonal"

    @property
    def heavy(self) -> bool:
        """Whether its work is convolutions; of the user's own, whether rows are images."""
        if self.brought:
            return len(self.shape if self.layout is None else self.layout.shape) == 3
        return self.source.config["vae"]["settings"]["network"] in networks.IMAGES

    @property
    def unit(self) -> bool:
        """Whether rows lie in [0, 1] where they are images: always in a VAE of zprime."""
        return bool(self.source.config["unit"]) if self.brought else True

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
        if self.brought:
            return ModelInfo(self.latents, settings=own_model.settings(trained), beta=trained["beta"])
        settings, history = trained["vae"]["settings"], trained["history"]
        with guarded(self.source.path):
            need("epoch", trained["epoch"] <= len(history), f"one of {len(history)}", trained["epoch"])
        if trained.get("learned") is not None:
            settings = {**settings, "prior": learned.words(trained["learned"])}
        return ModelInfo(
            latents=settings["latents"],
            settings=settings,
            training=trained["training"],
            epoch=trained["epoch"],
            epochs=len(history),
            stopped=trained["stopped"],
            beta=trained["training"]["beta"],
            elbo=self.on_selection if self.kept_by == ELBO else None,
            prior=self._prior_from,
            seconds=self.seconds,
        )

    @property
    def seconds(self) -> float | None:
        """CPU time of its training, with all that it went on from; None where that was not measured."""
        refined = self.source.config.get("refined") is not None
        return self.source.measured.get(WHOLE_SECONDS if refined else "seconds")

    @property
    def says(self) -> list[str]:
        """What to know of it before reading an audit: sentences."""
        if self.brought:
            return [str(sentence) for sentence in self.source.config["says"]]
        refined = self.source.config.get("refined")
        says = train_settings.says(self.source.config["training"], self.form)
        return says if refined is None else [*says, self._refined(refined)]

    @property
    def _prior_from(self) -> str:
        """Where p(z) comes from, as `ModelInfo.prior` says."""
        if self.source.config.get("refined") is not None:
            return "refined"
        return "given" if self.source.config.get("learned") is None else "learned"

    def _refined(self, refined: Mapping[str, Any]) -> str:
        """What it was refined from, and what that took."""
        trained, seconds = self.source.config, self.source.measured.get("seconds")
        took = "" if seconds is None else f" ({seconds:.0f} CPU seconds)"
        return (
            f"This model was refined: model {refined['model'][:12]} was trained on with {refined['name']} in place of "
            f"its prior, {'which was trained too' if refined['learned'] else 'which stayed as it was'}. Epoch "
            f"{trained['epoch']} of {len(trained['history'])}{took} was kept, with an {self.kept_by} of "
            f"{self.on_selection:.2f} nats a row on the selection split; before it was {refined['selection']:.2f}."
        )

    @property
    def kept_by(self) -> str:
        """What chose the epoch that was kept, in words: the ELBO, or minus the loss of another objective."""
        objective = self.source.config["training"].get("objective")
        return ELBO if objective is None else f"objective {objective} (minus its loss)"

    @property
    def on_selection(self) -> float:
        """That, in nats a row; at epoch 0 it is that of what it was refined from."""
        trained = self.source.config
        if trained["epoch"]:
            return float(trained["history"][trained["epoch"] - 1]["selection"])
        return float(trained["refined"]["selection"])

    @property
    def recipe(self) -> Recipe | None:
        """What a generator keeps of a model of the user's own; None for a VAE of zprime.

        Raises:
            ArtifactError: it was altered.
        """
        if not self.brought:
            return None
        return Recipe(self.source.config, own_model.tensors_of(self.source), self.source.seed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of z' before it is given to the user's own decoder: sentences."""
        if not self.brought:
            return ()
        config, layout = self.source.config, self.layout
        notes = []
        if config.get("units"):
            notes.append(f"z' is in units of the model's prior: the decoder takes {config['units']}.")
        if layout is not None:
            notes.append("The decoder is told conditions beside z.")
        return tuple(notes)

    def load(self) -> Model:
        """Encoder and decoder. Code of the user's own runs here, and nowhere else after the run was begun.

        Raises:
            ArtifactError: missing, or altered.
            UsageError: it is the user's own, and its code is not named, is another than then, or fails.
        """
        if self.brought:
            return own_model.load(self.own, self.source)
        if self.own.given:
            raise UsageError(
                f"model: {self.source.path} was trained by zprime, and holds encoder and decoder; leave --model out"
                f"{own_model.in_environment('model')}"
            )
        return vae.load(self.source.path)
