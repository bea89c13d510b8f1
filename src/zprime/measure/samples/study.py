"""Real rows, the references of the copying test and the sampler, made once; every candidate is measured with them.

What a choice is made from (copying, Frechet distance, coverage, labels, TSTR) is measured beside the selection split.
The other figures of the table are measured beside held-out rows and enter no choice. Copying beside held-out rows is
measured of the prior and the chosen candidate only, by `confirm`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zprime.arrays import is_binary, times
from zprime.distribution import LatentDistribution
from zprime.engine import in_threads
from zprime.latent import Conditional
from zprime.measure.candidates import Candidates
from zprime.measure.samples.bandwidth_path import Surroundings, bandwidth_path
from zprime.measure.samples.contender import Confirmed, Contender
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.samples.features import Classifier, Entries, Features, build_features, entrywise, train_classifier
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.frechet import frechet_replicates
from zprime.measure.samples.known import KNOWN, SPREADS, Errors, Known, Reference
from zprime.measure.samples.labels import label_coverage
from zprime.measure.samples.manifold import Neighbourhoods, neighbourhoods
from zprime.measure.samples.rows import Measured, RealRows, rows_of
from zprime.measure.samples.sampler import Sample, Sampler
from zprime.measure.samples.tstr import accuracy, hits
from zprime.measure.study import Split, Study
from zprime.progress import Progress
from zprime.results.names import CandidateId
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED, TSTR, BandwidthPath, Labels, Sampled
from zprime.statistics.estimate import Estimate
from zprime.statistics.logistic import Axes
from zprime.statistics.resampling import About

FORMS = ("mean", "draw")


class SampleStudy:
    """Samples of all candidates, beside the same rows and with the same networks.

    Attributes:
        n: rows in each sample that fidelity compares.
        classifier: trained on labelled training rows; None without labels, or where no network may be trained.
        space: the feature space.
        forms: `mean` and `draw` -> Frechet distance of reconstructions of the selection split to its real rows; the
            form with the smaller is compared. Of discrete data draws only.
        sampler: decodes and searches.
        pictures: `grid.<id>` and `near.<id>`: decoded samples, and the training row nearest to each.
    """

    def __init__(self, study: Study, candidates: Candidates, n: int) -> None:
        """Train networks and search the reference.

        Raises:
            UsageError: no decoder or no rows, or the feature space cannot be built.
        """
        train = rows_of(study.train)
        self.study, self.candidates, self.n = study, candidates, n
        self.samples, self.seed, self.limit = study.settings.samples, study.seed, study.settings.copies_limit
        self.classifier: Classifier | None = None
        wanted = study.features
        if study.settings.feature_networks:
            self.classifier = train_classifier(train, seed=study.seed, progress=study.progress)
        elif wanted == "auto":
            wanted = entrywise(train)
        self.space: Features = build_features(
            wanted,
            train,
            encoder=study.model,
            classifier=self.classifier,
            seed=study.seed,
            progress=study.progress,
        )
        entries = Entries.fitting(train.x)
        reference = min(self.samples, study.selection.n)
        codes = study.train.posteriors.mean
        training = TrainingSet(train.x, codes, reference=reference, seed=study.seed, entries=entries, index=study.index)
        discrete = is_binary(train.x) or entries.counts is not None
        self.selection, self.heldout = (self._real(split) for split in (study.selection, study.heldout))
        self.forms = self._forms(("draw",) if discrete else FORMS)  # the mean of a discrete p(x|z) is no datum
        form = min(self.forms, key=lambda name: self.forms[name].value)
        self.sampler = Sampler(study, training, self.space, self.classifier, form, not discrete)
        self.reconstructions = self._reconstruct(study.selection)
        self.planted = self._planted()
        unused = self._rng("errors")  # means are not drawn
        self.known = Known(
            self.planted.means,
            self._training_codes(),
            Errors(training, lambda at: study.decode(codes[at], noise="mean", rng=unused)),
        )
        found = self.reconstructions.means, self.reconstructions.draws
        real = training.neighbours(self.selection.x)
        self.reference = Reference.of("selection", real, found, self.known, limit=self.limit, seed=study.seed)
        self.pictures: dict[str, Tensor] = {}
        self.prior: Sample | None = None
        self.beside: dict[str, Neighbours] = {}

    def _forms(self, forms: Sequence[str]) -> dict[str, Estimate]:
        """Frechet distances of reconstructions of the selection split, in each form, to its real rows."""
        rng = self._rng("forms")
        p = self.study.selection.posteriors
        z = p.take(torch.randperm(p.n, generator=rng)[: self.n]).draw(rng=rng)
        found = {form: self.space.of(self.study.decode(z, noise=form, rng=rng)) for form in forms}
        return {form: self._distance(self.selection, x, "selection") for form, x in found.items()}

    def _distance(self, real: RealRows, features: Tensor, split: str) -> Estimate:
        about = About(self.n, split, self.seed)
        found = frechet_replicates(real.features, features[: self.n], kept=real.roots)
        return found.estimate(0, about, unit="squared feature units", scale="distance")

    def _planted(self) -> Sample:
        shape = rows_of(self.study.train).x.shape[1:]
        planted = self.sampler.training.plant(max(self.samples, KNOWN), rng=self._rng("plant"))
        return self.sampler.rows(planted.reshape(-1, *shape))

    def _training_codes(self) -> tuple[Neighbours, ...]:
        """Reconstructions of training rows, z ~ q(z|x) with parts of its scale; the same rows and noise for each."""
        p, rng = self.study.train.posteriors, self._rng("training codes")
        n = max(self.samples, KNOWN)
        at = torch.randint(p.n, (n,), generator=rng)
        noise = torch.randn(n, p.d, generator=rng, dtype=p.mean.dtype)
        found = []
        for part in SPREADS:
            x = self.study.decode(p.mean[at] + times(part * p.scale[at], noise), noise="mean", rng=rng)
            found.append(self.sampler.training.neighbours(x))
        return tuple(found)

    @cached_property
    def confirmation(self) -> Reference:
        """The reference of the held-out split: for the prior and the chosen candidate, and for the controls."""
        made = self._reconstruct(self.study.heldout)
        real = self.sampler.training.neighbours(self.heldout.x)
        return Reference.of("heldout", real, (made.means, made.draws), self.known, limit=self.limit, seed=self.seed)

    def controls_right(self) -> bool:
        """Whether planted copies are found and reconstructions cleared, each split's beside the other's."""
        first, second = self.reference, self.confirmation
        planted = [r.judge(self.planted.means).status for r in (first, second)]
        cleared = [copying(a.means, b.means, seed=self.seed).status for a, b in ((first, second), (second, first))]
        return set(planted) == {"copies"} and set(cleared) == {"passes"}

    def measure_controls(self) -> dict[str, Measured]:
        """Real rows of the selection split, reconstructions of them, and planted copies of training rows.

        Reconstructions are searched beside those of held-out rows, planted copies as candidates are.
        """
        samples = {
            REAL: self.sampler.rows(self.selection.x),
            RECONSTRUCTED: self.reconstructions,
            PLANTED: self.planted,
        }
        measured: dict[str, Measured] = {}
        for name, sample in samples.items():
            self.study.progress("samples: controls", len(measured), len(samples))
            beside = self.confirmation if name == RECONSTRUCTED else self.reference
            around = neighbourhoods(sample.features[: self.n])
            control = self._measure(CandidateId(name), name, sample, around, beside)
            if name == REAL:
                control = replace(control, entry=replace(control.entry, copying=None, copied=[]))
            else:
                # those of the selection split are the reference of the path: not compared with themselves
                self.beside[name] = self.confirmation.means if name == RECONSTRUCTED else sample.means
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
        train = rows_of(self.study.train)
        self.pictures[f"grid.{wanted}"] = sample.shown.float()
        nearest = self.sampler.training.neighbours(sample.shown).parent
        self.pictures[f"near.{wanted}"] = train.x[nearest].float()
        around = neighbourhoods(sample.features[: self.n])
        measured = self._measure(wanted, r.label, sample, around, self.reference)
        base = self.candidates.distributions[CandidateId(wanted.name)]
        if measured.entry.tstr is not None and isinstance(base, Conditional):
            tstr = replace(measured.entry.tstr, own=self._own_labels(base))
            measured = replace(measured, entry=replace(measured.entry, tstr=tstr))
        if wanted not in self.candidates.eligible:
            return measured
        return replace(measured, contender=self._contender(measured, r, sample, around))

    def _contender(
        self, measured: Measured, r: LatentDistribution, sample: Sample, around: Neighbourhoods
    ) -> Contender:
        """What the verdict needs of a candidate, with its samples beside rows of the selection split."""
        entry = measured.entry
        compared = self._beside(self.selection, sample, around, split="selection")
        because = "" if entry.copying is None else entry.copying.because
        return Contender(
            entry.name,
            entry.label,
            r.bytes,
            entry.status,
            compared,
            measured.missing,
            measured.right,
            because,
            r.holds_rows,
        )

    def _measure(
        self, wanted: CandidateId, label: str, sample: Sample, around: Neighbourhoods, beside: Reference
    ) -> Measured:
        """All measures of one sample: fidelity beside held-out rows, copying by a reference."""
        coverage, tstr, right = None, None, None
        missing: list[str] = []
        if sample.labels is not None and self.heldout.truth is not None and self.selection.truth is not None:
            labels = sample.labels[: self.n]
            coverage = self._labels(self.heldout, labels, "heldout")
            chosen = self._labels(self.selection, labels, "selection")
            missing = [] if chosen is None else chosen.missing
            tstr, right = self._tstr(sample.x[: self.n], labels)
        compared = self._beside(self.heldout, sample, around, split="heldout")
        compared = replace(compared, fidelity=replace(compared.fidelity, labels=coverage))
        entry = Sampled(
            wanted,
            label,
            beside.judge(sample.means),
            None if sample.draws is None else beside.judge_draws(sample.draws),
            compared.fidelity,
            tstr,
            self._other(sample),
            beside.copied(sample.means, rows_of(self.study.train).ids),
        )
        return Measured(entry, compared, missing, right)

    def _labels(self, real: RealRows, labels: Tensor, split: str) -> Labels | None:
        """How often each label occurs beside a split."""
        if real.labels is None or self.classifier is None:
            return None
        return label_coverage(real.labels, labels, self.classifier.classes, split=split, seed=self.seed)

    def _other(self, sample: Sample) -> Estimate | None:
        """Frechet distance of the form that is not compared, to held-out rows."""
        return None if sample.other is None else self._distance(self.heldout, sample.other, "heldout")

    def _beside(self, real: RealRows, sample: Sample, around: Neighbourhoods, *, split: str) -> Compared:
        """Fidelity of a sample beside real rows."""
        features = sample.features[: self.n]
        near = (real.neighbourhoods, around)
        return fidelity(real.features, features, split=split, seed=self.seed, neighbourhoods=near, roots=real.roots)

    def _tstr(self, x: Tensor, labels: Int[Tensor, " n"]) -> tuple[TSTR, Bool[Tensor, " n"]]:
        """Accuracy of a classifier trained on generated rows; which rows of the selection split it labels rightly."""
        real = {"selection": self.selection, "heldout": self.heldout}
        tests = {split: (rows.x, rows.truth) for split, rows in real.items() if rows.truth is not None}
        right = hits(x, labels, tests, like=self.axes)
        return TSTR(accuracy(right["heldout"], split="heldout", seed=self.seed)), right["selection"]

    @cached_property
    def axes(self) -> Axes | None:
        """In which classifiers are trained: those of real rows, found once; None where they are too few for that."""
        truth = self.selection.truth
        flat = self.selection.x.flatten(1)
        if truth is None or len(flat) <= flat.shape[1]:
            return None
        found = Axes.of(flat, len(torch.unique(truth)))
        return found if found.whole else None

    def _own_labels(self, r: Conditional) -> Estimate:
        """Accuracy when trained on rows with the labels that they were generated for."""
        rng = self._rng("own labels")
        z, labels = r.sample_labelled(self.n, rng=rng)
        x = self.study.decode(z, noise=self.sampler.noise, rng=rng)
        return self._tstr(x, labels)[0].accuracy

    def confirm(self, name: str) -> Confirmed:
        """Fresh draws of a candidate beside held-out rows, and whether they copy."""
        rng = self._rng("confirm", name)
        r = self.candidates.distribution(CandidateId.parse(name))
        made = self.sampler.sample(r.sample(self.samples, rng=rng), rng=rng)
        compared = self._beside(self.heldout, made, neighbourhoods(made.features[: self.n]), split="heldout")
        means = self.confirmation.judge(made.means)
        draws = None if made.draws is None else self.confirmation.judge_draws(made.draws)
        copies = "copies" if draws is not None and draws.status == "copies" else means.status
        return Confirmed(compared, copies, means.because)

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
        rows = rows_of(split)
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
