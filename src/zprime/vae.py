"""The variational autoencoder (Kingma & Welling 2014): an encoder, a decoder, and the prior between them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from zprime import chain, memory, model_prior, networks
from zprime.arrays import full_kl, is_full, standard_kl
from zprime.distribution import LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.posterior_flow import Drawn, FlowEncoder, given_noise, normal_like
from zprime.rng import stream
from zprime.schema import Schema, guarded, need
from zprime.schema.models import VAE as VAE_SCHEMA
from zprime.schema.models import WEIGHTS_OF_VAE
from zprime.serialise import recorded
from zprime.trainable_prior import TrainablePrior
from zprime.vae_settings import VAESettings


@runtime_checkable
class Encoder(Protocol):
    """What gives q(z|x), a diagonal Gaussian for each row of a batch."""

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z|x)."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """What gives p(x|z) for each row of a batch."""

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), a distribution whose event is one datum."""
        ...


@runtime_checkable
class Model(Encoder, Decoder, Protocol):
    """Encoder and decoder: all that fitting and measuring need of a VAE."""


@runtime_checkable
class Told(Protocol):
    """What p(x|z, c) has where a decoder is told conditions c beside z: one may choose them."""

    def conditions(self, given: Any, n: int) -> Float[Tensor, "n c"]:
        """Conditions of n rows, from one for all of them or one for each."""
        ...

    def given(self, c: Float[Tensor, "n c"]) -> Distribution:
        """p(x|z, c) with one condition for each z."""
        ...


@runtime_checkable
class Elsewhere(Protocol):
    """A decoder that takes z in other coordinates than the network behind it, e.g. in units of the prior."""

    @property
    def inner(self) -> Decoder:
        """The decoder that takes the model's own z."""
        ...

    def outside(self, r: LatentDistribution) -> LatentDistribution:
        """A distribution in these coordinates, as one of the model's own z."""
        ...


@runtime_checkable
class Alike(Protocol):
    """What p(x|z, c) has where rows of data hold c."""

    def like(self, rows: Float[Tensor, "n *datum"]) -> Distribution:
        """p(x|z, c) with the conditions of some rows of data, one for each z."""
        ...


class VAE(nn.Module):
    """Encoder, decoder and likelihood, with the prior that the KL term of the ELBO pulls towards.

    The modules: `encoder(x) -> (mean, scale)`, `decoder(z) -> output`, `likelihood(output) -> Distribution`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        *,
        latents: int,
        prior: LatentDistribution | Distribution | None = None,
    ) -> None:
        """Put a VAE together.

        Args:
            encoder: x -> mean and standard deviation of q(z|x).
            decoder: z -> what the likelihood takes.
            likelihood: the decoder's output -> p(x|z).
            latents: latent dimension d.
            prior: p(z), which is not trained: ours, e.g. a mixture of Gaussians, or a torch Distribution with one
                latent as its event; None is N(0, I). Give it to `fit` and `audit` too (`vae.prior`).

        Raises:
            UsageError: a prior of other dimensions, or without a log-density that has a gradient.
        """
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.latents = latents
        self.prior: LatentDistribution | Distribution | TrainablePrior = (
            Prior(latents) if prior is None else model_prior.checked(prior, latents)
        )
        self.settings: VAESettings | None = None
        self.shape: tuple[int, ...] | None = None
        self.fresh = False
        """Whether nothing was trained since `build`."""

    @classmethod
    def build(
        cls,
        shape: tuple[int, ...],
        settings: VAESettings,
        *,
        seed: int = 0,
        prior: LatentDistribution | Distribution | None = None,
    ) -> "VAE":
        """Make an untrained VAE for data of `shape`, with a prior (None is N(0, I)); the seed decides its weights."""
        settings = settings.resolve(tuple(shape))
        weights = networks.count(
            settings.network, shape, settings.latents, hidden=settings.hidden, width=settings.width, ends=settings.ends
        )
        memory.need(
            4 * weights,
            f"network: {weights:,.0f} weights ({settings.latents:,} latents)",
            "lower latents, or hidden (mlp) or width (conv)",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "weights").initial_seed())
            encoder, decoder = networks.build(
                settings.network,
                shape,
                settings.latents,
                hidden=settings.hidden,
                width=settings.width,
                ends=settings.ends,
            )
        likelihood = settings.new_likelihood()
        model = cls(encoder, decoder, likelihood, latents=settings.latents, prior=prior)
        model.settings, model.shape, model.fresh = settings, tuple(shape), True
        return model

    @property
    def form(self) -> str:
        """What q(z|x) is: `diagonal`, `full`, `flow`, or `points`, codes without a q, whose scale is 0."""
        if isinstance(self.encoder, FlowEncoder):
            return "flow"
        return "diagonal" if self.settings is None else self.settings.posterior

    def encode(
        self, x: Float[Tensor, "n *datum"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"] | Float[Tensor, "n d d"]]:
        """Mean and standard deviation of q(z|x), or triangular factor; of a flow its code of no noise, and zeros."""
        mean_and_scale: tuple[Tensor, Tensor] = self.encoder(x)
        return mean_and_scale

    def draw(
        self,
        x: Float[Tensor, "n *datum"],
        *,
        rng: torch.Generator | None = None,
        noise: Float[Tensor, "n d"] | Float[Tensor, "n k d"] | None = None,
    ) -> Drawn:
        """Draws z ~ q(z|x), by standard normal `noise`, or one a row from `rng`; with log q(z|x) there."""
        if isinstance(self.encoder, FlowEncoder):
            return self.encoder.draw(x, rng=rng, noise=noise)
        mean, scale = self.encode(x)
        return given_noise(mean, scale, normal_like(mean, rng) if noise is None else noise)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), with a datum as its event."""
        likelihood: Distribution = self.likelihood(self.decoder(z))
        return likelihood

    def elbo_terms(
        self,
        x: Float[Tensor, "n *datum"],
        *,
        rng: torch.Generator | None = None,
        noise: Float[Tensor, "n d"] | None = None,
        rows: Int[Tensor, " n"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Log p(x|z) at one draw z ~ q(z|x), and KL(q(z|x) || p(z)); nats, for each row.

        The draw is from `rng`, or of standard normal `noise`. `rows` says which training rows these are, for a prior
        that is being trained and leaves each out of its own.

        The KL is a closed form where p is one Gaussian of independent dimensions and q no flow, else log q(z|x) - log
        p(z) at the same draw. The difference of the two is an unbiased estimate of each row's ELBO.
        """
        drawn = self.draw(x, rng=rng, noise=noise)
        kl = self.kl_of(drawn, rows)
        return self.decode(drawn.z).log_prob(x), kl

    def kl_of(self, drawn: Drawn, rows: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """`kl` of draws, one a row; of a flow log q(z|x) - log p(z) there."""
        if drawn.flow_log_q is None:
            return self.kl(drawn.mean, drawn.scale, drawn.z, rows)
        return self._over_prior(drawn, rows)

    def kl(
        self,
        mean: Float[Tensor, "n d"],
        scale: Float[Tensor, "n d"] | Float[Tensor, "n d d"],
        z: Float[Tensor, "n d"],
        rows: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """KL(q(z|x) || p(z)) in nats a row, or an unbiased estimate of it at draws z from q: see `elbo_terms`."""
        units, full = model_prior.diagonal(self.prior), is_full(mean, scale)
        if model_prior.standard(self.prior):
            return full_kl(mean, scale) if full else standard_kl(mean, scale).sum(1)
        if units is not None:  # in units of the prior it is N(0, I)
            loc, width = (t.to(mean) for t in units)
            if full:
                return full_kl((mean - loc) / width, scale / width[:, None])
            return standard_kl((mean - loc) / width, scale / width).sum(1)
        return self._over_prior(Drawn(z, mean, scale), rows)

    def _over_prior(self, drawn: Drawn, rows: Int[Tensor, " n"] | None) -> Float[Tensor, " n"]:
        if bool(torch.isfinite(drawn.z).all()):
            return drawn.log_q - model_prior.log_prob(self.prior, drawn.z, rows)
        # a density takes finite z only; whoever trains sees that the loss is not finite
        return torch.full_like(drawn.z[:, 0], torch.nan)

    def learn(self, prior: TrainablePrior, x: Float[Tensor, "n *datum"], *, rng: torch.Generator) -> None:
        """Let a prior that is trained take the place of p(z), with its first values for training rows `x`."""
        prior.begin(self.encode, x, rng)
        del self.prior  # torch keeps modules elsewhere than values
        self.prior = prior

    def refresh_prior(self) -> None:
        """Let a prior that is being trained make again what it keeps of the encoder's answers."""
        if isinstance(self.prior, TrainablePrior):
            mode = self.training
            self.eval()
            self.prior.refresh()
            self.train(mode)

    def freeze_prior(self) -> None:
        """Let an ordinary latent distribution take the place of a prior that was trained."""
        if isinstance(self.prior, TrainablePrior):
            self.refresh_prior()
            frozen = self.prior.frozen()
            del self.prior
            self.prior = frozen


def describe(vae: VAE) -> dict[str, Any]:
    """All that `rebuild` needs besides the weights, as values for JSON.

    Raises:
        UsageError: the VAE consists of modules that zprime did not build.
    """
    if vae.settings is None or vae.shape is None:
        raise UsageError(
            "this VAE was put together from modules of your own: save it yourself, and give it to audit() as it is"
        )
    return {"shape": list(vae.shape), "settings": recorded(vae.settings)}


def rebuild(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: Path | str = "model",
    prior: LatentDistribution | None = None,
) -> VAE:
    """Make the VAE that `describe` described, with its weights and its prior (None is N(0, I)).

    Raises:
        ArtifactError: configuration, weights and prior do not fit together.
    """

    def take(vae: VAE) -> None:
        if prior is not None:
            need("prior", prior.d == vae.latents, f"{vae.latents} dimensions, as the VAE has", prior.d)
            vae.prior = prior

    return _rebuild(config, tensors, where, take)


def rebuild_decoder(config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: Path | str) -> VAE:
    """Make the decoder that `describe` described, with its weights and without an encoder.

    Raises:
        ArtifactError: configuration and weights do not fit together.
    """

    def drop(vae: VAE) -> None:
        vae.encoder = _NoEncoder()

    return _rebuild(config, tensors, where, drop)


def _rebuild(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path | str, change: Callable[[VAE], None]
) -> VAE:
    with guarded(f"{where}: weights and settings", "train it again"):
        Schema({"vae": VAE_SCHEMA}, WEIGHTS_OF_VAE).check({"vae": config}, tensors)
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items()}
        settings = VAESettings(**told)
        shape = tuple(config["shape"])
        with torch.device("meta"):  # shapes only: a network that was not stored takes no memory
            outline = VAE.build(shape, settings)
        change(outline)
        for name, weights in outline.state_dict().items():
            found = tensors[name].shape if name in tensors else None
            need(name, weights.shape == found, f"shape {list(weights.shape)}", found and list(found))
        model = VAE.build(shape, settings)
        change(model)
        model.load_state_dict(dict(tensors), strict=True)
        model.fresh = False
    return model.eval().requires_grad_(requires_grad=False)


class _NoEncoder(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise UsageError("encode: this model was shipped without its encoder; use the trained model's artefact")


def load(path: Path) -> VAE:
    """Read a trained VAE from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or of another kind.
    """
    source = chain.read(path, "model")
    config: dict[str, Any] = source.config.get("vae", {})
    with guarded(path):
        need("vae", isinstance(config, dict), "settings of a VAE", config)
    weights = {k: v for k, v in source.tensors().items() if not k.startswith(model_prior.BEGINS)}
    return rebuild(config, weights, where=path, prior=model_prior.load(source))
