"""Every kind of latent distribution: one file a kind, with its settings and its fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zprime import artifact, distribution, threads
from zprime.distribution import LatentDistribution, Settings
from zprime.errors import ArtifactError, UsageError
from zprime.latent.active import Active
from zprime.latent.aggregated import Aggregated, AggregatedSettings, OnDemand
from zprime.latent.barycentre import Barycentre, BarycentreSettings
from zprime.latent.conditional import Conditional, ConditionalSettings, given, labels_of
from zprime.latent.defensive import Defensive
from zprime.latent.exemplars import Exemplars, ExemplarsSettings
from zprime.latent.flow import Flow, FlowSettings
from zprime.latent.flow_matching import FlowMatching, FlowMatchingSettings
from zprime.latent.gaussian import Gaussian, GaussianSettings
from zprime.latent.gradient import Schedule
from zprime.latent.log_pool import LogPool, LogPoolSettings
from zprime.latent.mixture import Mixture, MixtureSettings
from zprime.latent.nuts import SharedNUTS, SharedNUTSSettings
from zprime.latent.prior import Prior, PriorSettings
from zprime.latent.product_of_experts import ProductOfExperts, ProductOfExpertsSettings
from zprime.latent.resampled import Resampled, ResampledSettings
from zprime.latent.two_stage import TwoStage, TwoStageSettings
from zprime.latent.vamp import Vamp, VampSettings

__all__ = [
    "ABOUT",
    "SETTINGS",
    "About",
    "Active",
    "Aggregated",
    "AggregatedSettings",
    "Barycentre",
    "BarycentreSettings",
    "Conditional",
    "ConditionalSettings",
    "Defensive",
    "Exemplars",
    "ExemplarsSettings",
    "Flow",
    "FlowMatching",
    "FlowMatchingSettings",
    "FlowSettings",
    "Gaussian",
    "GaussianSettings",
    "LogPool",
    "LogPoolSettings",
    "Mixture",
    "MixtureSettings",
    "OnDemand",
    "Prior",
    "PriorSettings",
    "ProductOfExperts",
    "ProductOfExpertsSettings",
    "Resampled",
    "ResampledSettings",
    "SharedNUTS",
    "SharedNUTSSettings",
    "TwoStage",
    "TwoStageSettings",
    "Vamp",
    "VampSettings",
    "given",
    "heavy",
    "labels_of",
    "load",
    "name_of",
    "settings_for",
    "takes_long",
]


@dataclass(frozen=True)
class About:
    """What a user wants to know of a kind before fitting it.

    Attributes:
        settings: makes its default settings.
        stores: what a shipped model carries; N rows, d latents, K components.
        cost: of the fit.
        when: when to use it.
        quick: whether the fit is one pass over the posteriors at most.
    """

    settings: Callable[[], Settings]
    stores: str
    cost: str
    when: str
    quick: bool = False


_KINDS = (
    About(PriorSettings, "nothing (tau)", "none", "the reference; tau other than 1 shrinks or widens it", quick=True),
    About(GaussianSettings, "d^2 numbers", "one pass", "the hole is in mean or covariance (rare)", quick=True),
    About(
        LogPoolSettings,
        "2d numbers",
        "one pass",
        "to see that the reverse-KL average collapses; never to generate",
        quick=True,
    ),
    About(
        BarycentreSettings,
        "2d numbers",
        "one pass",
        "to see that the Wasserstein average collapses; never to generate",
        quick=True,
    ),
    About(
        ProductOfExpertsSettings,
        "2d numbers",
        "one pass",
        "one latent behind a whole group of rows: p(z | X = D), in closed form",
        quick=True,
    ),
    About(
        SharedNUTSSettings, "draws", "minutes: NUTS through the decoder", "the same, exactly; draws without a density"
    ),
    About(
        MixtureSettings,
        "K d^2 numbers",
        "seconds to a minute: EM on posteriors",
        "first choice: small, exact density, no rows",
    ),
    About(
        ConditionalSettings,
        "K d^2 numbers a label",
        "as mixture (or another base)",
        "generate by label, or a population with other shares",
    ),
    About(
        AggregatedSettings,
        "2 N d numbers, rows",
        "none",
        "the reference at the other end: all rows, exactly",
        quick=True,
    ),
    About(
        ExemplarsSettings,
        "2 N d numbers, rows",
        "a search over bandwidths",
        "many rows and no privacy: smoothed posteriors",
    ),
    About(
        VampSettings,
        "2 K d numbers",
        "a minute: gradients through the encoder",
        "components that the encoder itself could give",
    ),
    About(FlowSettings, "a network", "minutes: likelihood by gradient", "a shape that few Gaussians cannot follow"),
    About(
        FlowMatchingSettings, "a network", "minutes; density by an ODE", "the same, with a density that is an estimate"
    ),
    About(
        TwoStageSettings, "a network", "minutes: a second VAE", "comparison with Dai & Wipf 2019; density is a bound"
    ),
    About(ResampledSettings, "a network", "a minute", "re-weights a Gaussian by what it lacks; density is an estimate"),
)

ABOUT: Mapping[str, About] = {a.settings().kind: a for a in _KINDS}
"""Kind -> what to know of it, in the order of tables."""

SETTINGS: Mapping[str, Callable[[], Settings]] = {k: a.settings for k, a in ABOUT.items()}
"""Kind -> settings, for fitting; in the order of tables."""


def settings_for(kind: str) -> Settings:
    """Default settings of a kind.

    Raises:
        UsageError: no such kind.
    """
    if kind not in SETTINGS:
        raise UsageError(f"kind: expected one of {', '.join(SETTINGS)}, got {kind!r}")
    return SETTINGS[kind]()


def name_of(settings: Settings) -> str:
    """What a fit is called where nothing else is said: its kind, with what sets it apart from others of its kind."""
    if isinstance(settings, PriorSettings) and settings.tau != 1:
        return f"prior({settings.tau:g})"
    return settings.name if isinstance(settings, ConditionalSettings) else settings.kind


def heavy(settings: Settings, numbers: int) -> bool:
    """Whether fitting to so many numbers (rows times latents) is faster on several threads; not in small steps."""
    inner = settings.base if isinstance(settings, ConditionalSettings) else settings
    return threads.large(numbers) and not isinstance(inner, Schedule | SharedNUTSSettings)


def takes_long(settings: Settings) -> bool:
    """Whether a fit is more than one pass over the posteriors; of a kind that is not known here it may be."""
    return settings.kind not in ABOUT or not ABOUT[settings.kind].quick


def load(path: str | Path) -> LatentDistribution:
    """Read a latent distribution from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or no latent distribution.
    """
    found = artifact.read(path)
    if not found.kind.startswith("latent/"):
        raise ArtifactError(f"{path}: expected a latent distribution, got an artefact of kind {found.kind}")
    return distribution.rebuild(found.kind.removeprefix("latent/"), found.config, found.tensors())
