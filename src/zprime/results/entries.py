"""The rows of an audit's table: one entry for every latent distribution, with its gains."""

from dataclasses import dataclass, field

from zprime.results.facts import Chosen, CurvePoint, Setting
from zprime.results.kept import kept
from zprime.results.names import CandidateId, Gain
from zprime.statistics.estimate import Estimate


@dataclass(frozen=True)
class Score:
    """One gain of one candidate on one split.

    Attributes:
        gain: mean over rows, with its error.
        median: median over rows.
        above: proportion of rows above 0.
        below: proportion of rows below -5 nats (`Thresholds.lost`).
        diverged: rows whose value is infinite; they are not in `gain`.
        khat: proportion of rows with Pareto k-hat above 0.7 (`Thresholds.khat`; likelihood gain only).
    """

    gain: Estimate
    median: float
    above: float
    below: float
    diverged: int = 0
    khat: float | None = None


@dataclass(frozen=True)
class Scores:
    """The gains of one candidate on one split; None for what was not measured.

    Attributes:
        elbo: change of the ELBO with the encoder as it is.
        exact_posterior: what log p(x) would gain if q were the posterior.
        likelihood: change of log p(x) with the decoder.
    """

    elbo: Score
    exact_posterior: Score | None = None
    likelihood: Score | None = None

    def of(self, gain: Gain) -> Score | None:
        """One of the three."""
        by_gain: dict[Gain, Score | None] = {
            Gain.ELBO: self.elbo,
            Gain.EXACT_POSTERIOR: self.exact_posterior,
            Gain.LIKELIHOOD: self.likelihood,
        }
        return by_gain[gain]

    @property
    def measured(self) -> list[Gain]:
        """The gains that were measured, in the order of the table."""
        return [g for g in Gain if self.of(g) is not None]

    @property
    def surest(self) -> Gain:
        """The likelihood gain where it was measured, else the ELBO gain: what is drawn and quoted."""
        return Gain.ELBO if self.likelihood is None else Gain.LIKELIHOOD


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        id: which candidate, e.g. `aggregated+p10`; or which distribution itself, shown for information: `aggregated`.
        kind: of latent distribution, e.g. `mixture`; of its base, where the prior is mixed in or some dimensions are
            inactive.
        label: what it is, e.g. `mixture(20) + 10 % p`.
        epsilon: share of the prior that is mixed in.
        bytes: stored.
        holds_rows: whether functions of single training rows are stored.
        least_rows: effective training rows behind the stored component that has fewest (Kish 1965); None where none
            were counted.
        scores: split -> the gains.
        gloss: what the kind is, in a few words; may be empty.
        settings: name -> value, of the kind's fit; empty where nothing was fitted.
        outcome: how its fit ended.
        chosen: what the selection split decided in its fit.
        curve: what that was chosen from.
        draws_per_second: draws z' per CPU second.
        seconds: CPU time of its fit, all threads; None where nothing was fitted, or it was not measured.
        density: what its log r(z) is: `exact`, a `bound` or an `estimate`; the error of the latter two is in its gains.
    """

    id: CandidateId
    kind: str
    label: str
    epsilon: float
    bytes: int
    holds_rows: bool
    scores: dict[str, Scores]
    gloss: str = ""
    settings: dict[str, Setting] = field(default_factory=dict)
    outcome: str = ""
    chosen: Chosen = field(default_factory=Chosen)
    curve: list[CurvePoint] = field(default_factory=list)
    draws_per_second: float = 0.0
    seconds: float | None = None
    least_rows: float | None = None
    density: str = "exact"

    @property
    def name(self) -> str:
        """As the command line and JSON call it, e.g. `aggregated+p10`."""
        return str(self.id)

    @property
    def eligible(self) -> bool:
        """Whether a verdict could choose it."""
        return self.id.eligible

    @property
    def kept(self) -> str:
        """What is stored of single training rows, in words."""
        return kept(self.least_rows, stored=self.bytes)

    @property
    def title(self) -> str:
        """As tables call it: what it is, and what its user calls it."""
        return self.label if self.label.startswith(self.id.name) else f"{self.id.name}: {self.label}"

    @property
    def heldout(self) -> Scores:
        """Its gains on the held-out split."""
        return self.scores["heldout"]
