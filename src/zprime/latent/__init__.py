"""Every kind of latent distribution: one file a kind, with its settings and its fit."""

from collections.abc import Mapping
from pathlib import Path

from zprime import artifact, distribution
from zprime.distribution import LatentDistribution, Settings
from zprime.errors import ArtifactError, UsageError
from zprime.latent.active import Active
from zprime.latent.aggregated import Aggregated, AggregatedSettings
from zprime.latent.conditional import Conditional, ConditionalSettings
from zprime.latent.defensive import Defensive
from zprime.latent.gaussian import Gaussian, GaussianSettings
from zprime.latent.mixture import Mixture, MixtureSettings
from zprime.latent.prior import Prior, PriorSettings

__all__ = [
    "SETTINGS",
    "Active",
    "Aggregated",
    "AggregatedSettings",
    "Conditional",
    "ConditionalSettings",
    "Defensive",
    "Gaussian",
    "GaussianSettings",
    "Mixture",
    "MixtureSettings",
    "Prior",
    "PriorSettings",
    "load",
    "settings_for",
]

SETTINGS: Mapping[str, type[Settings]] = {
    c.kind: c for c in (PriorSettings, GaussianSettings, MixtureSettings, AggregatedSettings, ConditionalSettings)
}
"""Kind -> settings, for fitting; in the order of tables."""


def settings_for(kind: str) -> Settings:
    """Default settings of a kind.

    Raises:
        UsageError: no such kind.
    """
    if kind not in SETTINGS:
        raise UsageError(f"kind: expected one of {', '.join(SETTINGS)}, got {kind!r}")
    return SETTINGS[kind]()


def load(path: Path) -> LatentDistribution:
    """Read a latent distribution from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or no latent distribution.
    """
    found = artifact.read(path)
    if not found.kind.startswith("latent/"):
        raise ArtifactError(f"{path}: expected a latent distribution, got an artefact of kind {found.kind}")
    kind = found.kind.removeprefix("latent/")
    return distribution.rebuild(kind, found.config, found.tensors())
