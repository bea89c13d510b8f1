"""Audit: every candidate measured on data that no part has seen, with a verdict. It measures; it does not fit."""

import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from zprime import artifact
from zprime.arrays import count_columns
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.encoding import Reencoded
from zprime.engine import in_threads
from zprime.errors import ArrayError, UsageError
from zprime.kernels import ExactIndex
from zprime.latent import Active, Defensive
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates
from zprime.measure.latents.averages import averages
from zprime.measure.latents.side import latents_side
from zprime.measure.latents.surgery import surgery
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.likelihood.side import likelihood_side
from zprime.measure.samples.features import Entries, Space
from zprime.measure.samples.side import generation
from zprime.measure.verdicts.likelihood import (
    UNIT,
    decide,
    elbo_estimate,
    exact_posterior_estimate,
    likelihood_estimate,
)
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.progress import Progress, silent
from zprime.results.audit import Audit, AuditSettings, Entry, Score, Scores
from zprime.results.facts import Chosen, DataInfo, ModelInfo, Storage
from zprime.results.latents import Surgery
from zprime.results.names import CandidateId, Gain
from zprime.results.settings import FEWEST
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.statistics.estimate import mean_estimate
from zprime.vae import Model

MOST_WIDE = (
    "; where most are, see whether the data are scaled as in training, and whether the encoder answers (mean, scale)"
)


def audit(
    candidates: Mapping[str, LatentDistribution | Fit[LatentDistribution]],
    posteriors: Mapping[str, Posteriors],
    *,
    model: Model | None = None,
    rows: Mapping[str, Rows] | None = None,
    data: DataInfo | None = None,
    settings: AuditSettings = AuditSettings(),
    features: Space | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = silent,
) -> Audit:
    """Measure all candidates and the prior, and give two verdicts: by likelihood and for generation.

    Args:
        candidates: name -> fitted latent distribution, or what `fit` returned.
        posteriors: `train`, `selection` and `heldout`.
        model: for the likelihood gain and the sample grids; without it only what needs no decoder is measured.
        rows: `selection` and `heldout` rows, in the order of their posteriors; needed with a model. With `train` rows
            too, samples are compared with data.
        data: a description of the data set, for the report.
        settings: how much to measure.
        features: a feature space of your own: a function from rows, scaled as the model sees them, to features.
        seed: of every draw.
        workers: threads that measure side by side, each with one core. More than one only if `model` uses neither
            torch's global random numbers nor other state of its own; the numbers do not depend on it.
        progress: called by the long parts.

    Raises:
        UsageError: a split is missing, or settings that cannot be used.
        ArrayError: rows and posteriors do not belong together.
        NumericalError: a proven bound is broken.
    """
    settings.check()
    for split in ("train", "selection", "heldout"):
        if split not in posteriors:
            raise UsageError(
                f"posteriors: expected train, selection and heldout, got {', '.join(posteriors) or 'none'}"
            )
    if model is not None and rows is None:
        raise UsageError("rows: expected the selection and heldout rows beside the model, got none")
    fits = {k: v if isinstance(v, Fit) else Fit(v) for k, v in candidates.items()}
    panel = Candidates({k: v.distribution for k, v in fits.items()})
    climbs = [partial(_ladder, panel, s, posteriors[s], model, rows, settings, seed) for s in ("selection", "heldout")]
    split_gains = {x.split: x for x in in_threads(climbs, workers=workers, progress=progress)}
    verdict = decide(panel, split_gains["selection"], split_gains["heldout"], seed=seed)
    cuts: dict[str, Surgery] = {}
    for i, split in enumerate(("train", "selection", "heldout")):
        progress("ELBO surgery", i, 3)
        cuts[split] = surgery(posteriors[split], split=split, rng=stream(seed, "surgery", split))
    progress("ELBO surgery", 3, 3)
    latent = latents_side(panel, posteriors, split_gains, cuts, seed=seed, progress=progress)
    info = data or DataInfo()
    side = likelihood_side(
        panel,
        split_gains,
        model,
        rows,
        best=verdict.best,
        log_scale=info.log_scale,
        simulated=settings.simulated,
        ais=settings.ais,
        temperatures=settings.temperatures,
        seed=seed,
        progress=progress,
    )
    tensors = _rows_tensors(split_gains)
    tensors |= _pictures(panel, posteriors["heldout"].gather(), model, rows, settings, seed)
    made, shown = generation(
        panel,
        posteriors,
        model,
        rows,
        samples=settings.samples,
        grid=settings.grid,
        features=features or settings.features,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    tensors |= shown or _neighbours(panel, tensors, rows)
    entries = [_entry(panel, fits, name, split_gains, seed) for name in panel.ids]
    held = split_gains["heldout"]
    log_prior = None
    if held.log_prior is not None:
        log_prior = mean_estimate(held.log_prior, unit=UNIT, split="heldout", seed=seed)
    storage = Storage(
        posteriors=posteriors["train"].bytes,
        posteriors_draws=round(_draws_per_second(posteriors["train"].gather(), seed)),
        data=info.bytes,
        data_draws=round(_draws_per_second(Reencoded(model, rows["train"]), seed, n=1000))
        if model is not None and rows is not None and "train" in rows
        else None,
    )
    shape = tensors["grid.prior"].shape[1:] if "grid.prior" in tensors else ()
    return Audit(
        data=info,
        model=ModelInfo(posteriors["train"].d),
        entries=entries,
        surgery=cuts,
        verdict=verdict,
        log_prior=log_prior,
        storage=storage,
        settings=settings,
        seed=seed,
        tensors=tensors,
        images=len(shape) == 3 and shape[0] in (1, 3),
        warnings=_warnings(info, posteriors["heldout"].gather()) + _left_out(model, settings, made, posteriors),
        latents=latent,
        likelihood=side,
        samples=made,
        averages=averages(posteriors, cuts["train"], seed=seed),
        versions=artifact.library_versions(),
    )


def _ladder(
    candidates: Candidates,
    split: str,
    posteriors: Posteriors,
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    settings: AuditSettings,
    seed: int,
    progress: Progress,
) -> RowGains:
    data = posteriors.gather()
    rng = stream(seed, "audit", split)
    picked = torch.randperm(data.n, generator=rng)[: settings.rows].sort().values
    chosen: Rows | None = None
    if model is not None and rows is not None and settings.draws:
        if not torch.equal(rows[split].ids, data.row_ids):
            raise ArrayError(f"rows: expected the {split} rows in the order of their posteriors, got other row ids")
        r = rows[split]
        chosen = Rows(split, r.x[picked], r.ids[picked])
    return measure_gains(
        candidates,
        data.take(picked),
        split=split,
        rng=rng,
        model=model if chosen else None,
        rows=chosen,
        draws=settings.draws,
        progress=progress,
    )


def _score(row_gains: RowGains, gain: Gain, wanted: CandidateId, seed: int) -> Score | None:
    values = row_gains.of(gain).get(wanted)
    if values is None:
        return None
    estimate = {
        Gain.ELBO: elbo_estimate,
        Gain.EXACT_POSTERIOR: exact_posterior_estimate,
        Gain.LIKELIHOOD: likelihood_estimate,
    }[gain]
    heavy = (row_gains.khat[wanted] > THRESHOLDS.khat).double().mean() if gain is Gain.LIKELIHOOD else None
    return Score(
        estimate(row_gains, wanted, seed),
        float(values.median()),
        float((values > 0).double().mean()),
        float((values < THRESHOLDS.lost).double().mean()),
        int((~torch.isfinite(values)).sum()),
        None if heavy is None else float(heavy),
    )


def _scores(row_gains: RowGains, wanted: CandidateId, seed: int) -> Scores:
    elbo, exact_posterior, likelihood = (_score(row_gains, gain, wanted, seed) for gain in Gain)
    if elbo is None:
        raise UsageError(f"gains: expected the ELBO gain of {wanted}, got none")
    return Scores(elbo, exact_posterior, likelihood)


def _entry(
    panel: Candidates,
    fits: Mapping[str, Fit[LatentDistribution]],
    wanted: CandidateId,
    split_gains: Mapping[str, RowGains],
    seed: int,
) -> Entry:
    r = panel.distribution(wanted)
    fit = fits.get(wanted.name)
    return Entry(
        id=wanted,
        kind=kind_of(r),
        label=r.label,
        gloss=r.gloss,
        epsilon=panel.blends[wanted].epsilon,
        bytes=r.bytes,
        holds_rows=r.holds_rows,
        scores={split: _scores(row_gains, wanted, seed) for split, row_gains in split_gains.items()},
        outcome="" if fit is None else fit.outcome.message,
        chosen=Chosen() if fit is None or wanted.alone else fit.chosen,
        curve=[] if fit is None or wanted.alone else list(fit.curve),
        draws_per_second=_draws_per_second(r, seed),
        seconds=None if fit is None else fit.seconds,
    )


def kind_of(r: LatentDistribution) -> str:
    """The kind of a latent distribution without what is wrapped round it."""
    while isinstance(r, Defensive | Active):
        r = r.base
    return r.kind


def _draws_per_second(r: LatentDistribution | Posteriors, seed: int, n: int = 10_000) -> float:
    """Draws z' per CPU second of this process, at one call."""
    start = time.process_time()
    r.sample(n, rng=stream(seed, "rate"))
    return n / max(time.process_time() - start, 1e-9)


def _rows_tensors(split_gains: Mapping[str, RowGains]) -> dict[str, Tensor]:
    """Every row's gains, so that any figure can be made again."""
    tensors: dict[str, Tensor] = {}
    for split, row_gains in split_gains.items():
        for gain in Gain:
            tensors |= {f"gain.{split}.{gain}.{i}": values for i, values in row_gains.of(gain).items()}
        tensors |= {f"quarter.{split}.{i}": values for i, values in row_gains.quarter.items()}
        parts = {"log_prior": row_gains.log_prior, "reconstruction": row_gains.reconstruction, "kl": row_gains.kl}
        tensors |= {f"{part}.{split}": values for part, values in parts.items() if values is not None}
    return tensors


@torch.no_grad()
def _pictures(
    candidates: Candidates,
    heldout: MemoryPosteriors,
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    settings: AuditSettings,
    seed: int,
) -> dict[str, Tensor]:
    """Codes and draws for the latent map; decoded samples, held-out rows and their reconstructions for the grids."""
    some = torch.randperm(heldout.n, generator=stream(seed, "map"))[: settings.map]
    codes = heldout.take(some)
    out = {"map.codes": codes.draw(rng=stream(seed, "map codes")).float()}
    if codes.labels is not None:
        out["map.labels"] = codes.labels
    zero = torch.zeros(1)
    counts = rows is not None and count_columns(rows["heldout"].x) is not None
    noise = "draw" if counts else "mean"
    for name, r in candidates.distributions.items():
        out[f"map.{name}"] = r.sample(settings.map, rng=stream(seed, "map", name)).float()
        if model is not None:
            shown = GenerativeModel(r, model, zero, zero)
            out[f"grid.{name}"] = shown.sample(settings.grid, rng=stream(seed, "grid", name), noise=noise)[1].float()
    if model is not None and rows is not None:
        real = torch.randperm(len(rows["heldout"]), generator=stream(seed, "grid"))[: settings.grid]
        x = rows["heldout"].x[real]
        out["grid.held-out data"] = x
        out["grid.reconstructions"] = model.decode(model.encode(x)[0]).mean.float()
    return out


def _neighbours(
    candidates: Candidates, tensors: Mapping[str, Tensor], rows: Mapping[str, Rows] | None
) -> dict[str, Tensor]:
    """The training row nearest to every sample that is shown, where samples were not compared with data."""
    grids = {name: tensors[f"grid.{name}"] for name in candidates.distributions if f"grid.{name}" in tensors}
    if rows is None or "train" not in rows or not grids:
        return {}
    x = rows["train"].x
    entries = Entries.fitting(x)
    among = ExactIndex(entries.of(x))
    return {f"near.{k}": x[among.nearest(entries.of(g), 1)[1][:, 0]].float() for k, g in grids.items()}


def _warnings(data: DataInfo, heldout: MemoryPosteriors) -> list[str]:
    out = [
        f"{count} {split} rows equal a training row exactly; gains on them flatter whatever memorises"
        for split, count in data.copies.items()
        if count
    ]
    wide = int((heldout.scale > 1).any(1).sum())
    if wide:
        out.append(
            f"{wide} of {heldout.n} held-out posteriors are wider than the prior in some dimension: "
            "the encoder is inexact there, and the exact-posterior gain with it"
            + (MOST_WIDE if 2 * wide > heldout.n else "")
        )
    return out


def _left_out(
    model: Model | None, settings: AuditSettings, made: object, posteriors: Mapping[str, Posteriors]
) -> list[str]:
    """Why samples were not compared with data, where that could have been expected."""
    if model is None or not settings.samples or made is not None:
        return []
    fewest = min(posteriors[s].n for s in ("selection", "heldout"))
    if fewest < FEWEST:
        return [
            f"samples were not compared with data: the selection and held-out split have {fewest} rows at least, and "
            f"{FEWEST} each are needed"
        ]
    return ["samples were not compared with data: the audit was given no training rows"]
