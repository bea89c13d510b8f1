"""Results of the measures of the latent space."""

from dataclasses import dataclass, field

from zprime.results.names import CandidateId, Gain
from zprime.statistics.c2st import C2ST
from zprime.statistics.estimate import Estimate
from zprime.statistics.mmd import MMD

MARGINAL = 60_000
"""Components of which marginals are made, at most: of more, so many at random."""
ALWAYS = ("prior", "aggregated posterior", "moment match")
"""Averages that every audit has; those of other criteria are known for posteriors of independent dimensions."""


@dataclass(frozen=True)
class Surgery:
    """`mean KL(q_i||p) = I + KL(qbar||p)`, on the posteriors of one split and their own mixture qbar.

    Attributes:
        mean_kl: mean of KL(q_i||p): exact where p is N(0, I), else with the error of draws, as are `hole` and
            `gaussian_part`. Its `n` is N, all rows of the split.
        information: I = mean of KL(q_i||qbar), the index-code mutual information; 0 <= I <= log N. Its error is that of
            the draws, since I belongs to these very rows; with one draw a row (above 30,000 rows) the spread of the
            rows is used in its place, which is wider. Above 60,000 rows it is measured on a random sample
            of them, as its `n` says, and the error is that of the sample.
        hole: KL(qbar||p), by the identity, or by the same draws.
        gaussian_part: mean over qbar of log r/p, r the moment match of qbar: a lower bound of the hole. Where p is
            N(0, I) it is KL(r||p), exact.
        log_n: log N, which I cannot exceed.
        told_apart: exp(I), the number of data that the code tells apart, with its interval.
        dimension_kl: mean KL of each dimension, exact, shape [d]; empty where p is not N(0, I).
        mean_variance: variance over the data of each dimension's posterior mean, shape [d].
        active: number of dimensions where that variance is above 0.01.
        posterior_variance: mean over the data of each dimension's posterior variance, shape [d]; with `mean_variance`
            it adds up to the variance of qbar.
    """

    mean_kl: Estimate
    information: Estimate
    hole: Estimate
    gaussian_part: Estimate
    log_n: float
    told_apart: Estimate
    dimension_kl: list[float]
    mean_variance: list[float]
    active: int
    posterior_variance: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Bound:
    """One number about the hole.

    Attributes:
        name: what it is.
        target: `empirical` or `population`: which hole it is about.
        side: `below`, `above`, or `equal`.
        estimate: in nats.
    """

    name: str
    target: str
    side: str
    estimate: Estimate


@dataclass(frozen=True)
class Hole:
    """The population hole between two bounds.

    Attributes:
        bounds: every number, with the target that it belongs to.
        low, high: 95 % interval of the population hole, in nats: the highest of the lower ends of the bounds from
            below (at a level corrected for their number), and the upper end of the one from above.
        information: I of the fresh rows with their own mixture.
        log_n: log N, which it cannot exceed.
        floor: mean KL(q||p) - log N: the bound from above cannot fall below it, whatever the hole is.
        saturated: whether I is within 0.5 nats of log N; then the bound from above is little more than `floor`.
    """

    bounds: list[Bound]
    low: float
    high: float
    information: Estimate
    log_n: float
    floor: float
    saturated: bool


@dataclass(frozen=True)
class LeaveOneOut:
    """Gains over the prior of one latent distribution, on rows that it holds and on rows that it does not.

    `self-included` is a training row under the mixture that holds its own component, `leave-one-out` the same row under
    the mixture of all others, `held-out` an unseen row. The first two are about the rows of this training
    set given its mixture: their intervals are those of a sample of these rows, not of other training sets. A few rows
    that lie apart can decide the mean; where there are too few rows for their skewness, the estimate is not stable.

    Attributes:
        elbo: ELBO gain of each of the three.
        exact_posterior: exact-posterior gain of each of the three; empty where it has no closed form, since the prior
            is not N(0, I).
        memorised: of both gains, self-included less leave-one-out, paired over the training rows.
    """

    elbo: dict[str, Estimate]
    exact_posterior: dict[str, Estimate]
    memorised: dict[Gain, Estimate]


@dataclass(frozen=True)
class TotalCorrelation:
    """`KL(qbar||p) = total + dimensions`, in nats.

    Attributes:
        total: total correlation, KL(qbar || product of its marginals).
        dimensions: sum of KL(qbar_j||p_j) over dimensions.
        dimension: KL(qbar_j||p_j) of each; to be read beside `Surgery.dimension_kl`, the mean KL(q_ij||p_j).
    """

    total: Estimate
    dimensions: Estimate
    dimension: list[Estimate]


@dataclass(frozen=True)
class Minibatch:
    """What each estimator says I is.

    Attributes:
        batch: M, rows of a minibatch.
        rows: N.
        estimates: name -> mean over minibatches, with its error over minibatches; to be compared with
            `Surgery.information` of the same split, which none of them replaces.
    """

    batch: int
    rows: int
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Average:
    """One answer to "the distribution closest to every posterior".

    Attributes:
        name: `prior`, `aggregated posterior`, `moment match`, `log-pool`, `barycentre`, or
            `product-of-experts`.
        criterion: what it is the minimiser of, in words.
        forward: mean KL(q_i||r) over training rows; exact where r is one Gaussian.
        heldout: the same over held-out rows, which r has not seen; for the aggregated posterior over at most 1,000 of
            them, by four draws each.
        reverse: mean KL(r||q_i) over training rows, exact (by draws for a prior that is not N(0, I)); None for the
            aggregated posterior.
        to_prior: KL(r||p).
        width: geometric mean of the standard deviations of r (the prior's is 1); of its moment match for a mixture.
        offset: length of the mean of r, over the square root of the latent dimension.
    """

    name: str
    criterion: str
    forward: Estimate
    heldout: Estimate
    reverse: Estimate | None
    to_prior: Estimate
    width: float
    offset: float


@dataclass(frozen=True)
class Averages:
    """The averages, and the width of a typical posterior to compare theirs with.

    Attributes:
        members: name -> average.
        width: geometric mean of the standard deviations of all posteriors.
        product_fails: why there is no posterior of one latent shared by all rows; empty where there is.
    """

    members: dict[str, Average]
    width: float
    product_fails: str = ""


@dataclass(frozen=True)
class TwoSample:
    """Two tests of whether held-out codes and draws of one distribution differ."""

    c2st: C2ST
    mmd: MMD


@dataclass(frozen=True)
class LatentsSide:
    """What is measured of the latent space without a decoder.

    Attributes:
        leave_one_out: candidate -> what is memorised, for the aggregated posterior and exemplars.
        hole: of the population, between two bounds, and of the training rows; None with fewer than 3 held-out rows.
        total_correlation: of the training rows' mixture; None where the prior is not N(0, I).
        minibatch: what minibatch estimators say of the I in the training rows' surgery; None where rows have weights,
            or there is one only.
        low_density: `1 %` and `5 %` -> proportion of prior draws below that quantile of log qbar at held-out codes.
        two_sample: name of a candidate, or of a distribution itself that makes none -> tests of held-out codes and its
            draws; among them a control, `codes of the selection split`, which no test should tell from held-out codes.
        density_curves: `codes` (held-out) and `prior draws` -> their quantiles of log qbar, nats, from 1 % to 99 % in
            steps of 2 %.
    """

    leave_one_out: dict[CandidateId, LeaveOneOut]
    hole: Hole | None
    total_correlation: TotalCorrelation | None
    minibatch: Minibatch | None
    low_density: dict[str, Estimate]
    two_sample: dict[str, TwoSample]
    density_curves: dict[str, list[float]] = field(default_factory=dict)
