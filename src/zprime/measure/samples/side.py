"""What comes out, and who gets copied: the x' side of the audit."""

from collections.abc import Mapping
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
from zprime.measure.candidates import Blend, Candidates
from zprime.measure.samples.bandwidth_path import bandwidth_path
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.samples.features import Classifier, Entries, Space, build_features, train_classifier
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.labels import label_coverage
from zprime.measure.samples.manifold import Neighbourhoods, neighbourhoods
from zprime.measure.samples.sampler import Sample, Sampler
from zprime.measure.samples.tstr import accuracy, hits
from zprime.measure.verdicts.generation import Contender, decide_generation
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent
from zprime.results.names import CandidateId
from zprime.results.samples import (
    PLANTED,
    REAL,
    RECONSTRUCTED,
    TSTR,
    BandwidthPath,
    Copying,
    Sampled,
    SamplesSide,
)
from zprime.results.settings import FEWEST
from zprime.rng import stream
from zprime.statistics.estimate import Estimate
from zprime.vae import Model


def generation(
    candidates: Candidates,
    posteriors: Mapping[str, Posteriors],
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    *,
    samples: int,
    grid: int = 64,
    features: str | Space = "auto",
    seed: int,
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[SamplesSide | None, dict[str, Tensor]]:
    """Measure samples of every candidate, and keep some for pictures, each with its nearest training row.

    Nothing is measured without decoder or training rows, or with fewer than 40 rows to compare.

    Args:
        candidates: the candidates.
        posteriors: `train`, `selection` and `heldout`.
        model: encoder and decoder.
        rows: the three splits, in the order of their posteriors.
        samples: generated rows of each candidate; 0 leaves all of this out.
        grid: rows of each that are kept: `grid.<name>` and `near.<name>`.
        features: a feature space by name (`auto`, `pixels`, `log-counts`, `codes`, `classifier`,
            `selfsupervised`), or a function from rows to features.
        seed: decides every draw.
        workers: candidates that are measured side by side, in threads.
        progress: called once a candidate.

    Raises:
        UsageError: a feature space that cannot be had.
    """
    if model is None or rows is None or "train" not in rows:
        return None, {}
    n = min(samples, len(rows["selection"]), len(rows["heldout"]))
    if n < FEWEST:
        return None, {}
    study = SampleStudy(candidates, posteriors, model, rows, samples, n, grid, features, seed, progress)
    controls = study.controls()
    measured = study.candidates(workers)
    tested = controls[PLANTED].status == "copies" and controls[RECONSTRUCTED].status == "passes"
    entries = [m.entry if tested else _untested(m.entry) for m in measured]
    path = study.path()
    if not tested:
        path = replace(path, points=[replace(s, copying=_mark(s.copying)) for s in path.points])
    verdict = decide_generation(
        [study.contender(m) for m in measured if not m.entry.id.alone],
        study.confirm,
        reconstructions=study.compared[RECONSTRUCTED],
        real=study.compared[REAL],
        tested=tested,
        space=study.space.name,
        seed=seed,
    )
    found = SamplesSide(
        features=study.space.name,
        says=study.space.says,
        noise=study.sampler.noise,
        samples=samples,
        rows=n,
        entries=entries,
        controls=controls,
        classifier=None if study.classifier is None else study.classifier.accuracy(rows["heldout"], seed=seed),
        verdict=verdict,
        path=path,
    )
    return found, study.pictures


@dataclass(frozen=True)
class _Measured:
    """An entry, with what the verdict needs beside it."""

    entry: Sampled
    bytes: int
    selection: Compared | None
    right: Bool[Tensor, " n"] | None


class SampleStudy:
    """Real rows, the reference and the sampler, made once for all candidates."""

    def __init__(
        self,
        candidates: Candidates,
        posteriors: Mapping[str, Posteriors],
        model: Model,
        rows: Mapping[str, Rows],
        samples: int,
        n: int,
        grid: int,
        features: str | Space,
        seed: int,
        progress: Progress,
    ) -> None:
        self.entrants, self.rows, self.samples, self.n, self.seed, self.progress = (
            candidates,
            rows,
            samples,
            n,
            seed,
            progress,
        )
        self.posteriors = {s: posteriors[s].gather() for s in ("selection", "heldout")}
        train = rows["train"]
        self.classifier: Classifier | None = train_classifier(train, seed=seed, progress=progress)
        self.space = build_features(
            features, train, encoder=model, classifier=self.classifier, seed=seed, progress=progress
        )
        self.train = posteriors["train"].gather()
        entries = Entries.fitting(train.x)
        reference = min(samples, len(rows["heldout"]))
        training = TrainingSet(train.x, self.train.mean, reference=reference, seed=seed, entries=entries)
        discrete = bool(((train.x == 0) | (train.x == 1)).all()) or entries.counts is not None
        noise = "draw" if discrete else "mean"  # the mean of a discrete p(x|z) is no datum
        self.sampler = Sampler(model, training, self.space, self.classifier, noise, grid)
        self.reference = self._reconstruct("heldout")
        picked = {s: torch.randperm(len(rows[s]), generator=self._rng("real", s))[:n] for s in self.posteriors}
        self.real = {s: rows[s].x[i] for s, i in picked.items()}
        self.truth = {s: None if rows[s].labels is None else rows[s].labels[i] for s, i in picked.items()}  # type: ignore[index]
        self.features = {s: self.space.of(x) for s, x in self.real.items()}
        self.neighbourhoods = {s: neighbourhoods(x) for s, x in self.features.items()}
        self.labels = {s: None if self.classifier is None else self.classifier.label(x) for s, x in self.real.items()}
        self.compared: dict[str, Compared] = {}
        self.pictures: dict[str, Tensor] = {}
        self.prior: Sample | None = None
        self.beside: dict[str, Neighbours] = {}

    def controls(self) -> dict[str, Sampled]:
        """Real rows of the selection split, reconstructions of them, and planted copies of training rows."""
        shape = self.rows["train"].x.shape[1:]
        planted = self.sampler.training.plant(self.samples, rng=self._rng("plant")).reshape(-1, *shape)
        found = {
            REAL: self.sampler.rows(self.real["selection"]),
            RECONSTRUCTED: self._reconstruct("selection"),
            PLANTED: self.sampler.rows(planted),
        }
        out: dict[str, Sampled] = {}
        for name, sample in found.items():
            self.progress("samples: controls", len(out), len(found))
            own = neighbourhoods(sample.features[: self.n])
            entry, self.compared[name], _ = self._measure(CandidateId(name), name, sample, own)
            out[name] = replace(entry, copying=None) if name == REAL else entry
            if name != REAL:
                self.beside[name] = sample.means
        self.progress("samples: controls", len(found), len(found))
        return out

    def candidates(self, workers: int) -> list[_Measured]:
        """Every candidate, and every base alone; the prior first, which others are mixed with."""
        names = list(self.entrants.distributions)
        done: list[str] = []

        def measure(owner: str, progress: Progress) -> list[_Measured]:
            progress("samples", len(done), len(names))
            found = self._owner(owner)
            done.append(owner)
            progress("samples", len(done), len(names))
            return found

        first = measure(names[0], self.progress)
        calls = [partial(measure, owner) for owner in names[1:]]
        rest = in_threads(calls, workers=workers, progress=self.progress)
        return [m for found in (first, *rest) for m in found]

    def _owner(self, owner: str) -> list[_Measured]:
        """A candidate and its base alone; samples of the base serve both."""
        out: list[_Measured] = []
        r = self.entrants.distributions[owner]
        base = self.entrants.bases.get(owner, r)
        rng = self._rng("samples", owner)
        sample = self.sampler.sample(base.sample(self.samples, rng=rng), rng=rng)
        if owner == "prior":
            self.prior, self.beside[owner] = sample, sample.means
        for wanted in (CandidateId(owner), CandidateId(owner, alone=True)):
            blend = self.entrants.blends.get(wanted, None if wanted.alone else Blend(owner, 0.0))
            if blend is not None:
                out.append(self._candidate(wanted, base if wanted.alone else r, base, blend, sample))
        return out

    def _candidate(
        self, wanted: CandidateId, r: LatentDistribution, base: LatentDistribution, blend: Blend, sample: Sample
    ) -> _Measured:
        if blend.epsilon and self.prior is not None:
            coin = torch.rand(self.samples, generator=self._rng("coin", wanted.name)) < blend.epsilon
            sample = sample.mixed(self.prior, coin)
        self.pictures[f"grid.{wanted}"] = sample.shown.float()
        self.pictures[f"near.{wanted}"] = self.rows["train"].x[sample.means.parent[: len(sample.shown)]].float()
        own = neighbourhoods(sample.features[: self.n])
        entry, _, right = self._measure(wanted, r.label, sample, own)
        if entry.tstr is not None and isinstance(base, Conditional):
            entry = replace(entry, tstr=replace(entry.tstr, own=self._own(base)))
        selection = None
        if wanted in self.entrants.eligible:
            selection = fidelity(
                self.features["selection"],
                sample.features[: self.n],
                split="selection",
                seed=self.seed,
                near=(self.neighbourhoods["selection"], own),
            )
        return _Measured(entry, r.bytes, selection, right)

    def _measure(
        self, wanted: CandidateId, label: str, sample: Sample, own: Neighbourhoods
    ) -> tuple[Sampled, Compared, Bool[Tensor, " n"] | None]:
        """All measures of one sample, and which rows of the selection split its classifier labels rightly."""
        y = self.reference
        coverage, tstr, right = None, None, None
        real, truth = self.labels["heldout"], self.truth["heldout"]
        if sample.labels is not None and real is not None and truth is not None and self.classifier is not None:
            labels = sample.labels[: self.n]
            coverage = label_coverage(real, labels, self.classifier.classes, split="heldout", seed=self.seed)
            tstr, right = self._tstr(sample.x[: self.n], labels)
        compared = fidelity(
            self.features["heldout"],
            sample.features[: self.n],
            split="heldout",
            seed=self.seed,
            labels=coverage,
            near=(self.neighbourhoods["heldout"], own),
        )
        draws = None
        if sample.draws is not None and y.draws is not None:
            draws = copying(sample.draws, y.draws, seed=self.seed)
        means = copying(sample.means, y.means, seed=self.seed)
        return Sampled(wanted, label, means, draws, compared.fidelity, tstr), compared, right

    def _tstr(self, x: Tensor, labels: Int[Tensor, " n"]) -> tuple[TSTR, Bool[Tensor, " n"]]:
        """A classifier trained on generated rows, tested on held-out rows and, for the choice, on rows of the selection split."""
        tests = {s: (self.real[s], t) for s, t in self.truth.items() if t is not None}
        found = hits(x, labels, tests)
        return TSTR(accuracy(found["heldout"], split="heldout", seed=self.seed)), found["selection"]

    def _own(self, r: Conditional) -> Estimate:
        """Accuracy when trained on rows with the labels that they were generated for."""
        rng = self._rng("own labels")
        z, labels = r.sample_labelled(self.n, rng=rng)
        x = self.sampler.decode(z, noise=self.sampler.noise, rng=rng)
        return self._tstr(x, labels)[0].accuracy

    def contender(self, m: _Measured) -> Contender:
        """What the verdict needs of a candidate."""
        if m.selection is None:
            raise UsageError(f"{m.entry.name}: only candidates that may be chosen are compared for the verdict")
        found = m.entry.fidelity.labels
        missing = [] if found is None else found.missing
        return Contender(m.entry.name, m.entry.label, m.bytes, m.entry.status, m.selection, missing, m.right)

    def confirm(self, name: str) -> Compared:
        """Fresh draws of a candidate beside held-out rows."""
        rng = self._rng("confirm", name)
        features, _ = self.sampler.look(self.entrants.distributions[name].sample(self.n, rng=rng), rng=rng)
        near = (self.neighbourhoods["heldout"], neighbourhoods(features))
        return fidelity(self.features["heldout"], features, split="heldout", seed=self.seed, near=near)

    def path(self) -> BandwidthPath:
        """Copying over the bandwidth, beside the controls and the prior."""
        rng = self._rng("road")
        return bandwidth_path(
            self.train,
            lambda z: self.sampler.decode(z, noise="mean", rng=rng),
            self.sampler.training,
            self.reference.means,
            self.beside,
            samples=self.samples,
            rng=rng,
            seed=self.seed,
            progress=self.progress,
        )

    def _reconstruct(self, split: str) -> Sample:
        """Rows of a split through encoder and decoder: one draw z ~ q(z|x) each, in random order."""
        p = self.posteriors[split]
        picked = p.take(torch.randperm(p.n, generator=self._rng("rows", split))[: self.samples])
        rng = self._rng("reconstruct", split)
        return self.sampler.sample(picked.draw(rng=rng), rng=rng)

    def _rng(self, *names: str) -> torch.Generator:
        return stream(self.seed, "generation", *names)


def _untested(entry: Sampled) -> Sampled:
    """With a status that says that the controls failed."""
    means, draws = (None if c is None else _mark(c) for c in (entry.copying, entry.copying_draws))
    return replace(entry, copying=means, copying_draws=draws)


def _mark(c: Copying) -> Copying:
    return replace(c, status="untested")
