"""conditional: one latent distribution for every label, r(z|y), from a VAE that knows no labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import distribution
from zprime.components import Tilted, choose, choose_rows
from zprime.distribution import Density, Fit, LatentDistribution, Outcome, Progress, Settings, silent
from zprime.errors import ArrayError, UsageError
from zprime.latent.gaussian import GaussianSettings
from zprime.latent.mixture import MixtureSettings
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import fork

FEWEST = 20
"""Rows of a label below which its own fit is one Gaussian."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Conditional(LatentDistribution):
    """r(z) = sum_y w_y r(z|y); `given(y)` is r(z|y), `weighted({y: w})` a population with other shares."""

    kind: ClassVar[str] = "conditional"
    labels: tuple[int, ...]
    log_weight: Float[Tensor, " k"]
    bases: tuple[LatentDistribution, ...]

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.bases[0].d

    @property
    def density(self) -> Density:
        """The least exact of the parts'."""
        found = {b.density for b in self.bases}
        ranked: tuple[Density, ...] = ("none", "estimate", "bound")
        return next((d for d in ranked if d in found), "exact")

    @property
    def holds_rows(self) -> bool:
        """As any of the parts does."""
        return any(b.holds_rows for b in self.bases)

    @property
    def label(self) -> str:
        """With the number of labels."""
        return f"conditional({len(self.labels)} labels)"

    def given(self, label: int) -> LatentDistribution:
        """r(z|y), for class-conditional generation.

        Raises:
            UsageError: no rows had this label.
        """
        if label not in self.labels:
            raise UsageError(f"label: expected one of {', '.join(map(str, self.labels))}, got {label}")
        return self.bases[self.labels.index(label)]

    def weighted(self, shares: Mapping[int, float]) -> "Conditional":
        """The same parts in a population with other shares (they are normalised).

        Raises:
            UsageError: an unknown label, a negative share, or no share above 0.
        """
        if any(v < 0 for v in shares.values()) or not sum(shares.values()) > 0:
            raise UsageError(f"shares: expected numbers >= 0, one above 0, got {dict(shares)}")
        parts = tuple(self.given(y) for y in shares)
        weights = torch.tensor(list(shares.values()), dtype=torch.float64)
        return Conditional(tuple(shares), (weights / weights.sum()).log(), parts)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log sum_y w_y r(z|y) in nats, float64."""
        parts = torch.stack([b.log_prob(z) for b in self.bases])
        return torch.logsumexp(parts + self.log_weight.double()[:, None], 0)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """A label by its share, then z' given it."""
        return self.sample_labelled(n, rng=rng)[0]

    def sample_labelled(self, n: int, *, rng: torch.Generator) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Draws, and the labels that they were drawn for."""
        which = choose(self.log_weight, n, rng)
        counts = torch.bincount(which, minlength=len(self.bases)).tolist()
        out = torch.cat([base.sample(count, rng=rng) for base, count in zip(self.bases, counts, strict=True)])
        # drawn label by label; row i goes where label i was
        out = out[which.argsort(stable=True).argsort()]
        return out, torch.tensor(self.labels, device=which.device)[which]

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form where every part has one."""
        tilts = [b.tilt(mean, scale, draws=draws, rng=rng) for b in self.bases]
        known = [t for t in tilts if t is not None]
        if len(known) < len(tilts):
            return None
        terms = torch.stack([t.log_ratio for t in known], 1) + self.log_weight.double()
        ratio = torch.logsumexp(terms, 1)
        if not draws:
            return Tilted(ratio, known[0].draws)
        u = torch.rand(len(mean), draws, generator=rng, dtype=torch.float64, device=mean.device)
        which = choose_rows(terms, u)
        pool = torch.stack([t.draws.double() for t in known], 2)  # [m, draws, k, d]
        out = pool.gather(2, which[..., None, None].expand(-1, -1, 1, self.d))[:, :, 0]
        return Tilted(ratio, out)

    def tensors(self) -> dict[str, Tensor]:
        """Those of every part."""
        out = {"log_weight": self.log_weight}
        for y, base in zip(self.labels, self.bases, strict=True):
            out |= {f"{y}.{k}": v for k, v in base.tensors().items()}
        return out

    def config(self) -> dict[str, Any]:
        """The labels and the parts."""
        return {"labels": list(self.labels), "bases": [{"kind": b.kind, "config": b.config()} for b in self.bases]}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the parts."""
        bases = []
        for y, base in zip(config["labels"], config["bases"], strict=True):
            inner = {k.removeprefix(f"{y}."): v for k, v in tensors.items() if k.startswith(f"{y}.")}
            bases.append(distribution.rebuild(base["kind"], base["config"], inner))
        return cls(tuple(int(y) for y in config["labels"]), tensors["log_weight"], tuple(bases))


@dataclass(frozen=True)
class ConditionalSettings:
    """Fit one mixture a label, on the rows that have it.

    Attributes:
        components: K of each label's mixture; 0 chooses it on the label's rows of the selection split.
        covariance: `full` or `diagonal`.
    """

    kind: ClassVar[str] = "conditional"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    components: int = 0
    covariance: str = "full"

    def fit(
        self,
        train: Posteriors,
        *,
        selection: Posteriors,
        context: Any,
        rng: torch.Generator,
        progress: Progress = silent,
    ) -> Fit[Conditional]:
        """Fit each label's part; a label with fewer than 20 rows gets one Gaussian.

        Raises:
            ArrayError: the posteriors carry no labels.
        """
        if train.labels is None:
            raise ArrayError("kind conditional: needs labels, and these posteriors have none; give the data set labels")
        data, chooser = train.gather(), selection.gather()
        labels = [int(y) for y in torch.unique(train.labels)]
        weights = data.log_weights.exp()
        parts: list[LatentDistribution] = []
        shares: list[float] = []
        small: list[int] = []
        for i, y in enumerate(labels):
            progress("conditional", i, len(labels))
            mine = (train.labels == y).nonzero().flatten()
            settings, others = self._settings(len(mine)), _rows_of(chooser, y)
            if len(mine) < FEWEST:
                small.append(y)
            found = settings.fit(
                data.take(mine), selection=others or data.take(mine), context=None, rng=fork(rng, "label", y)
            )
            parts.append(found.distribution)
            shares.append(float(weights[mine].sum()))
        progress("conditional", len(labels), len(labels))
        outcome = Outcome(message=f"one part for each of {len(labels)} labels")
        if small:
            outcome = Outcome(message=f"{outcome.message}; one Gaussian for labels with few rows: {small}")
        log_weight = torch.tensor(shares, dtype=torch.float64).log()
        chosen = {str(y): p.label for y, p in zip(labels, parts, strict=True)}
        return Fit(Conditional(tuple(labels), log_weight, tuple(parts)), outcome, chosen={"parts": chosen})

    def _settings(self, n: int) -> Settings:
        if n < FEWEST:
            return GaussianSettings(self.covariance)
        return MixtureSettings(min(self.components, n), self.covariance)


def _rows_of(posteriors: InMemory, label: int) -> InMemory | None:
    """The rows of a label, or None where there are fewer than two."""
    if posteriors.labels is None:
        return None
    rows = (posteriors.labels == label).nonzero().flatten()
    return posteriors.take(rows) if len(rows) > 1 else None
