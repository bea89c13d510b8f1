"""The contract of a latent distribution: anything that may stand where the prior stood."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from zprime import artifact
from zprime.arrays import check_matrix, standard_log_prob
from zprime.as_torch import TorchDistribution
from zprime.components import Diagonal, Full, Tilted
from zprime.errors import UsageError
from zprime.low_rank import LowRank
from zprime.memory import size
from zprime.results.kept import kept
from zprime.schema import FINITE, LARGEST, LATENTS, Array, Real, Refused, Schema, Whole, guarded, need
from zprime.tables import facts, to_html

Density = Literal["exact", "bound", "estimate", "none"]
"""What `log_prob` is.

`exact`: log r(z), up to rounding. `estimate`: close to it, on either side. `bound`: a fixed function of z, made with
random numbers; at every z its expectation over these is at most log r(z), but as made it may lie above. `none`: the
kind consists of draws, and `log_prob` raises.
"""

NESTED = 8
"""How deep wrappers may be nested."""
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
    """Whether the kind stores rows one by one by its definition, however it is fitted."""
    only_shown: ClassVar[bool] = False
    """Whether it is there for the answer to the question only: no verdict may choose it."""
    schema: ClassVar[Schema] = Schema(tensors={"*": Array({"*": FINITE}, "any")})
    """What `config()` and `tensors()` hold; checked before `rebuild` is called."""

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
        """Make the distribution that gave this `config()` and these `tensors()`, which fit the `schema`."""

    def tilt(
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """Log E_q[r/p] and draws of q_r for q = N(mean, scale^2), p = N(0, I); None where no closed form is known."""
        return None

    @property
    def density(self) -> Density:
        """What `log_prob` of this very object is (a wrapper asks what it wraps)."""
        return self.density_of_kind

    def replicates(self) -> Sequence["LatentDistribution"]:
        """The same distribution with its log-density made again: with other random numbers, or by a finer method.

        For kinds whose `density` is a bound or an estimate; the same objects after saving and loading. The root mean
        square distance of a mean of their log-densities from that of this one must be at least its standard error, so
        that an audit can put it into the intervals of the gains. Independent replicates (other seeds) are on average
        sqrt(2) standard errors away. Empty where the density is exact, or where its error is not known.
        """
        return ()

    @property
    def least_rows(self) -> float | None:
        """Effective training rows behind the stored component that has fewest (a wrapper asks what it wraps).

        Kish's (1965) number, `(sum_i v_i)^2 / sum_i v_i^2` for rows that enter a component with weights v_i. It is 1
        where rows are stored as they are, and None where no rows were counted: there are no components, as in a flow,
        or the parameters come from elsewhere than a fit.
        """
        return 1.0 if self.stores_rows else None

    @property
    @final
    def holds_rows(self) -> bool:
        """Whether a stored component is a function of a single training row: fewer than 2 effective rows behind it."""
        return self.least_rows is not None and self.least_rows < 2

    @property
    def eligible(self) -> bool:
        """Whether a verdict may choose it, with a share of the prior (a wrapper asks what it wraps)."""
        return not self.only_shown

    @property
    def bytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def label(self) -> str:
        """A short name for tables, e.g. `mixture(20)`."""
        return self.kind

    @property
    def gloss(self) -> str:
        """What the label means, for readers who do not know the kind, e.g. "the posteriors, smoothed"; may be empty."""
        return ""

    def as_torch(self, *, validate_args: bool | None = None) -> TorchDistribution:
        """As a `torch.distributions.Distribution` of event shape [d], e.g. for a prior in Pyro."""
        return TorchDistribution(self, validate_args=validate_args)

    def __repr__(self) -> str:
        return f"<{self.label}: d={self.d}, {self.bytes} bytes>"

    def _repr_html_(self) -> str:
        """What it is and stores, in a notebook."""
        rows = [
            ("dimensions", f"{self.d:,}"),
            ("log r(z)", self.density),
            ("stored", size(self.bytes)),
            ("rows", kept(self.least_rows, stored=self.bytes)),
        ]
        return to_html(facts(f"{self.label}: {self.gloss}" if self.gloss else self.label, rows))

    def save(self, path: str | Path, *, key: str = "", seed: int | None = None, **inputs: str) -> artifact.Artifact:
        """Write the artefact folder of this distribution."""
        manifest = artifact.Manifest(f"latent/{self.kind}", self.config(), key, seed, inputs)
        return artifact.write(path, manifest, tensors=self.tensors())


class GaussianDistribution(LatentDistribution):
    """A latent distribution that is one Gaussian or a mixture of them: density, draws and tilt are closed forms."""

    @property
    @abstractmethod
    def components(self) -> Diagonal | Full | LowRank:
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
        self,
        mean: Float[Tensor, "m d"],
        scale: Float[Tensor, "m d"] | Float[Tensor, "m d d"],
        *,
        draws: int,
        rng: torch.Generator,
    ) -> Tilted | None:
        """Closed form (docs/theory.md, section 3)."""
        return self.components.tilt(mean, scale, draws=draws, rng=rng)


@final
@dataclass(frozen=True, repr=False)
class Prior(GaussianDistribution):
    """N(0, tau^2 I) in `dim` dimensions: nothing is stored.

    Raises:
        UsageError: tau is not above 0.
    """

    kind: ClassVar[str] = "prior"
    schema: ClassVar[Schema] = Schema({"dim": Whole(1, LATENTS), "tau": Real(1 / LARGEST)})
    dim: int
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise UsageError(f"tau: expected a standard deviation above 0, got {self.tau:g}; 1 is the VAE's own prior")

    @property
    def components(self) -> Diagonal:
        """One Gaussian."""
        return Diagonal(torch.zeros(1), torch.zeros(1, self.dim), torch.full((1, self.dim), float(self.tau)))

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Exact log r(z) in nats, float64.

        Raises:
            ArrayError: `z` is not a finite [n, d] matrix.
        """
        check_matrix("z", z, d=self.dim)
        if self.tau == 1:
            return standard_log_prob(z)
        return standard_log_prob(z.double() / self.tau) - self.dim * math.log(self.tau)

    @property
    def label(self) -> str:
        """With tau where it is not 1."""
        return "prior" if self.tau == 1 else f"prior({self.tau:g})"

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def config(self) -> dict[str, Any]:
        """The dimension and tau."""
        return {"dim": self.dim, "tau": self.tau}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the dimension and tau."""
        return cls(int(config["dim"]), float(config["tau"]))


def is_standard(r: LatentDistribution) -> bool:
    """Whether `r` is N(0, I)."""
    return isinstance(r, Prior) and r.tau == 1


def need_standard(prior: LatentDistribution, what: str) -> None:
    """Refuse a prior other than N(0, I), for a closed form that is known for N(0, I) alone.

    Raises:
        UsageError: `prior` is another one.
    """
    if not is_standard(prior):
        raise UsageError(
            f"{what}: its closed form is known for the prior N(0, I) only, got {prior.label}; "
            "other priors are not supported by this kind yet: leave it out"
        )


def rebuild(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: Path | str = "latent distribution"
) -> LatentDistribution:
    """Rebuild a distribution of `kind` from its parts, after they were compared with its schema.

    Args:
        kind: of the distribution.
        config: what its `config()` gave.
        tensors: what its `tensors()` gave.
        where: folder that they were read from, for the message.

    Raises:
        ArtifactError: unknown kind, or parts that it does not have or that do not fit together.
    """
    with guarded(where, "fit it again"):
        deep = _depth({name: value for name, value in config.items() if name != "fit"})
        need("config", deep <= 2 * NESTED, f"at most {NESTED} distributions inside each other", deep // 2)
        return part("", {"kind": kind, "config": config}, tensors)


def part(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
    """Rebuild a distribution inside another one; for the `rebuild` of kinds that wrap others.

    Args:
        name: of the part; its tensors are those whose names begin with it and a dot. All of them where it is empty.
        described: `kind` and `config`.
        tensors: those of the whole.

    Raises:
        Refused: unknown kind, or parts that it does not have.
    """
    kind, config = described["kind"], described["config"]
    own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")} if name else tensors
    try:
        need("kind", kind in REGISTRY, f"one of {', '.join(sorted(REGISTRY))}", kind)
        REGISTRY[kind].schema.check(config, own)
        return REGISTRY[kind].rebuild(config, own)
    except Refused as error:
        raise error.inside(name or kind) from error


def _depth(config: Mapping[str, Any]) -> int:
    """How many mappings lie inside each other."""
    level, deep = [config], 0
    while level:
        inner = [v for c in level for v in c.values()]
        level = [v for x in inner for v in (x if isinstance(x, list) else [x]) if isinstance(v, Mapping)]
        deep += 1
    return deep - 1
