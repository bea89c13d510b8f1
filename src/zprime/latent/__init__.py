"""Every kind of latent distribution: one file a kind, with its settings and its fit."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from zprime import chain
from zprime.distribution import LatentDistribution, Prior, rebuild
from zprime.errors import ArtifactError, UsageError
from zprime.latent.active import Active
from zprime.latent.affine import Affine
from zprime.latent.aggregated import OnDemand
from zprime.latent.conditional import given, labels_of
from zprime.latent.defensive import Defensive
from zprime.latent.kind import About, Context, Settings, Task
from zprime.latent.priors import FromTorch, StandardNormal, prior_of

# A line for every kind, in the order of tables.
# isort: off
from zprime.latent.prior import PriorSettings as PriorSettings
from zprime.latent.gaussian import Gaussian as Gaussian, GaussianSettings as GaussianSettings
from zprime.latent.kronecker import Kronecker as Kronecker, KroneckerSettings as KroneckerSettings
from zprime.latent.log_pool import LogPool as LogPool, LogPoolSettings as LogPoolSettings
from zprime.latent.barycentre import Barycentre as Barycentre, BarycentreSettings as BarycentreSettings
from zprime.latent.product_of_experts import ProductOfExpertsSettings as ProductOfExpertsSettings
from zprime.latent.nuts import SharedNUTS as SharedNUTS, SharedNUTSSettings as SharedNUTSSettings
from zprime.latent.gaussians import Mixture as Mixture
from zprime.latent.mixture import MixtureSettings as MixtureSettings
from zprime.latent.conditional import Conditional as Conditional, ConditionalSettings as ConditionalSettings
from zprime.latent.aggregated import Aggregated as Aggregated, AggregatedSettings as AggregatedSettings
from zprime.latent.exemplars import Exemplars as Exemplars, ExemplarsSettings as ExemplarsSettings
from zprime.latent.coreset import Coreset as Coreset
from zprime.latent.vamp import Vamp as Vamp, VampSettings as VampSettings
from zprime.latent.flow import Flow as Flow, FlowSettings as FlowSettings
from zprime.latent.flow_matching import FlowMatching as FlowMatching, FlowMatchingSettings as FlowMatchingSettings
from zprime.latent.two_stage import TwoStage as TwoStage, TwoStageSettings as TwoStageSettings
from zprime.latent.resampled import Resampled as Resampled, ResampledSettings as ResampledSettings
# isort: on

SETTINGS: Mapping[str, type[Settings]] = {
    value.kind: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Settings) and value is not Settings
}
"""Kind -> class of its settings, in the order of tables: those that are imported above."""

__all__ = [  # and what is imported `as` itself
    "SETTINGS",
    "About",
    "Active",
    "Affine",
    "Context",
    "Defensive",
    "FromTorch",
    "LatentDistribution",
    "OnDemand",
    "Prior",
    "Settings",
    "StandardNormal",
    "Task",
    "given",
    "labels_of",
    "load",
    "prior_of",
    "rebuild",
    "settings_for",
]


def settings_for(kind: str) -> Settings:
    """Default settings of a kind.

    Raises:
        UsageError: no such kind.
    """
    if kind not in SETTINGS:
        near = difflib.get_close_matches(kind, SETTINGS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"kind: expected one of {', '.join(SETTINGS)}, got {kind!r}{meant}")
    return SETTINGS[kind]()


def load(path: str | Path) -> LatentDistribution:
    """Read a latent distribution from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or no latent distribution.
    """
    stored = chain.read(path)
    if not stored.kind.startswith("latent/"):
        raise ArtifactError(f"{path}: expected a latent distribution, got an artefact of kind {stored.kind}")
    return rebuild(stored.kind.removeprefix("latent/"), stored.config, stored.tensors(), where=path)
