"""Results of the measures of generated rows."""

from dataclasses import dataclass, field

from zprime.results.names import CandidateId, by_id
from zprime.results.verdicts import GenerationVerdict, worst
from zprime.statistics.c2st import C2ST
from zprime.statistics.estimate import Estimate

REAL, RECONSTRUCTED, PLANTED = "real rows", "reconstructions", "planted copies"
"""Names of the controls."""

CODES = "training codes"
"""Name of the first point of the bandwidth path."""


@dataclass(frozen=True)
class Copying:
    """How near one sample is to the training set.

    Attributes:
        auc: chance that a generated row is nearer to the training set than an unseen row's reconstruction; 1/2 where
            nothing is copied, less where rows are off the data.
        regional: the same within regions of the data: drawing more often from dense regions alone does not raise it.
        near: proportion of rows nearer than all but 5 % of the unseen rows' reconstructions of their region: 0.05 where
            nothing is copied. A few copies among many rows that are far off raise it.
        singled: proportion of rows whose distance to the nearest training row, over that to the fifth nearest, is
            smaller than for all but 5 % of the unseen rows' reconstructions. A copy is near to *one* row; a row that is
            only typical (from a generator that blurs) is near to many, and does not count as a copy.
        z_u: Z_U of Meehan et al. 2020, below 0 for copies; it grows with the sample.
        c_t: C_T of the same, over the regions.
        authenticity: proportion of rows farther from the nearest training row than that row is from its own nearest
            (Alaa et al. 2022).
        ratio: mean of the distances to the nearest and to the second nearest training row, the one over the other.
        status: `copies`, `passes`, or `untested` where the controls failed or copies cannot be excluded.
        like_rows: rows as near to a training row as planted copies are, over the proportion of planted copies that are
            so near: the share of copies of training rows as they are, at most. None where it was not measured.
        share: the same for copies of both kinds: as near as planted copies, or as reconstructions of training rows
            where these are called copies themselves (else the decoder cannot make any). Its upper limit clears.
        because: why it is untested.
    """

    auc: Estimate
    regional: Estimate
    near: Estimate
    singled: Estimate
    z_u: Estimate
    c_t: Estimate
    authenticity: Estimate
    ratio: Estimate
    status: str = "passes"
    like_rows: Estimate | None = None
    share: Estimate | None = None
    because: str = ""

    @property
    def most(self) -> float:
        """The share of copies that cannot be excluded, the upper limit of `share`; 1 where it was not measured."""
        return 1.0 if self.share is None else self.share.high


@dataclass(frozen=True)
class CopiedRow:
    """A training row, and how many generated rows are as near to it as copies are."""

    row: int
    count: int


@dataclass(frozen=True)
class Labels:
    """How often each label occurs among generated and among real rows, both labelled by the same classifier.

    The classifier's errors are in both. They cancel if it is wrong as often on generated rows as on real ones.

    Attributes:
        proportions: label -> proportion of generated rows.
        expected: label -> proportion of real rows.
        variation: total variation distance between the two, half the sum of absolute differences, from 0 to 1.
        missing: labels that are generated less than half as often as they should be (by the whole 95 % interval).
    """

    proportions: dict[str, Estimate]
    expected: dict[str, float]
    variation: Estimate
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fidelity:
    """One sample beside real rows.

    Attributes:
        frechet: distance of the Gaussians with the two samples' moments; depends on quality and variety, not on shape.
        precision: proportion of generated rows inside the manifold of real ones; falls with junk, not with lost modes.
        recall: proportion of real rows inside the manifold of generated ones; falls with lost modes, not with junk.
        density: mean over generated rows of the number of real rows' balls that hold it, over k: as precision, and less
            moved by outliers.
        coverage: proportion of real rows with a generated one in their ball: as recall, and less moved by outliers.
        sliced: Wasserstein-2 distance along random directions: as frechet, and depends on shape too.
        told_apart: classifier two-sample test: whether there is any difference, not which.
        labels: proportions of labels, where there are labels.
    """

    frechet: Estimate
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    sliced: Estimate
    told_apart: C2ST
    labels: Labels | None = None


@dataclass(frozen=True)
class TSTR:
    """Accuracy on real held-out rows, with their own labels, of logistic regression trained on generated rows.

    Attributes:
        accuracy: the generated rows labelled by the classifier that zprime trained on real rows. It says whether all
            that tells classes apart is generated; not whether the generator knows labels: these are the classifier's.
        own: the generated rows with the labels they were generated for, where the latent distribution is conditional.
            It says both. It can be the lower of the two: compare it with that of other conditional ones only.
    """

    accuracy: Estimate
    own: Estimate | None = None


@dataclass(frozen=True)
class PathPoint:
    """Samples at one bandwidth.

    Attributes:
        name: `training codes`, or the bandwidth.
        bandwidth: h of Liu & West's kernel; 0 for the training codes too, which have not even their posteriors' noise.
        copying: of decoder means.
    """

    name: str
    bandwidth: float
    copying: Copying


@dataclass(frozen=True)
class BandwidthPath:
    """How copies become samples, and samples leave the data, as the posteriors are smoothed.

    Attributes:
        rows: generated rows at each point, and of each that stands beside it: Z_U and C_T grow with their number.
        points: from the training codes over h = 0, the aggregated posterior, to h = 1, one Gaussian with its mean and
            covariance. All have the same rows and the same noise.
        beside: the same number of planted copies, of reconstructions, and of samples of the prior.
    """

    rows: int
    points: list[PathPoint]
    beside: dict[str, Copying]

    @property
    def copies(self) -> list[PathPoint]:
        """Points whose samples copy."""
        return [p for p in self.points if p.copying.status == "copies"]

    @property
    def off(self) -> list[PathPoint]:
        """The points at its end, measurably farther from the training set than reconstructions of unseen rows are."""
        points: list[PathPoint] = []
        for point in reversed(self.points):
            if point.copying.regional.high >= 0.5:
                break
            points.insert(0, point)
        return points


@dataclass(frozen=True)
class Sampled:
    """What is measured of one sample of x'.

    Attributes:
        id: as in the table; or of the control, by its name.
        label: what it is.
        copying: of decoder means, beside reconstructions of the selection split (for the control `reconstructions`
            beside those of held-out rows); None for real rows, which are no reconstructions.
        copying_draws: of decoder draws x' ~ p(x|z'), compared with draws of the reconstructions; noise hides copies.
        fidelity: beside held-out rows, in the form that the side says.
        tstr: of a classifier trained on it and tested on real rows; None without labels.
        other: Frechet distance to held-out rows in the other form: of draws where means are compared, and the other way
            round; None for real rows and discrete data.
        copied: the training rows that most of its rows are as near to as copies are, ten at most.
    """

    id: CandidateId
    label: str
    copying: Copying | None
    copying_draws: Copying | None
    fidelity: Fidelity
    tstr: TSTR | None = None
    other: Estimate | None = None
    copied: list[CopiedRow] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As the table of gains calls it, e.g. `aggregated+p10`; or of the control."""
        return str(self.id)

    @property
    def status(self) -> str:
        """`copies` if means or draws do; `untested` where it cannot be excluded that means do; else `passes`."""
        return worst(*(c.status for c in (self.copying, self.copying_draws) if c is not None))


@dataclass(frozen=True)
class SamplesSide:
    """What is measured of generated rows x'.

    Attributes:
        features: name of the feature space.
        says: how it was made.
        noise: whether fidelity and TSTR see decoder `mean`s or decoder `draw`s: the form in which reconstructions of
            the selection split are nearer to its real rows.
        samples: generated rows of each candidate, for copying.
        rows: rows in each sample that fidelity compares.
        entries: every candidate and every distribution itself, in the order of the table.
        controls: `real rows` of the selection split, `reconstructions` of them, and `planted copies` of training rows.
        classifier: accuracy on held-out rows of the classifier that labels; None without labels.
        verdict: for generation.
        path: copying from the training codes to one Gaussian, over the bandwidth that smooths the posteriors.
        forms: `mean` and `draw` -> Frechet distance of reconstructions of the selection split to its real rows; of
            discrete data draws only.
        memorises: how it is seen that the decoder memorises; empty where it does not.
        ignores: how it is seen that the decoder ignores z; empty where it does not.
    """

    features: str
    says: str
    noise: str
    samples: int
    rows: int
    entries: list[Sampled]
    controls: dict[str, Sampled]
    classifier: Estimate | None
    verdict: GenerationVerdict
    path: BandwidthPath | None = None
    forms: dict[str, Estimate] = field(default_factory=dict)
    memorises: str = ""
    ignores: str = ""

    def entry(self, name: str) -> Sampled:
        """The candidate called `name`, e.g. `aggregated+p10`, or the distribution itself, e.g. `aggregated`.

        Raises:
            UsageError: no such candidate.
        """
        return by_id(self.entries, CandidateId.parse(name))
