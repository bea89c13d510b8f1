"""The samples side of an audit: fidelity, copying and TSTR of generated rows x', and what a verdict is made from."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from zprime.measure.candidates import Candidates
from zprime.measure.samples.collapse import ignores_z
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.rows import Measured
from zprime.measure.samples.study import SampleStudy
from zprime.measure.study import Study
from zprime.results.samples import REAL, RECONSTRUCTED, BandwidthPath, Copying, Sampled, SamplesSide
from zprime.results.settings import FEWEST
from zprime.results.verdicts import GenerationVerdict
from zprime.statistics.format import percent


@dataclass(frozen=True, eq=False)
class MeasuredSamples:
    """Samples of all candidates, measured, before there is a verdict.

    Attributes:
        study: what they were measured with.
        measured_controls: `real rows`, `reconstructions` and `planted copies`.
        candidates: every candidate, and every distribution itself.
        path: copying over the bandwidth; None where it is left out.
    """

    study: SampleStudy
    measured_controls: dict[str, Measured]
    candidates: list[Measured]
    path: BandwidthPath | None

    @cached_property
    def tested(self) -> bool:
        """Whether the copying test finds the planted copies and clears the reconstructions."""
        return self.study.controls_right()

    @cached_property
    def ignores(self) -> str:
        """How it is seen that the decoder ignores z; empty where it does not."""
        return ignores_z(self.study.study, rng=self.study.study.stream("generation", "collapse"))

    @property
    def memorises(self) -> str:
        """How it is seen that the decoder memorises; empty where it does not."""
        found = self.study.reference.memorises
        if found is None:
            return ""
        made, real = (percent(e, places=1) for e in found)
        return (
            f"{made} of reconstructions of unseen rows are as near to a training row as planted copies are, and of the "
            f"unseen rows themselves {real}"
        )

    @property
    def contenders(self) -> list[Contender]:
        """All that may be chosen, the prior among them."""
        return [m.contender for m in self.candidates if m.contender is not None]

    @property
    def controls(self) -> Controls:
        """What the verdict needs of the controls."""
        reconstructed, real = (self.measured_controls[name].heldout for name in (RECONSTRUCTED, REAL))
        return Controls(reconstructed, real, self.tested, self.ignores, self.memorises)

    @property
    def space(self) -> str:
        """Name of the feature space."""
        return self.study.space.name

    @property
    def pictures(self) -> dict[str, Tensor]:
        """Decoded samples, and the training row nearest to each."""
        return self.study.pictures

    def confirm(self, name: str) -> Confirmed:
        """Fresh draws of a candidate beside held-out rows."""
        return self.study.confirm(name)

    def side(self, verdict: GenerationVerdict) -> SamplesSide:
        """What the audit keeps."""
        sampling, study = self.study, self.study.study
        entries, path = [m.entry for m in self.candidates], self.path
        if not self.tested:
            entries = [_untested(e) for e in entries]
            path = path and replace(path, points=[replace(p, copying=_mark(p.copying)) for p in path.points])
        classifier = None
        if sampling.classifier is not None and study.heldout.rows is not None:
            classifier = sampling.classifier.accuracy(study.heldout.rows, seed=study.seed)
        return SamplesSide(
            features=sampling.space.name,
            says=sampling.space.says,
            noise=sampling.sampler.noise,
            samples=sampling.samples,
            rows=sampling.n,
            entries=entries,
            controls={name: m.entry for name, m in self.measured_controls.items()},
            classifier=classifier,
            verdict=verdict,
            path=path,
            forms=sampling.forms,
            memorises=self.memorises,
            ignores=self.ignores,
        )


def measure_samples(study: Study, candidates: Candidates) -> MeasuredSamples | None:
    """Measure samples of every candidate; None without decoder or training rows, or with fewer than 40 rows to compare.

    Where rows come in groups or have weights, samples are compared with independent rows of the weighted population:
    one of each group, drawn by its weight.

    Raises:
        UsageError: the feature space cannot be built.
    """
    kept = {
        s.name: s.independent(study.stream("generation", "independent", s.name))
        for s in (study.selection, study.heldout)
    }
    train = study.train
    if train.posteriors.datum is not None:  # rows stand there once for each part of their posterior
        train = train.take(train.posteriors.one_each(rng=study.stream("generation", "parts")))
    study = replace(study, train=train, selection=kept["selection"], heldout=kept["heldout"])
    selection, heldout = study.selection.rows, study.heldout.rows
    if study.model is None or study.train.rows is None or selection is None or heldout is None:
        return None
    n = min(study.settings.samples, len(selection), len(heldout))
    if n < FEWEST:
        return None
    sampling = SampleStudy(study, candidates, n)
    controls = sampling.measure_controls()
    measured = sampling.measure_candidates()
    return MeasuredSamples(sampling, controls, measured, sampling.path() if study.settings.bandwidth_path else None)


def _untested(entry: Sampled) -> Sampled:
    """With a status that says that the controls failed."""
    means, draws = (None if c is None else _mark(c) for c in (entry.copying, entry.copying_draws))
    return replace(entry, copying=means, copying_draws=draws)


def _mark(c: Copying) -> Copying:
    return replace(c, status="untested", because="the controls failed")
