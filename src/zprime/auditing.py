"""Audit: every candidate measured on held-out data, with verdicts. Nothing is fitted here."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch.distributions import Distribution

from zprime import artifact
from zprime.calls import taken
from zprime.data import Rows
from zprime.data.duplicates import sentence, shared_sentence
from zprime.distribution import LatentDistribution
from zprime.encoding import Reencoded
from zprime.errors import UsageError
from zprime.latent import StandardNormal, prior_of
from zprime.latent.gaussian import marginal_moments
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.duration import check_memory, duration
from zprime.measure.entries import draws_per_second, entry
from zprime.measure.latents.averages import averages
from zprime.measure.latents.side import latents_side, surgeries
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.gains import PRIOR, RowGains
from zprime.measure.likelihood.membership import membership
from zprime.measure.likelihood.proposal import enough_draws, wider
from zprime.measure.likelihood.scores import UNIT
from zprime.measure.likelihood.side import likelihood_side
from zprime.measure.prior import closed, prior_log_prob, prior_width
from zprime.measure.samples.pictures import candidate_grids, held_out_grids, latent_map
from zprime.measure.samples.side import measure_samples
from zprime.measure.study import (
    Space,
    Split,
    Study,
    described,
    gather,
    index_of,
    near,
    shared_rows,
    without_duplicates,
)
from zprime.measure.verdicts.generation import decide_generation
from zprime.measure.verdicts.likelihood import by_likelihood
from zprime.measure.verdicts.other_scale import under_other_scale
from zprime.posteriors import Posteriors
from zprime.progress import Expectation, Progress, shown
from zprime.results.audit import Audit, AuditSettings
from zprime.results.facts import DataInfo, ModelInfo, Storage
from zprime.results.likelihood import LikelihoodSide
from zprime.results.names import STANDARD
from zprime.results.samples import SamplesSide
from zprime.results.settings import FEWEST
from zprime.results.thresholds import THRESHOLDS
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.statistics.format import percent
from zprime.vae import Model

MOST_WIDE = (
    "; where most are, see whether the data are scaled as in training, and whether the encoder answers (mean, scale)"
)
NEAR = 2  # rows of either split that near-duplicates are looked for among, for each row whose gains are measured
OF_BROUGHT = "audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, prior=mine.prior)"

TYPES = {"settings": AuditSettings, "data": DataInfo | None, "groups": Mapping | None, "workers": Integral}


@taken("audit", instead=f"of a brought model write {OF_BROUGHT}", types=TYPES)
def audit(
    candidates: Mapping[str, LatentDistribution | Fit[LatentDistribution]],
    posteriors: Mapping[str, Posteriors],
    *,
    model: Model | None = None,
    rows: Mapping[str, Rows] | None = None,
    prior: LatentDistribution | Distribution | None = None,
    data: DataInfo | None = None,
    settings: AuditSettings = AuditSettings(),
    features: Space | None = None,
    groups: Mapping[str, Any] | None = None,
    keep_duplicates: bool = False,
    seed: int = 0,
    workers: int = 1,
    quick: bool = False,
    progress: Progress = shown,
) -> Audit:
    """Measure all candidates and the prior, and give two verdicts: by likelihood and for generation.

    Args:
        candidates: name -> what `fit` returned, or a latent distribution. The audit measures each itself and, where a
            verdict may choose it, with the share of the prior that the fit chose (1 % of a bare distribution) as the
            candidate `name+p1`. A `Defensive` with at least 1 % of the prior is such a candidate already.
        posteriors: `train`, `selection` and `heldout`. Where they are weighted, all averages over their rows are.
        model: for the likelihood gain and the sample grids; without it only what needs no decoder is measured.
        rows: `selection` and `heldout` rows, in the order of their posteriors; needed with a model. With `train` rows
            too, samples are compared with data.
        prior: what the VAE was trained with, the base of every gain: ours, or a torch Distribution with one latent as
            its event; None is N(0, I). Where it is another, the exact-posterior gain is by draws, and N(0, I) is a
            candidate (`standard-normal`).
        data: a description of the data set, for the report. Where its `duplicates` are not None, the splits have been
            looked through: that is not done again.
        settings: how much to measure.
        features: a feature space of your own: a function from rows, scaled as the model sees them, to features.
        groups: split -> the group of each row in the order of the posteriors, numbers or text, where rows come in
            groups, e.g. several of a subject: standard errors are by group. None for what `rows` say.
        keep_duplicates: keep selection and held-out rows that equal a training row. Without it they are left out, and
            more than 1 % of a split is refused.
        seed: of every draw.
        workers: threads that measure side by side, each with one core. More than one only if `model` uses neither
            torch's global random numbers nor other state of its own; the numbers do not depend on it.
        quick: measure at most what a quick audit does, as `settings.quick`: a fraction of the time, with wider
            intervals. The audit says what was left out.
        progress: called by the long parts, and with about how long the audit will take, or has left. By default lines
            on standard error.

    Raises:
        UsageError: a split is missing, settings that cannot be used or whose tables do not fit into memory, or a prior
            without a density or of another dimension.
        ArrayError: rows and posteriors do not belong together, a group lies in two splits, or more than 1 % of the rows
            equal training rows.
        NumericalError: a proven bound is broken.
    """
    settings = replace(settings, quick=quick or settings.quick).resolve()
    settings.check()
    _check_given(candidates, posteriors, rows)
    if model is not None and not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise UsageError(
            f"model: expected an object with encode and decode, got {type(model).__name__}; of a brought model "
            f"{OF_BROUGHT}"
        )
    if model is not None and rows is None:
        raise UsageError("rows: expected the selection and heldout rows beside the model, got none")
    splits, info = _splits(posteriors, rows, data or DataInfo(), groups, keep=keep_duplicates)
    index = index_of(splits[0])
    info = replace(info, near=near(splits[0], splits[2], seed=seed, most=NEAR * settings.rows, index=index))
    train, selection, heldout = splits if model is not None else [replace(s, rows=None) for s in splits]
    study = Study(
        train,
        selection,
        heldout,
        prior=prior_of(prior, train.posteriors.d),
        model=model,
        settings=settings,
        features=features or settings.features,
        data=info,
        seed=seed,
        workers=workers,
        progress=progress,
        index=index if settings.samples else None,
    )
    fits = {name: r if isinstance(r, Fit) else Fit(r) for name, r in candidates.items()}
    if not closed(study.prior) and not any(isinstance(f.distribution, StandardNormal) for f in fits.values()):
        fits[StandardNormal.kind] = Fit(StandardNormal(study.prior.d))
    made = {name: candidate_of(f.distribution, f.chosen.epsilon, study.prior) for name, f in fits.items()}
    among = Candidates(made, prior=study.prior)
    study = replace(study, settings=enough_draws(study.settings, len(among.bases)))
    check_memory(study)
    expectation = Expectation(progress, "audit")
    if expectation.wanted:
        takes = duration(study, among)
        expectation.tell(takes.seconds, words=takes.words, parts=takes.parts, again=takes.again)
    found = _measure(replace(study, progress=expectation), among, fits)
    expectation.done()
    return found


def _check_given(candidates: Any, posteriors: Any, rows: Any) -> None:
    """Raise `UsageError` for what is not given by name or by split, or is of another type."""
    for name, given in (("candidates", candidates), ("posteriors", posteriors), ("rows", rows or {})):
        if not isinstance(given, Mapping):
            raise UsageError(
                f"{name}: expected a mapping, got {type(given).__name__}; give e.g. audit({{'mixture': fit}}, "
                f"{{'train': ..., 'selection': ..., 'heldout': ...}}), and of a brought model {OF_BROUGHT}"
            )
    for name, r in candidates.items():
        if not isinstance(r, LatentDistribution | Fit):
            raise UsageError(
                f"candidates: expected what fit(...) returned, or a latent distribution, under {name!r}, got "
                f"{type(r).__name__}; give e.g. {{'mixture': zprime.fit('mixture', ...)}}"
            )
    for name, given, kind in (("posteriors", posteriors, Posteriors), ("rows", rows or {}, Rows)):
        for split, one in given.items():
            if not isinstance(one, kind):
                raise UsageError(
                    f"{name}: expected {kind.__name__} under {split!r}, got {type(one).__name__}; zprime.encode and "
                    f"zprime.bring make them; of a brought model {OF_BROUGHT}"
                )


def _splits(
    posteriors: Mapping[str, Posteriors],
    rows: Mapping[str, Rows] | None,
    data: DataInfo,
    groups: Mapping[str, Any] | None,
    *,
    keep: bool,
) -> tuple[list[Split], DataInfo]:
    """The three splits without duplicates of training rows, and what is told of their rows."""
    train, *others = gather(posteriors, rows, groups)
    data, told = described(data, [train, *others]), data.duplicates
    if told is None:
        others, told = without_duplicates(train, *others, keep=keep)
    counts = {s.name: len(torch.unique(s.groups)) for s in (train, *others) if s.groups is not None}
    weighted = any(s.weights is not None for s in others)
    info = replace(
        data,
        duplicates=told,
        shared=shared_rows(*others),
        groups=counts,
        weights=(data.weights or "as the posteriors") if weighted else "",
    )
    return [train, *others], info


def _measure(study: Study, candidates: Candidates, fits: Mapping[str, Fit[LatentDistribution]]) -> Audit:
    """All measures, in order: each may use what was measured before it."""
    asked = study.settings
    study, split_gains, verdict = by_likelihood(study, candidates)
    cuts = surgeries(study)
    told = study.settings.latent_side
    latents = latents_side(study, candidates, split_gains, cuts.get("train")) if told else None
    likelihood = likelihood_side(study, candidates, split_gains["heldout"], best=verdict.best, draws=asked.draws)
    if likelihood is not None:
        likelihood = replace(likelihood, other_scale=under_other_scale(study, candidates, verdict))
    attacked = membership(study, candidates, split_gains["heldout"])
    tensors = {name: values for row_gains in split_gains.values() for name, values in row_gains.tensors().items()}
    tensors |= latent_map(study, candidates) | held_out_grids(study)
    measured = measure_samples(study, candidates)
    samples: SamplesSide | None = None
    if measured is None:
        tensors |= candidate_grids(study, candidates)
    else:
        decided = decide_generation(
            measured.contenders, measured.confirm, measured.controls, space=measured.space, seed=study.seed
        )
        samples = measured.side(decided)
        tensors |= measured.pictures
    make = partial(entry, candidates, split_gains=split_gains, seed=study.seed)
    shape = tensors["grid.prior"].shape[1:] if "grid.prior" in tensors else ()
    return Audit(
        data=study.data,
        model=_model(study),
        entries=[make(wanted, fits.get(wanted.name)) for wanted in candidates.ids],
        surgery=cuts,
        verdict=verdict,
        log_prior=_log_prior(split_gains["heldout"], likelihood, study.seed),
        storage=_storage(study),
        settings=asked,
        draws=study.settings.draws,
        seed=study.seed,
        tensors=tensors,
        images=len(shape) == 3 and shape[0] in (1, 3),
        warnings=_warnings(study, samples, likelihood),
        latents=latents,
        likelihood=likelihood,
        membership=attacked,
        samples=samples,
        averages=averages(study, cuts["train"]) if cuts and study.train.posteriors.datum is None else None,
        prior=STANDARD if closed(study.prior) else study.prior.label,
        versions=artifact.library_versions(),
    )


def _model(study: Study) -> ModelInfo:
    """What is known of the model: its latents, and what ELBO surgery does not say of codes without a density."""
    codes = study.train.posteriors
    if codes.form != "points":
        return ModelInfo(codes.d)
    variance = marginal_moments(codes)[1].tolist()
    kind = "none" if codes.datum is None and codes.log_q is None else "draws"
    return ModelInfo(codes.d, posterior=kind, codes=codes.data, variance=variance, kl=_kl_of_draws(study))


def _kl_of_draws(study: Study) -> Estimate | None:
    """Mean KL(q||p) of training rows where draws are known with log q there."""
    codes = study.train.posteriors
    if codes.log_q is None:
        return None
    by = ByDatum.of(codes)
    rows = by.mean(codes.log_q - prior_log_prob(study.prior, codes.mean))
    return mean_estimate(rows, unit=UNIT, split="train", seed=study.seed, design=by.design(study.train))


def _log_prior(heldout: RowGains, likelihood: LikelihoodSide | None, seed: int) -> Estimate | None:
    """Mean log p(x) of held-out rows under the prior."""
    if likelihood is not None:
        return likelihood.log_prob[PRIOR]
    if heldout.log_prior is None:
        return None
    return mean_estimate(heldout.log_prior, unit=UNIT, split="heldout", seed=seed, design=heldout.design)


def _storage(study: Study) -> Storage:
    """The two ways to keep the aggregated posterior, measured."""
    train, rows = study.train.posteriors, study.train.rows
    data_draws: int | None = None
    if study.model is not None and rows is not None and train.form != "points":
        data_draws = round(draws_per_second(Reencoded(study.model, rows), seed=study.seed, n=1000))
    return Storage(
        posteriors=train.bytes + (0 if train.log_q is None else train.log_q.numel() * train.log_q.element_size()),
        posteriors_draws=round(draws_per_second(train, seed=study.seed)),
        data=study.data.bytes,
        data_draws=data_draws,
    )


def _warnings(study: Study, samples: SamplesSide | None, likelihood: LikelihoodSide | None) -> list[str]:
    """What a reader must know beside the numbers."""
    warnings = [study.settings.says] if study.settings.quick else []
    if likelihood is not None and likelihood.other_scale is not None:
        warnings.append(likelihood.other_scale.says)
    warnings += [sentence(split, d) for split, d in (study.data.duplicates or {}).items()]
    warnings += [] if study.data.shared is None else [shared_sentence(study.data.shared)]
    beside = study.data.near
    if beside is not None and beside.share.low > THRESHOLDS.isolation:
        warnings.append(
            f"{percent(beside.share)} of held-out rows are nearer to a training row than 1 % of training rows are to "
            "one another: near-duplicates, which flatter whatever memorises"
        )
    heldout = study.heldout.posteriors
    wide = int(wider(heldout.mean, heldout.scale, prior_width(study.prior, heldout.d)).sum())
    if wide:
        warnings.append(
            f"{wide} of {heldout.n} held-out posteriors are wider than the prior in some dimension: "
            "the encoder is inexact there, and the exact-posterior gain with it"
            + (MOST_WIDE if 2 * wide > heldout.n else "")
        )
    if study.model is None or not study.settings.samples or samples is not None:
        return warnings
    fewest = min(study.selection.posteriors.data, study.heldout.posteriors.data)
    if fewest < FEWEST:
        why = f"the selection and held-out split have {fewest} rows at least, and {FEWEST} each are needed"
    else:
        why = "the audit was given no training rows"
    return [*warnings, f"samples were not compared with data: {why}"]
