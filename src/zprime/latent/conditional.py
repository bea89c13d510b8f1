"""conditional: one latent distribution for every label, r(z|y), from a VAE that knows no labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime import distribution
from zprime.arrays import cholesky, weighed
from zprime.components import Tilted, choose, choose_rows
from zprime.distribution import REGISTRY, Density, LatentDistribution
from zprime.errors import ArrayError, UsageError
from zprime.latent.active import Active
from zprime.latent.defensive import Defensive
from zprime.latent.gaussian import Gaussian, moments
from zprime.latent.kind import FORMS, LEAST_ROWS, About, Context, Fit, Need, Outcome, Settings, Task, check_least_rows
from zprime.latent.mixture import MixtureSettings
from zprime.posteriors import Form, MemoryPosteriors
from zprime.results.facts import Chosen
from zprime.rng import fork
from zprime.schema import ANY, LOG_WEIGHTS, WHOLE, Array, Items, Part, Schema, Whole, need

FEWEST = 20
"""A label with fewer rows gets one Gaussian; the covariance within all labels then counts like that many rows."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Conditional(LatentDistribution):
    """r(z) = sum_y w_y r(z|y); `given(y)` is r(z|y), `weighted({y: w})` a population with other weights w."""

    kind: ClassVar[str] = "conditional"
    schema: ClassVar[Schema] = Schema(
        {"labels": Items(Whole(-WHOLE), 1, size="k"), "bases": Items(Part(), size="k")},
        {"log_weight": Array({"k": LOG_WEIGHTS}, "real"), "*": Array({"*": ANY}, "any")},
    )
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
        densities = {b.density for b in self.bases}
        ranked: tuple[Density, ...] = ("none", "estimate", "bound")
        return next((d for d in ranked if d in densities), "exact")

    def replicates(self) -> Sequence[LatentDistribution]:
        """All parts replaced together; a part with fewer replicates than another uses them again."""
        others = [b.replicates() or [b] for b in self.bases]
        count = max(map(len, others)) if any(b.replicates() for b in self.bases) else 0
        return [replace(self, bases=tuple(o[i % len(o)] for o in others)) for i in range(count)]

    @property
    def least_rows(self) -> float | None:
        """The fewest of any part in which rows were counted."""
        return min((b.least_rows for b in self.bases if b.least_rows is not None), default=None)

    @property
    def eligible(self) -> bool:
        """Whether all parts are."""
        return all(b.eligible for b in self.bases)

    @property
    def gloss(self) -> str:
        """What it is, for readers who do not know the kind."""
        return f"Gaussians fitted to the posteriors of each of {len(self.labels)} labels"

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
            known = ", ".join(map(str, self.labels))
            raise UsageError(
                f"label: expected one of {known}, got {label}; labels with few rows are left out of a fit "
                "(conditional.least_rows=0 keeps them)"
            )
        return self.bases[self.labels.index(label)]

    def weighted(self, weights: Mapping[int, float]) -> "Conditional":
        """The same parts in a population with other weights of the labels (they are normalised).

        Raises:
            UsageError: an unknown label, a negative weight, or no weight above 0.
        """
        if any(v < 0 for v in weights.values()) or not sum(weights.values()) > 0:
            raise UsageError(f"weights: expected numbers >= 0, one above 0, got {dict(weights)}")
        parts = tuple(self.given(y) for y in weights)
        w = torch.tensor(list(weights.values()), dtype=torch.float64)
        return Conditional(tuple(weights), (w / w.sum()).log(), parts)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log sum_y w_y r(z|y) in nats, float64."""
        parts = torch.stack([b.log_prob(z) for b in self.bases])
        return torch.logsumexp(parts + self.log_weight.double()[:, None], 0)

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """A label by its weight, then z' given it."""
        return self.sample_labelled(n, rng=rng)[0]

    def sample_labelled(self, n: int, *, rng: torch.Generator) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Draws, and the labels that they were drawn for."""
        which = choose(self.log_weight, n, rng)
        counts = torch.bincount(which, minlength=len(self.bases)).tolist()
        by_label = torch.cat([base.sample(count, rng=rng) for base, count in zip(self.bases, counts, strict=True)])
        # row i goes where label i was
        z = by_label[which.argsort(stable=True).argsort()]
        return z, torch.tensor(self.labels, device=which.device)[which]

    def tilt(
        self, mean: Float[Tensor, "m d"], scale: Float[Tensor, "m d"], *, draws: int, rng: torch.Generator
    ) -> Tilted | None:
        """Closed form where every part has one."""
        tilts = [b.tilt(mean, scale, draws=draws, rng=rng) for b in self.bases]
        known = [t for t in tilts if t is not None]
        if len(known) < len(tilts):
            return None
        terms = weighed(torch.stack([t.log_ratio for t in known], 1), self.log_weight.double())
        ratio = torch.logsumexp(terms, 1)
        if not draws:
            return Tilted(ratio, known[0].draws)
        u = torch.rand(len(mean), draws, generator=rng, dtype=torch.float64, device=mean.device)
        which = choose_rows(terms, u)
        of_parts = torch.stack([t.draws.double() for t in known], 2)  # [m, draws, k, d]
        return Tilted(ratio, of_parts.gather(2, which[..., None, None].expand(-1, -1, 1, self.d))[:, :, 0])

    def tensors(self) -> dict[str, Tensor]:
        """Those of every part."""
        tensors = {"log_weight": self.log_weight}
        for y, base in zip(self.labels, self.bases, strict=True):
            tensors |= {f"{y}.{k}": v for k, v in base.tensors().items()}
        return tensors

    def config(self) -> dict[str, Any]:
        """The labels and the parts."""
        return {"labels": list(self.labels), "bases": [{"kind": b.kind, "config": b.config()} for b in self.bases]}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From the parts."""
        labels = config["labels"]
        need("labels", len(set(labels)) == len(labels), "different labels", labels)
        described = zip(labels, config["bases"], strict=True)
        bases = tuple(distribution.part(str(y), base, tensors) for y, base in described)
        dims = sorted({b.d for b in bases})
        need("bases", len(dims) == 1, "parts of one dimension", dims)
        return cls(tuple(labels), tensors["log_weight"], bases)


def given(r: LatentDistribution, label: int) -> LatentDistribution:
    """r(z|y): a conditional distribution's part for one label, also of one that is wrapped (`Defensive`, `Active`).

    Raises:
        UsageError: `r` is not conditional, or no rows had this label.
    """
    if isinstance(r, Defensive):
        return given(r.base, label)
    if isinstance(r, Active):
        return Active(given(r.base, label), r.dims, r.dim)
    if not isinstance(r, Conditional):
        raise UsageError(f"given: expected a conditional latent distribution, got {r.label}")
    return r.given(label)


def labels_of(r: LatentDistribution) -> tuple[int, ...]:
    """The labels that `given` knows; none if `r` is not conditional."""
    if isinstance(r, Defensive | Active):
        return labels_of(r.base)
    return r.labels if isinstance(r, Conditional) else ()


@final
@dataclass(frozen=True)
class ConditionalSettings(Settings):
    """Fit another kind a label, on the rows that have it.

    A label with fewer than 20 rows gets one Gaussian: its own mean, and a covariance that is shrunk towards the one
    within all labels, `(n S_y + 20 S) / (n + 20)` (regularised discriminant analysis, Friedman 1989).

    Attributes:
        base: the kind, and its settings; any kind that has a density, but not another conditional one.
        least_rows: effective rows that a label has at least; labels with fewer are left out, and their weight goes to
            the others. 0 keeps every label, and so does a base that stores rows by its definition.
    """

    kind: ClassVar[str] = Conditional.kind
    takes: ClassVar[frozenset[Form]] = FORMS
    parts: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "K d^2 numbers a label",
        "as mixture (or another base)",
        "generate by label, or a population with other weights of the labels",
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    base: Settings = MixtureSettings()
    least_rows: float = LEAST_ROWS

    @property
    def name(self) -> str:
        """`conditional`, with the kind of its parts where that is not a mixture."""
        return self.kind if self.base.kind == MixtureSettings.kind else f"{self.kind}-{self.base.kind}"

    def heavy(self, numbers: int) -> bool:
        """As fitting the base is."""
        return self.base.heavy(numbers)

    def check(self) -> None:
        """Raise `UsageError` for `least_rows` below 0, or a base that cannot be conditioned or has such a value."""
        check_least_rows(self.least_rows)
        if "labels" in self.base.needs:
            raise UsageError(f"base: expected a kind that needs no labels itself, got {self.base.kind}")
        self.base.check()

    def fit(self, task: Task) -> Fit[LatentDistribution]:
        """Fit each label's part on its rows, and choose what has to be chosen on its rows of the selection split.

        Where no label has enough rows, the prior, and an outcome that says so.

        Raises:
            ArrayError: the posteriors carry no labels.
            UsageError: a base that cannot be conditioned, or `least_rows` below 0.
        """
        train = task.train
        self.check()
        if train.labels is None:
            raise ArrayError("kind conditional: needs labels, and these posteriors have none; give the data set labels")
        task.need_form(self.base)
        data, chooser = train.gather(), task.selection.gather()
        weights = data.log_weights.exp()
        rows = {int(y): (train.labels == y).nonzero().flatten() for y in torch.unique(train.labels)}
        rows = {y: at for y, at in rows.items() if float(weights[at].sum()) > 0}
        few = self._few(rows, data)
        rare = (
            f"{len(few)} of {len(rows)} labels had fewer than {self.least_rows:g} rows and were left out (least_rows)"
        )
        rows = {y: at for y, at in rows.items() if y not in few}
        if not rows:
            return Fit(task.prior, Outcome(ok=False, message=f"{rare}; the prior is returned in its place"))
        weight = torch.stack([weights[at].sum() for at in rows.values()])
        within: Tensor | None = None
        parts: list[LatentDistribution] = []
        notes: dict[str, list[int]] = {}
        for i, (y, at) in enumerate(rows.items()):
            task.progress("conditional", i, len(rows))
            mine = data.take(at)
            if mine.data < FEWEST:
                within = _within(data, rows, weight) if within is None else within
                parts.append(_rare(mine, within))
                notes.setdefault("one Gaussian for labels with few rows", []).append(y)
                continue
            others = _positions(chooser, y)
            part = self.base.fit(
                Task(
                    mine,
                    mine if others is None else chooser.take(others),
                    task.prior,
                    fork(task.rng, "label", y),
                    _narrowed(task.context, at, at if others is None else others, of_train=others is None),
                )
            )
            if part.distribution.density == "none":
                raise UsageError(f"base: expected a kind that has a density, got {self.base.kind}")
            if not part.outcome.ok:
                notes.setdefault(part.outcome.message, []).append(y)
            parts.append(part.distribution)
        task.progress("conditional", len(rows), len(rows))
        said = [f"{text}: {len(labels)} of them" for text, labels in notes.items()] + [rare] * bool(few)
        outcome = Outcome(message="; ".join([f"one part for each of {len(rows)} labels", *said]))
        of_parts = [f"{y}: {p.label}" for y, p in zip(rows, parts, strict=True)]
        by_label: dict[str, list[int] | list[str]] = {"parts": of_parts, "left out": few, **notes}
        chosen = Chosen(settings={name: labels for name, labels in by_label.items() if labels})
        weight = weight / weight.sum() if few else weight
        return Fit(Conditional(tuple(rows), weight.log(), tuple(parts)), outcome, chosen=chosen)

    def _few(self, rows: Mapping[int, Tensor], data: MemoryPosteriors) -> list[int]:
        """Labels with fewer than `least_rows` effective rows."""
        least = 0.0 if REGISTRY[self.base.kind].stores_rows else self.least_rows
        return [y for y, at in rows.items() if data.take(at).effective_rows < least]


def _within(data: MemoryPosteriors, rows: Mapping[int, Tensor], weight: Float[Tensor, " k"]) -> Float[Tensor, "d d"]:
    """Covariance about the means of the labels."""
    covariances = torch.stack([moments(data.take(at))[1] for at in rows.values()])
    return torch.einsum("k,kij->ij", weight / weight.sum(), covariances)


def _rare(mine: MemoryPosteriors, within: Float[Tensor, "d d"]) -> Gaussian:
    """One Gaussian for a label with few rows."""
    mean, covariance = moments(mine)
    shrunk = (mine.data * covariance + FEWEST * within) / (mine.data + FEWEST)
    dtype = mine.mean.dtype
    tril = cholesky("conditional", shrunk).to(dtype)
    return Gaussian(mean.to(dtype), tril, least_rows=mine.effective_rows)


def _positions(posteriors: MemoryPosteriors, label: int) -> Int[Tensor, " m"] | None:
    """Rows of a label that count, or None where there are fewer than two."""
    if posteriors.labels is None:
        return None
    weights = posteriors.log_weights.exp()
    rows = ((posteriors.labels == label) & (weights > 0)).nonzero().flatten()
    return rows if len(rows) > 1 and posteriors.take(rows).data > 1 else None


def _narrowed(
    context: Context | None, train: Int[Tensor, " m"], selection: Int[Tensor, " k"], *, of_train: bool
) -> Context | None:
    """The same model with the rows of one label; `selection` are rows of the training split if `of_train`."""
    if context is None:
        return None
    chooser = context.train if of_train else context.selection
    return Context(context.model, context.train.take(train), chooser.take(selection))
