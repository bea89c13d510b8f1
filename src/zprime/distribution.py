"""The contract of a latent distribution: anything that may stand where the prior stood."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact
from zprime.arrays import check_matrix
from zprime.as_torch import TorchDistribution
from zprime.components import Diagonal, Full, Tilted
from zprime.errors import ArtifactError
from zprime.notebook import box, size
from zprime.progress import Progress, silent

Density = Literal["exact", "bound", "estimate", "none"]
"""What `log_prob` is.

`exact`: log r(z), up to rounding. `estimate`: close to it, on either side. `bound`: a fixed function of z, made with
random numbers; at every z its expectation over these is at most log r(z), but as made it may lie above. `none`: the
kind consists of draws, and `log_prob` raises.
"""

REGISTRY: dict[str, type["LatentDistribution"]] = {}
"""Kind -> class, for loading: filled as classes are defined (importing `zprime.latent` defines all of them)."""


class LatentDistribution(ABC):
    """Draws z', knows log r(z). Complete once constructed: there is no unfitted object, and none changes.

    Every subclass is final, names its `kind`, and is rebuilt exactly from `config()` and `tensors()`;
    saving and loading are written once, here.
    """

    kind: ClassVar[str]
    density_of_kind: ClassVar[Density] = "exact"
    stores_rows: ClassVar[bool] = False
    """Whether what is stored are functions of single training rows."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter a final class in the registry, by its kind."""
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            REGISTRY[cls.kind] = cls

    @property
    @abstractmethod
    def d(self) -> int:
        """Latent dimension."""

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log r(z) in nats, float64."""

    @abstractmethod
    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws z'."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All arrays that the distribution consists of."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that is not an array, JSON-able."""

    @classmethod
    @abstractmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "LatentDistribution":
        """Make the distribution that gave this `config()` and these `tensors()`."""

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Log E_q[r/p] and draws of q_r for q = N(mean, scale^2), p = N(0, I); None where no closed form is known."""
        return None

    @property
    def density(self) -> Density:
        """What `log_prob` of this very object is (a wrapper asks what it wraps)."""
        return self.density_of_kind

    @property
    def holds_rows(self) -> bool:
        """Whether this very object stores functions of single training rows (a wrapper asks what it wraps)."""
        return self.stores_rows

    @property
    def bytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def label(self) -> str:
        """A short name for tables, e.g. `mixture(20)`."""
        return self.kind

    def as_torch(self, *, validate_args: bool | None = None) -> TorchDistribution:
        """As a `torch.distributions.Distribution` of event shape [d], e.g. for a prior in Pyro."""
        return TorchDistribution(self, validate_args=validate_args)

    def __repr__(self) -> str:
        return f"<{self.label}: d={self.d}, {self.bytes} bytes>"

    def save(self, path: str | Path, *, key: str = "", seed: int | None = None, **inputs: str) -> artifact.Artifact:
        """Write the artefact folder of this distribution."""
        manifest = artifact.Manifest(f"latent/{self.kind}", self.config(), key, seed, inputs)
        return artifact.write(path, manifest, tensors=self.tensors())


class GaussianDistribution(LatentDistribution):
    """A latent distribution that is one Gaussian or a mixture of them: density, draws and tilt are closed forms."""

    @property
    @abstractmethod
    def components(self) -> Diagonal | Full:
        """The mixture that this distribution is."""

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.components.d

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        return self.components.log_prob(check_matrix("z", z, d=self.d))

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Ancestral draws."""
        return self.components.sample(n, rng=rng)

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form (docs/theory.md, section 3)."""
        return self.components.tilt(mean, scale, draws=draws, rng=rng)


L = TypeVar("L", bound=LatentDistribution, covariant=True)


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: `ok`, or a sentence saying what happened, why it usually does, and what to change."""

    ok: bool = True
    message: str = "converged"


@dataclass(frozen=True)
class Fit(Generic[L]):
    """What `fit` returns.

    Attributes:
        distribution: the fitted latent distribution, ready to use whatever the outcome says.
        outcome: how the fit ended.
        trace: name -> one number a step, e.g. the bound of an EM.
        chosen: settings that the selection split decided, e.g. {"components": 64}.
        curve: what they were chosen from, one dictionary a value tried.
        seconds: CPU time of the fit, all threads; None if it was not measured.
    """

    distribution: L
    outcome: Outcome = field(default_factory=Outcome)
    trace: dict[str, list[float]] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None

    def _repr_html_(self) -> str:
        """What was fitted and how it ended, in a notebook."""
        r = self.distribution
        rows = [
            ("dimensions", r.d),
            ("stored", size(r.bytes) + (", functions of single training rows" if r.holds_rows else "")),
            ("log-density", r.density),
            ("outcome", self.outcome.message if self.outcome.ok else f"not well: {self.outcome.message}"),
            *((f"chosen: {k}", v) for k, v in self.chosen.items()),
        ]
        return box(r.label, rows)


@runtime_checkable
class Settings(Protocol):
    """How to fit one kind: a frozen dataclass with defaults that work."""

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def fit(
        self, train: Any, *, selection: Any, context: Any, rng: torch.Generator, progress: Progress = silent
    ) -> Fit[LatentDistribution]:
        """Fit to `train` posteriors; choose what has to be chosen on `selection` posteriors."""
        ...


def fields(settings: Settings) -> dict[str, Any]:
    """What settings hold, JSON-able; settings inside them with their kind."""
    out: dict[str, Any] = asdict(settings)  # type: ignore[call-overload]
    for name in out:
        inner = getattr(settings, name)
        if isinstance(inner, Settings):
            out[name] = {"kind": inner.kind, **fields(inner)}
    return out


def rebuild(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
    """Rebuild a distribution of `kind` from its parts.

    Raises:
        ArtifactError: unknown kind, or parts that do not fit together.
    """
    if kind not in REGISTRY:
        raise ArtifactError(
            f"unknown kind of latent distribution {kind!r}; this zprime knows {', '.join(sorted(REGISTRY))}"
        )
    try:
        return REGISTRY[kind].rebuild(config, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ArtifactError(
            f"latent distribution {kind}: its configuration and tensors do not fit together ({error!r})"
        ) from error
