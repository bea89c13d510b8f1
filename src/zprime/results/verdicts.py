"""The verdicts: by likelihood and for generation."""

from dataclasses import dataclass, field

from zprime.results.likelihood import Exchange
from zprime.results.names import Gain
from zprime.statistics.betting import Bet
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
    """

    name: str
    bytes: int
    gain: Estimate
    behind: float
    behind_stderr: float
    limit: float
    tied: bool


@dataclass(frozen=True)
class Choice:
    """What the selection split says, before the held-out split is opened.

    Attributes:
        best: name of the candidate whose gain is then confirmed on the held-out split or not; `prior` for none.
        gain: which gain chose: the likelihood gain, or the ELBO gain where there is no decoder.
        selection: that gain of `best` on the selection split, nats a row.
        ranking: every candidate on the selection split.
        unchecked: why no exchange check of these posteriors can be made; empty where it can.
    """

    best: str
    gain: Gain
    selection: Estimate
    ranking: list[Ranking]
    unchecked: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict(Decision):
    """What to draw z' from, by likelihood: `prior` unless the decision is to leave it.

    Attributes:
        chosen: the choice on the selection split.
        exchange: whether the likelihood gain of the best may be used; None where nothing was to be checked, or not
            asked for.
        heldout: the gain of the best on the held-out split, nats a row: the likelihood gain, or the ELBO gain where
            there is no decoder; None where that split was not opened.
        bet: the test that this gain is above 0, with its lower limit; None likewise.
        repaired: whether the first check failed, and the gains were measured again with modes that chains found.
    """

    chosen: Choice
    exchange: Exchange | None = None
    heldout: Estimate | None = None
    bet: Bet | None = None
    repaired: bool = False

    @property
    def best(self) -> str:
        """The candidate that looked best on the selection split."""
        return self.chosen.best

    @property
    def after_allowance(self) -> float | None:
        """The held-out gain less what the exchange check takes off it, nats a row."""
        if self.heldout is None or self.exchange is None:
            return None
        return self.heldout.value - self.exchange.allowance


@dataclass(frozen=True)
class GenerationVerdict(Decision):
    """What to draw z' from to generate.

    Attributes:
        decision: may also be `none of these`; then `choice` is the best of the candidates.
        ranking: name -> `copies`, `not cleared`, `loses modes`, `behind`, `covers less`, `tied` or `best`, on the
            selection split.
        numbers: `prior`, `choice`, `reconstructions`, `real rows` (Frechet distances on the held-out split), `gain`
            (the prior's less the choice's), `coverage gain`, `decoder` (the reconstructions' less the real rows'),
            `latents` (the choice's less the reconstructions'), `excess` (`latents` less `decoder`), and the last two
            `of the prior`.
        best: the candidate that was chosen on the selection split; the held-out split was opened for it.
        fault: what `none of these` is about: `decoder`, `latents`, `both` (neither part of the distance is measurably
            the larger), `collapse` (the decoder ignores z) or `copies` (the prior's samples copy); else empty.
        copying: name -> status of the copying test of fresh draws beside the held-out split, of `prior` and of `best`.
    """

    ranking: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Estimate] = field(default_factory=dict)
    best: str = "prior"
    fault: str = ""
    copying: dict[str, str] = field(default_factory=dict)


def worst(*statuses: str) -> str:
    """The worst of some statuses of the copying test: `copies`, else `untested`, else `passes`."""
    return next((s for s in ("copies", "untested") if s in statuses), "passes")
