"""The prior that a VAE was trained with, beside its weights in an artefact. Of N(0, I) nothing is kept."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zprime import artifact, distribution
from zprime.artifact import Artifact
from zprime.components import Diagonal
from zprime.distribution import GaussianDistribution, LatentDistribution, is_standard
from zprime.errors import UsageError
from zprime.rng import stream
from zprime.schema import Part, guarded
from zprime.trainable_prior import TrainablePrior

Own = LatentDistribution | Distribution
"""What may be trained with."""
BEGINS = "prior."
"""What the names of its arrays begin with."""
POINTS = 64


def checked(prior: Own, d: int) -> Own:
    """A prior, after a look at whether a VAE of `d` latents can be trained with it.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(prior, LatentDistribution):
        if prior.d != d:
            raise UsageError(f"prior: expected {d} latents, as the VAE has, got {prior.d} ({prior.label})")
        if prior.density == "none":
            raise UsageError(f"prior: expected one with a log-density, got {prior.label}, which has draws only")
    elif prior.batch_shape or prior.event_shape != (d,):
        raise UsageError(
            f"prior: expected a Distribution with one latent, shape [{d}], as its event, got a batch of shape "
            f"{list(prior.batch_shape)} of events of shape {list(prior.event_shape)}; Independent(..., 1) makes the "
            "last dimension of a batch the event"
        )
    if standard(prior):
        return prior
    with torch.enable_grad():
        if not log_prob(prior, torch.zeros(1, d, requires_grad=True)).requires_grad:
            raise UsageError(f"prior: expected a log-density with a gradient in z, got {prior}, whose has none")
    return prior


def log_prob(
    prior: Own | TrainablePrior, z: Float[Tensor, "n d"], rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Log p(z), nats; one that is being trained is told the training row that each z belongs to."""
    answer: Tensor = prior.log_prob(z, rows) if isinstance(prior, TrainablePrior) else prior.log_prob(z)
    return answer


def standard(prior: Own | TrainablePrior | None) -> bool:
    """Whether it is N(0, I), for which None stands too."""
    return prior is None or (isinstance(prior, LatentDistribution) and is_standard(prior))


def diagonal(prior: Own | TrainablePrior | None) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviations of one Gaussian of independent dimensions; None for what is no such Gaussian."""
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return prior.base_dist.loc, prior.base_dist.scale
    if not isinstance(prior, GaussianDistribution) or len(prior.components.mean) != 1:
        return None
    c = prior.components
    return (c.mean[0], c.scale[0]) if isinstance(c, Diagonal) else None


def key(prior: Own | TrainablePrior | None) -> list[str]:
    """What a key has of it: its arrays; of what cannot be saved, its log-density at some points."""
    if prior is None or standard(prior) or isinstance(prior, TrainablePrior):  # whose settings have a key
        return []
    if isinstance(prior, LatentDistribution):
        try:
            arrays = hashlib.sha256(artifact.pack(prior.tensors())).hexdigest()
            return [artifact.digest([prior.kind, prior.config(), arrays])]
        except UsageError:
            d = prior.d
    else:
        d = int(prior.event_shape[0])
    z = 3 * torch.randn(POINTS, d, generator=stream(0, "prior"))
    with torch.no_grad():
        return [artifact.digest([repr(prior), log_prob(prior, z).tolist()])]


def described(prior: LatentDistribution | None) -> dict[str, Any]:
    """What a manifest says of it, as values for JSON."""
    return {} if prior is None or is_standard(prior) else {"prior": {"kind": prior.kind, "config": prior.config()}}


def tensors(prior: LatentDistribution | None) -> dict[str, Tensor]:
    """Its arrays.

    Raises:
        UsageError: it cannot be saved.
    """
    if prior is None or is_standard(prior):
        return {}
    return {f"{BEGINS}{k}": v for k, v in prior.tensors().items()}


def load(source: Artifact) -> LatentDistribution | None:
    """What the VAE of an artefact was trained with; None is N(0, I).

    Raises:
        ArtifactError: altered.
    """
    if source.config.get("prior") is None:
        return None
    return rebuilt(source.config, source.tensors(), where=source.path)


def rebuilt(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: Path | str
) -> LatentDistribution | None:
    """What `described` and `tensors` told of; None is N(0, I).

    Raises:
        ArtifactError: altered.
    """
    told = config.get("prior")
    if told is None:
        return None
    with guarded(where):
        Part().check("prior", told, {})
    own = {k.removeprefix(BEGINS): v for k, v in tensors.items() if k.startswith(BEGINS)}
    return distribution.rebuild(told["kind"], told["config"], own, where=where)
