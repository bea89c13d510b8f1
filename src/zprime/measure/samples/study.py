"""Real rows, the reference of the copying test and the sampler, made once; every candidate is measured with them."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.engine import in_threads
from zprime.errors import UsageError
from zprime.latent import Conditional
from zprime.measure.candidates import Candidates
from zprime.measure.samples.bandwidth_path import Surroundings, bandwidth_path
from zprime.measure.samples.contender import Contender
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.samples.features import Classifier, Entries, Features, build_features, train_classifier
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.labels import label_coverage
from zprime.measure.samples.manifold import Neighbourhoods, neighbourhoods
from zprime.measure.samples.sampler import Sample, Sampler
from zprime.measure.samples.tstr import accuracy, hits
from zprime.measure.study import Split, Study
from zprime.progress import Progress
from zprime.results.names import CandidateId
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED, TSTR, BandwidthPath, Sampled
from zprime.statistics.estimate import Estimate


@dataclass(frozen=True)
class RealRows:
    """Some rows of a split in random order, with all that samples are compared with.

    Attributes:
        x: the rows.
        truth: their own labels, or None.
        features: of the rows.
        neighbourhoods: of the features.
        labels: as the classifier labels the rows, or None.
    """

    x: Tensor
    truth: Int[Tensor, " n"] | None
    features: Tensor
    neighbourhoods: Neighbourhoods
    labels: Int[Tensor, " n"] | None


@dataclass(frozen=True)
class Measured:
    """What is measured of one sample: the entry, and what verdicts need beside it.

    Attributes:
        entry: what the audit keeps.
        heldout: the sample beside held-out rows.
        right: which rows of the selection split a classifier trained on the sample labels rightly; None without labels.
        contender: what the verdict for generation is made from; None of what may not be chosen.
    """

    entry: Sampled
    heldout: Compared
    right: Bool[Tensor, " n"] | None
    contender: Contender | None = None


class SampleStudy:
    """Samples of all candidates, beside the same rows and with the same networks.

    Attributes:
        n: rows in each sample that fidelity compares.
        classifier: trained on labelled training rows; None without labels.
        space: the feature space.
        sampler: decodes and searches.
        pictures: `grid.<id>` and `near.<id>`: decoded samples, and the training row nearest to each.
    """

    def __init__(self, study: Study, candidates: Candidates, n: int) -> None:
        """Train networks and search the reference.

        Raises:
            UsageError: no decoder or no rows, or the feature space cannot be built.
        """
        train = _rows(study.train)
        self.study, self.candidates, self.n = study, candidates, n
        self.samples, self.seed = study.settings.samples, study.seed
        self.classifier: Classifier | None = train_classifier(train, seed=study.seed, progress=study.progress)
        self.space: Features = build_features(
            study.features,
            train,
            encoder=study.model,
            classifier=self.classifier,
            seed=study.seed,
            progress=study.progress,
        )
        entries = Entries.fitting(train.x)
        reference = min(self.samples, study.heldout.n)
        codes = study.train.posteriors.mean
        training = TrainingSet(train.x, codes, reference=reference, seed=study.seed, entries=entries)
        discrete = bool(((train.x == 0) | (train.x == 1)).all()) or entries.counts is not None
        noise = "draw" if discrete else "mean"  # the mean of a discrete p(x|z) is no datum
        self.sampler = Sampler(study, training, self.space, self.classifier, noise)
        self.reference = self._reconstruct(study.heldout)
        self.selection, self.heldout = (self._real(split) for split in (study.selection, study.heldout))
        self.pictures: dict[str, Tensor] = {}
        self.prior: Sample | None = None
        self.beside: dict[str, Neighbours] = {}

    def measure_controls(self) -> dict[str, Measured]:
        """Real rows of the selection split, reconstructions of them, and planted copies of training rows."""
        shape = _rows(self.study.train).x.shape[1:]
        planted = self.sampler.training.plant(self.samples, rng=self._rng("plant")).reshape(-1, *shape)
        samples = {
            REAL: self.sampler.rows(self.selection.x),
            RECONSTRUCTED: self._reconstruct(self.study.selection),
            PLANTED: self.sampler.rows(planted),
        }
        measured: dict[str, Measured] = {}
        for name, sample in samples.items():
            self.study.progress("samples: controls", len(measured), len(samples))
            control = self._measure(CandidateId(name), name, sample, neighbourhoods(sample.features[: self.n]))
            if name == REAL:
                control = replace(control, entry=replace(control.entry, copying=None))
            else:
                self.beside[name] = sample.means
            measured[name] = control
        self.study.progress("samples: controls", len(samples), len(samples))
        return measured

    def measure_candidates(self) -> list[Measured]:
        """Every candidate, and every distribution itself; the prior first, which others are mixed with."""
        names = list(self.candidates.given)
        done: list[str] = []

        def measure(name: str, progress: Progress) -> list[Measured]:
            progress("samples", len(done), len(names))
            measured = self._candidate(name)
            done.append(name)
            progress("samples", len(done), len(names))
            return measured

        first = measure(names[0], self.study.progress)
        calls = [partial(measure, name) for name in names[1:]]
        rest = in_threads(calls, workers=self.study.workers, progress=self.study.progress)
        return [m for measured in (first, *rest) for m in measured]

    def _candidate(self, name: str) -> list[Measured]:
        """A candidate and the distribution itself, whose samples serve both."""
        distributions = self.candidates.distributions
        base = distributions[CandidateId(name)]
        rng = self._rng("samples", name)
        sample = self.sampler.sample(base.sample(self.samples, rng=rng), rng=rng)
        if name == "prior":
            self.prior, self.beside[name] = sample, sample.means
        return [self._blend(i, r, sample) for i, r in distributions.items() if i.name == name]

    def _blend(self, wanted: CandidateId, r: LatentDistribution, sample: Sample) -> Measured:
        """Samples of a base, mixed with those of the prior, measured."""
        blend = self.candidates.blends.get(wanted)  # none without a density
        if blend is not None and blend.epsilon and self.prior is not None:
            coin = torch.rand(self.samples, generator=self._rng("coin", wanted.name)) < blend.epsilon
            sample = sample.mixed(self.prior, coin)
        train = _rows(self.study.train)
        self.pictures[f"grid.{wanted}"] = sample.shown.float()
        self.pictures[f"near.{wanted}"] = train.x[sample.means.parent[: len(sample.shown)]].float()
        around = neighbourhoods(sample.features[: self.n])
        measured = self._measure(wanted, r.label, sample, around)
        base = self.candidates.distributions[CandidateId(wanted.name)]
        if measured.entry.tstr is not None and isinstance(base, Conditional):
            tstr = replace(measured.entry.tstr, own=self._own_labels(base))
            measured = replace(measured, entry=replace(measured.entry, tstr=tstr))
        if wanted not in self.candidates.eligible:
            return measured
        return replace(measured, contender=self._contender(measured, r.bytes, sample, around))

    def _contender(self, measured: Measured, size: int, sample: Sample, around: Neighbourhoods) -> Contender:
        """What the verdict needs of a candidate, with its samples beside rows of the selection split."""
        entry = measured.entry
        compared = self._beside(self.selection, sample, around, split="selection")
        missing = [] if entry.fidelity.labels is None else entry.fidelity.labels.missing
        return Contender(entry.name, entry.label, size, entry.status, compared, missing, measured.right)

    def _measure(self, wanted: CandidateId, label: str, sample: Sample, around: Neighbourhoods) -> Measured:
        """All measures of one sample beside held-out rows."""
        coverage, tstr, right = None, None, None
        real, truth = self.heldout.labels, self.heldout.truth
        if sample.labels is not None and real is not None and truth is not None and self.classifier is not None:
            labels = sample.labels[: self.n]
            coverage = label_coverage(real, labels, self.classifier.classes, split="heldout", seed=self.seed)
            tstr, right = self._tstr(sample.x[: self.n], labels)
        compared = self._beside(self.heldout, sample, around, split="heldout")
        compared = replace(compared, fidelity=replace(compared.fidelity, labels=coverage))
        reference = self.reference
        draws = None
        if sample.draws is not None and reference.draws is not None:
            draws = copying(sample.draws, reference.draws, seed=self.seed)
        means = copying(sample.means, reference.means, seed=self.seed)
        return Measured(Sampled(wanted, label, means, draws, compared.fidelity, tstr), compared, right)

    def _beside(self, real: RealRows, sample: Sample, around: Neighbourhoods, *, split: str) -> Compared:
        """Fidelity of a sample beside real rows."""
        features = sample.features[: self.n]
        near = (real.neighbourhoods, around)
        return fidelity(real.features, features, split=split, seed=self.seed, neighbourhoods=near)

    def _tstr(self, x: Tensor, labels: Int[Tensor, " n"]) -> tuple[TSTR, Bool[Tensor, " n"]]:
        """Accuracy of a classifier trained on generated rows; which rows of the selection split it labels rightly."""
        real = {"selection": self.selection, "heldout": self.heldout}
        tests = {split: (rows.x, rows.truth) for split, rows in real.items() if rows.truth is not None}
        right = hits(x, labels, tests)
        return TSTR(accuracy(right["heldout"], split="heldout", seed=self.seed)), right["selection"]

    def _own_labels(self, r: Conditional) -> Estimate:
        """Accuracy when trained on rows with the labels that they were generated for."""
        rng = self._rng("own labels")
        z, labels = r.sample_labelled(self.n, rng=rng)
        x = self.study.decode(z, noise=self.sampler.noise, rng=rng)
        return self._tstr(x, labels)[0].accuracy

    def confirm(self, name: str) -> Compared:
        """Fresh draws of a candidate beside held-out rows."""
        rng = self._rng("confirm", name)
        z = self.candidates.distribution(CandidateId.parse(name)).sample(self.n, rng=rng)
        features, _ = self.sampler.look(z, rng=rng)
        near = (self.heldout.neighbourhoods, neighbourhoods(features))
        return fidelity(self.heldout.features, features, split="heldout", seed=self.seed, neighbourhoods=near)

    def path(self) -> BandwidthPath:
        """Copying over the bandwidth, beside the controls and the prior."""
        rng = self._rng("road")
        return bandwidth_path(
            self.study.train,
            lambda z: self.study.decode(z, noise="mean", rng=rng),
            Surroundings(self.sampler.training, self.reference.means, self.beside),
            rng=rng,
            seed=self.seed,
            progress=self.study.progress,
        )

    def _real(self, split: Split) -> RealRows:
        """As many rows of a split as samples are compared on."""
        rows = _rows(split)
        picked = torch.randperm(len(rows), generator=self._rng("real", split.name))[: self.n]
        x = rows.x[picked]
        features = self.space.of(x)
        truth = None if rows.labels is None else rows.labels[picked]
        labels = None if self.classifier is None else self.classifier.label(x)
        return RealRows(x, truth, features, neighbourhoods(features), labels)

    def _reconstruct(self, split: Split) -> Sample:
        """Rows of a split through encoder and decoder: one draw z ~ q(z|x) each, in random order."""
        order = torch.randperm(split.n, generator=self._rng("rows", split.name))
        picked = split.posteriors.take(order[: self.samples])
        rng = self._rng("reconstruct", split.name)
        return self.sampler.sample(picked.draw(rng=rng), rng=rng)

    def _rng(self, *names: str) -> torch.Generator:
        return self.study.stream("generation", *names)


def _rows(split: Split) -> Rows:
    """The rows of a split.

    Raises:
        UsageError: there are none.
    """
    if split.rows is None:
        raise UsageError(f"rows: expected the {split.name} rows, got none")
    return split.rows
