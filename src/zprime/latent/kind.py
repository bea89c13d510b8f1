"""The contract of a kind: its settings say how to fit it, a task says what to fit it to, a fit is the result."""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

import torch

from zprime import threads
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.memory import size
from zprime.posteriors import WORDS, Form, Posteriors
from zprime.progress import Progress, silent
from zprime.results.facts import Chosen, CurvePoint, Setting
from zprime.results.kept import kept
from zprime.results.thresholds import THRESHOLDS
from zprime.tables import facts, to_html
from zprime.vae import Model

LEAST_ROWS = THRESHOLDS.least_rows
"""Effective rows that every stored component of a fit has at least, where nothing else is said."""

FORMS: frozenset[Form] = frozenset({"diagonal", "full", "points"})
"""Every form of posteriors: for fits that use moments and draws of them alone."""

Need = Literal["encoder", "decoder", "rows", "labels"]
"""What a fit may need beside the means and scales of posteriors."""


@dataclass(frozen=True)
class Context:
    """The model that made the posteriors, and the rows they belong to (row i of `train` made posterior i)."""

    model: Model
    train: Rows
    selection: Rows


@dataclass(frozen=True)
class Task:
    """What a kind is fitted to.

    Attributes:
        train: posteriors of the training split, which r is fitted to.
        selection: posteriors of the selection split, which settings are chosen on.
        prior: p(z), what the VAE was trained with; N(0, I) is `Prior(d)`.
        rng: source of every random number.
        context: model and rows, or None where there are posteriors alone.
        progress: called by long fits.
    """

    train: Posteriors
    selection: Posteriors
    prior: LatentDistribution
    rng: torch.Generator
    context: Context | None = None
    progress: Progress = silent

    def need_form(self, settings: "Settings") -> None:
        """Raise `UsageError` where the fit of these settings is not written for posteriors of this form."""
        if self.train.form not in settings.takes:
            known = " or ".join(WORDS[f] for f in sorted(settings.takes))
            raise UsageError(
                f"kind {settings.kind}: takes {known}, and these posteriors are {WORDS[self.train.form]}; leave it "
                "out, or fit gaussian, mixture or flow"
            )
        if self.train.datum is not None and not settings.parts:
            raise UsageError(
                f"kind {settings.kind}: takes one Gaussian a datum, and these posteriors have several parts; "
                f"{settings.instead_of_parts}"
            )

    def need_context(self, kind: str) -> Context:
        """Model and rows, for a kind that cannot be fitted without them.

        Raises:
            UsageError: there are none.
        """
        if self.context is None:
            raise UsageError(f"kind {kind}: needs the model and the rows, not posteriors alone; give fit() a context")
        return self.context


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: `ok`, or a sentence saying what happened, why it usually does, and what to change."""

    ok: bool = True
    message: str = "converged"


L = TypeVar("L", bound=LatentDistribution, covariant=True)


@dataclass(frozen=True)
class Fit(Generic[L]):
    """What a fit returns.

    Attributes:
        distribution: the fitted latent distribution, ready to use whatever the outcome says.
        outcome: how the fit ended.
        trace: name -> one number a step, e.g. the bound of an EM.
        chosen: what the selection split decided.
        curve: what a setting was chosen from, one point for each value that was tried.
        seconds: CPU time of the fit, all threads; None if it was not measured.
        settings: name -> value, of the settings that it was fitted with; those of a base as `base.NAME`.
    """

    distribution: L
    outcome: Outcome = field(default_factory=Outcome)
    trace: dict[str, list[float]] = field(default_factory=dict)
    chosen: Chosen = field(default_factory=Chosen)
    curve: list[CurvePoint] = field(default_factory=list)
    seconds: float | None = None
    settings: dict[str, Setting] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """What was fitted and how it ended, in a notebook."""
        r = self.distribution
        decided = {"epsilon": self.chosen.epsilon, "active": self.chosen.active, **self.chosen.settings}
        rows = [
            ("dimensions", r.d),
            ("stored", size(r.bytes)),
            ("rows", kept(r.least_rows, stored=r.bytes)),
            ("log-density", r.density),
            ("outcome", self.outcome.message if self.outcome.ok else f"not well: {self.outcome.message}"),
            *((f"chosen: {k}", v) for k, v in decided.items() if v is not None),
        ]
        return to_html(facts(r.label, rows))


@dataclass(frozen=True)
class About:
    """What a user wants to know of a kind before fitting it.

    Attributes:
        stores: what a shipped model carries; N rows, d latents, K components.
        cost: of the fit.
        when: when to use it.
    """

    stores: str
    cost: str
    when: str


@dataclass(frozen=True)
class Settings(ABC):
    """How to fit one kind: a frozen dataclass whose defaults work.

    Every subclass that names a `kind` is final, and its kind is that of the distributions it fits.
    """

    kind: ClassVar[str]
    about: ClassVar[About]
    needs: ClassVar[frozenset[Need]] = frozenset()
    quick: ClassVar[bool] = False
    """Whether a fit is one pass over the posteriors at most."""
    small_steps: ClassVar[bool] = False
    """Whether a fit takes many steps on little data each, where several threads are slower than one."""
    takes: ClassVar[frozenset[Form]] = frozenset({"diagonal"})
    """What posteriors a fit is written for; see `Posteriors.form`."""
    parts: ClassVar[bool] = False
    """Whether a fit is right where several rows are parts of one datum's posterior; see `Posteriors.datum`."""
    instead_of_parts: ClassVar[str] = "leave it out, or fit gaussian, mixture or flow"
    """What to do where it is not, in words."""
    whole: ClassVar[bool] = False
    """Whether a fit takes all dimensions, never some of them, e.g. because they are a grid."""
    has_density: ClassVar[bool] = True
    """Whether what is fitted knows log r(z)."""
    added: ClassVar[frozenset[str]] = frozenset()
    """Settings that came later: where they have their default no key and no record has them, so older fits stay."""

    @property
    def name(self) -> str:
        """What a fit is called where nothing else is said: its kind, with what sets it apart from others of it."""
        return self.kind

    def heavy(self, numbers: int) -> bool:
        """Whether fitting to so many numbers (rows times latents) is faster on several threads."""
        return threads.large(numbers) and not self.small_steps

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used, whatever the posteriors are."""
        return  # what has nothing to set has nothing to check

    @abstractmethod
    def fit(self, task: Task) -> Fit[LatentDistribution]:
        """Fit to the training posteriors; choose what has to be chosen on those of the selection split."""


def check_least_rows(value: float) -> None:
    """Raise `UsageError` for a `least_rows` that cannot be used."""
    if not 0 <= value < math.inf:
        raise UsageError(f"least_rows: expected a number of rows, or 0 to keep all components, got {value:g}")


def check_tolerance(value: float) -> None:
    """Raise `UsageError` for a `tolerance` that cannot be used."""
    if not 0 <= value < math.inf:
        raise UsageError(f"tolerance: expected a number of nats from 0 on, got {value:g}")


def described(settings: Settings) -> dict[str, Setting]:
    """The values of settings by name, for a record of the fit; of settings inside them as `base.NAME`."""
    values: dict[str, Setting] = {}
    unsaid = _unsaid(settings)
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if f.name in unsaid:
            continue
        if isinstance(value, Settings):
            values[f.name] = value.kind
            values |= {f"{f.name}.{name}": inner for name, inner in described(value).items()}
        else:
            values[f.name] = list(value) if isinstance(value, tuple) else value
    return values


def fields(settings: Settings) -> dict[str, object]:
    """The values of settings by name, JSON-able; of settings inside them also the kind."""
    values: dict[str, object] = {k: v for k, v in asdict(settings).items() if k not in _unsaid(settings)}
    for name in values:
        inner = getattr(settings, name)
        if isinstance(inner, Settings):
            values[name] = {"kind": inner.kind, **fields(inner)}
    return values


def _unsaid(settings: Settings) -> set[str]:
    """Settings that came later and have their default."""
    added = (f for f in dataclasses.fields(settings) if f.name in settings.added)
    return {f.name for f in added if getattr(settings, f.name) == f.default}
