"""The verdicts: by likelihood and for generation."""

from dataclasses import dataclass, field

from zprime.results.names import Gain
from zprime.statistics.estimate import Estimate


@dataclass(frozen=True)
class Decision:
    """What to draw z' from.

    Attributes:
        decision: `leave the prior`, `keep the prior`, `undecided`, or what else the rule can end in.
        choice: name of the candidate to use, e.g. `aggregated+p10`, or `prior`.
        sentence: the verdict in words, to act on.
        why: the numbers it rests on, in words.
    """

    decision: str
    choice: str
    sentence: str
    why: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ranking:
    """One candidate beside the best one on the selection split: what the choice was made from.

    Attributes:
        name: of the candidate, e.g. `aggregated+p10`.
        bytes: what it stores.
        gain: over the prior, the one that chose.
        behind: the best one's gain minus this one's, mean over rows, nats.
        behind_stderr: its standard error, paired over rows.
        limit: max(1 s.e., 0.05 nats); a tie is a difference below it.
        tied: whether this is the best one, or tied with it.
        likelihood: the likelihood gain, even where another gain chose; None where it was not measured.
    """

    name: str
    bytes: int
    gain: Estimate
    behind: float
    behind_stderr: float
    limit: float
    tied: bool
    likelihood: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict(Decision):
    """What to draw z' from, by likelihood: `prior` unless the decision is to leave it.

    Attributes:
        best: the candidate chosen on the selection split, whose gain is then confirmed on the held-out split or not.
        gains: which gains decide: the likelihood gain, or ELBO and exact-posterior gain where the former is not stable.
        numbers: the numbers behind it, of `best`: `selection` and `heldout` (likelihood gain), or `ELBO gain` and
            `exact-posterior gain` on the held-out split.
        needed: what each number on the held-out split had to exceed, max(2 s.e., 0.05 nats).
        ranking: every candidate on the selection split.
    """

    best: str
    gains: list[Gain]
    numbers: dict[str, Estimate] = field(default_factory=dict)
    needed: dict[str, float] = field(default_factory=dict)
    ranking: list[Ranking] = field(default_factory=list)


@dataclass(frozen=True)
class GenerationVerdict(Decision):
    """What to draw z' from to generate.

    Attributes:
        decision: may also be `none of these`; then `choice` is the best of the candidates.
        ranking: name -> `copies`, `loses modes`, `behind`, `covers less`, `tied` or `best`, on the selection split.
        numbers: `prior`, `choice`, `reconstructions`, `real rows` (Frechet distances on the held-out split), `gain`
            (the prior's less the choice's), `coverage gain` and `decoder` (the reconstructions' less the real rows').
    """

    ranking: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Estimate] = field(default_factory=dict)
