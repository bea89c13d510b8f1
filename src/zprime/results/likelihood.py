"""Results of the measures of log p(x), of the encoder and of the estimators."""

from dataclasses import dataclass, field

from zprime.results.names import CandidateId, Gain
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate


@dataclass(frozen=True)
class Units:
    """What a log-likelihood of scaled data is a likelihood of.

    Attributes:
        entries: numbers in a datum, D.
        log_scale: sum of log scale over the entries, `stored = scaled * scale + shift`: log p(x) less it is the
            log-density of the data as stored; 0 for data that are drawn by a discrete p(x|z).
        says: what the figure is, in words.
        meaningful: False where p(x|z) is a probability of 0 and 1 and the data are neither.
    """

    entries: int
    log_scale: float
    says: str
    meaningful: bool = True


@dataclass(frozen=True)
class InferenceGap:
    """`log p(x) = reconstruction - kl + gap` on the rows of one split, under the prior.

    Attributes:
        log_prob: mean log p(x) under the prior, by the draws of the likelihood gain: a lower bound in expectation.
        elbo: mean ELBO.
        reconstruction: mean of E_q[log p(x|z)].
        kl: mean KL(q||p), exact; of posteriors of which only draws are known, the mean of log q - log p at these.
        gap: mean of log p(x) - ELBO, paired over rows: KL(q(z|x) || p(z|x)); a lower bound in expectation, as log p(x)
            is. Stable if it moved by less than 0.2 nats (`Thresholds.drift`) from a quarter of the draws to all.
    """

    log_prob: Estimate
    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    gap: Estimate


@dataclass(frozen=True)
class Calibration:
    """Ranks of the z that made simulated data among draws of the posterior, in every latent and in the distance.

    Attributes:
        source: name of the latent distribution that z was drawn from.
        rows: simulated rows that were ranked.
        dropped: rows left out because q is wider than the prior there and q_r does not exist (a choice by x alone,
            which leaves uniform ranks uniform).
        draws: draws of the posterior that each z was ranked among.
        names: `z1`, `z2`, ..., and `distance`, the Mahalanobis distance from the mean of q, which sees what no single
            latent shows: correlations that a diagonal q leaves out.
        counts: for each name, rows in each of 20 bins of ranks, lowest ranks first.
        low, high: a histogram is within this band in all of its bins with probability 95 % or more if ranks are uniform
            (binomial, Bonferroni over bins).
        bias: for each name, mean rank in units of all ranks, minus 1/2: above 0 where q lies too low.
        spread: for each name, variance of the ranks over that of uniform ranks: above 1 where q is too narrow.
        chi_square: for each name, p-value of Pearson's test of the histogram.
        ks: for each name, p-value of a Kolmogorov-Smirnov test of the ranks, ties broken at random.
        p_value: of all these tests together (smallest times their number).
        seed: of the draws.
    """

    source: str
    rows: int
    dropped: int
    draws: int
    names: list[str]
    counts: list[list[int]]
    low: int
    high: int
    bias: list[Estimate]
    spread: list[Estimate]
    chi_square: list[float]
    ks: list[float]
    p_value: float
    seed: int

    @property
    def calibrated(self) -> bool:
        """Whether no test rejects the encoder at the 5 % level."""
        return self.p_value >= THRESHOLDS.level

    @property
    def outside(self) -> list[str]:
        """Names whose histogram leaves the band."""
        return [
            name
            for name, counts in zip(self.names, self.counts, strict=True)
            if min(counts) < self.low or max(counts) > self.high
        ]


@dataclass(frozen=True)
class Exchange:
    """The exchange check of one candidate: by how much the likelihood gain's estimator misjudges rows of the model.

    An exact gain g = log p_r(x) - log p_p(x) says with which probability a simulated row came from the candidate. The
    check is necessary and not sufficient: simulated rows may have other posteriors than real ones.

    Attributes:
        name: of the candidate.
        rows: simulated from the prior; as many from the candidate, and from each bridge.
        draws: draws a row of the estimator.
        delta: nats a row that g must be shifted by to be right (Bennett 1976); below 0 where it is overstated.
        bridges: distributions between prior and candidate that the shift was found over; 0 where the two overlap.
        on_prior: mean g of rows from the prior; at most 0 if g is exact.
        on_candidate: mean g of rows from the candidate; at least 0 if g is exact.
        informative: whether the error of `delta` is at most half the gain on the selection split.
    """

    name: str
    rows: int
    draws: int
    delta: Estimate
    bridges: int
    on_prior: Estimate
    on_candidate: Estimate
    informative: bool

    @property
    def allowance(self) -> float:
        """Nats that the verdict takes off the gain: what is overstated, and 1.645 standard errors of it."""
        return max(0.0, -self.delta.value) + self._margin

    @property
    def failed(self) -> bool:
        """Whether the gain is overstated by more than 0.05 nats, measurably."""
        return self.delta.value + self._margin < -THRESHOLDS.tie

    @property
    def understated(self) -> bool:
        """Whether the gain is understated by more than 0.05 nats, measurably: safe, but it may hide a better choice."""
        return self.delta.value - self._margin > THRESHOLDS.tie

    @property
    def passed(self) -> bool:
        """Neither failed nor too inaccurate to tell."""
        return self.informative and not self.failed

    @property
    def _margin(self) -> float:
        return THRESHOLDS.confidence * (self.delta.stderr or 0.0)


@dataclass(frozen=True)
class Sandwich:
    """Means over rows simulated from one latent distribution and the decoder; differences are paired over rows.

    Attributes:
        name: of the latent distribution.
        forward: annealed importance sampling, below log p_r(x) in expectation.
        reverse: the same chains in reverse from the z that made x, above it in expectation.
        gap: reverse - forward: on average the truth is no further than this from either. Stable below 1 nat.
        importance: log p_r(x) of the same rows as the likelihood gain estimates it, with the draws and candidates of
            the audit.
        below: importance - forward; above: reverse - importance. `importance` is a lower bound in expectation, so
            `above` is the most that it can be short of the truth, and a negative one would contradict it.
        acceptance: proportion of accepted trajectories.
        temperatures, chains, leapfrog: how long it was annealed.
    """

    name: str
    forward: Estimate
    reverse: Estimate
    gap: Estimate
    importance: Estimate
    below: Estimate
    above: Estimate
    acceptance: float
    temperatures: int
    chains: int
    leapfrog: int


@dataclass(frozen=True)
class Attack:
    """How well one score tells training rows from held-out rows. It is one attack: a stronger one may find more.

    Attributes:
        auc: chance that a training row scores above a held-out row; 1/2 where the score tells nothing.
        rate: proportion of training rows above the score that 1 % of held-out rows exceed: the true-positive rate at
            1 % false positives, with the threshold's error in its interval; None with fewer than 300 held-out rows.
    """

    auc: Estimate
    rate: Estimate | None


@dataclass(frozen=True)
class Membership:
    """Who was in the training set: one white-box attack on the model, and one on every latent distribution.

    Attributes:
        members: training rows that were scored.
        others: held-out rows that were scored, those of the gains.
        score: what candidates are attacked by: their gain over the prior, row by row.
        model: by log p(x) under the prior: what decoder and encoder give away; None without a decoder.
        candidates: by the gain: what the latent distribution itself gives away, beside the model.
    """

    members: int
    others: int
    score: Gain
    model: Attack | None
    candidates: dict[CandidateId, Attack]


@dataclass(frozen=True)
class OtherScale:
    """The verdict by likelihood under the standard deviation of p(x|z) that reconstructions of unseen rows fit.

    Attributes:
        scale: standard deviation of p(x|z), one for all entries, in the units of the rows as the model sees them.
        fits: the one at which reconstructions of selection rows are most likely: their root mean square error. Held-out
            rows have no part in it, since the gain is told on them.
        label: of the candidate that the verdict looked at.
        gain: its likelihood gain under `fits`, on held-out rows; None for the prior.
        decision, choice: what the same rule decides under it, and the label of what it chooses.
        same: whether decision and choice are those of the verdict.
    """

    scale: float
    fits: float
    label: str
    gain: Estimate | None
    decision: str
    choice: str
    same: bool

    @property
    def says(self) -> str:
        """The verdict under it, in one line."""
        gain = (
            "" if self.gain is None else f"the likelihood gain of {self.label} would be {self.gain} nats per row, and "
        )
        of = f" ({self.choice})" if self.decision == "leave the prior" else ""
        return (
            f"p(x|z) has a standard deviation of {self.scale:.3g}, and reconstructions of selection rows fit one of "
            f"{self.fits:.3g}. Under that {gain}the verdict by likelihood would be "
            f"{'the same' if self.same else 'another'}: {self.decision}{of}"
        )


@dataclass(frozen=True)
class LikelihoodSide:
    """Log p(x) under every candidate, and what the encoder loses.

    Attributes:
        log_prob: candidate -> mean log p_r(x) of held-out rows, by the draws of the likelihood gain, nats a row: a
            lower bound in expectation, of scaled data.
        units: what that is a likelihood of.
        bits: candidate -> the same as bits per dimension of the data as stored; empty where that has no meaning.
        gaps: `heldout` -> what the encoder loses on held-out rows.
        calibration: of the encoder on data simulated from the prior, and from the candidate that the verdict looked at.
        sandwiches: annealed bounds beside the likelihood gain's estimator, where they were asked for.
        other_scale: the verdict under another standard deviation of p(x|z); None where reconstructions fit the one that
            it has.
    """

    log_prob: dict[CandidateId, Estimate]
    units: Units
    bits: dict[CandidateId, Estimate]
    gaps: dict[str, InferenceGap]
    calibration: list[Calibration] = field(default_factory=list)
    sandwiches: list[Sandwich] = field(default_factory=list)
    other_scale: OtherScale | None = None
