"""Fit a latent distribution to posteriors, and decide on the selection split what share of the prior goes with it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zprime import artifact, latent
from zprime.distribution import Fit, LatentDistribution, Outcome, Settings, fields
from zprime.errors import ArrayError
from zprime.latent import Active, Defensive, Prior, settings_for
from zprime.latent.active import active_dimensions, restrict
from zprime.latent.context import Context
from zprime.latent.selection import Codes, best_epsilon, smallest_of_best
from zprime.posteriors import Posteriors
from zprime.progress import Progress, silent
from zprime.rng import fork, stream


def fit(
    settings: Settings | str,
    train: Posteriors,
    *,
    selection: Posteriors,
    context: Context | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Fit[LatentDistribution]:
    """Fit one kind, as `(1 - e) r + e p` with e in {0, 0.01, 0.05, 0.1} chosen on the selection split.

    Where the encoder leaves some dimensions unused, the kind is also fitted to the active ones alone, with the prior on
    the rest, and the selection split decides between the two.

    Args:
        settings: of the kind to fit, or its name for the defaults.
        train: posteriors of the training split: what r is fitted to.
        selection: posteriors of the selection split: what settings and e are chosen on.
        context: model and rows, for kinds that need them.
        seed: decides every random choice.
        progress: called by long fits.

    Raises:
        UsageError: unknown kind, or settings that cannot be used.
        ArrayError: the posteriors differ in dimension.
    """
    if isinstance(settings, str):
        settings = settings_for(settings)
    if train.d != selection.d:
        raise ArrayError(f"selection: expected {train.d} latent dimensions as in train, got {selection.d}")
    start = time.process_time()
    found = _fit(settings, train, selection, context, seed, progress)
    dims = active_dimensions(train)
    if not settings.needs and found.distribution.density != "none" and 0 < len(dims) < train.d:
        inner = _fit(settings, restrict(train, dims), restrict(selection, dims), None, seed, progress)
        found = _better(found, _widen(inner, dims, train.d), selection, seed)
    return replace(found, seconds=time.process_time() - start)


def _fit(
    settings: Settings,
    train: Posteriors,
    selection: Posteriors,
    context: Context | None,
    seed: int,
    progress: Progress,
) -> Fit[LatentDistribution]:
    rng = stream(seed, "fit", settings.kind)
    return defend(
        settings.fit(train, selection=selection, context=context, rng=rng, progress=progress), selection, seed=seed
    )


def _widen(found: Fit[LatentDistribution], dims: list[int], d: int) -> Fit[LatentDistribution]:
    """Put the prior on the collapsed dimensions; its share stays outermost, where it is the prior of all dimensions."""
    r = found.distribution
    wide: LatentDistribution
    if isinstance(r, Defensive):
        wide = Defensive(Active(r.base, tuple(dims), d), r.epsilon)
    else:
        wide = Active(r, tuple(dims), d)
    return replace(found, distribution=wide, chosen={**found.chosen, "active": dims})


def _better(
    plain: Fit[LatentDistribution], wrapped: Fit[LatentDistribution], selection: Posteriors, seed: int
) -> Fit[LatentDistribution]:
    """The one with the larger ELBO gain on the selection split; a tie goes to the one that stores less."""
    codes = Codes.draw(selection, rng=stream(seed, "active"))
    gains = [codes.gain(f.distribution.log_prob(codes.z)) for f in (plain, wrapped)]
    return (plain, wrapped)[smallest_of_best(gains, [f.distribution.bytes for f in (plain, wrapped)])]


def defend(found: Fit[LatentDistribution], selection: Posteriors, *, seed: int) -> Fit[LatentDistribution]:
    """Mix in the prior where that raises the ELBO gain on the selection split (nothing to do for the prior itself)."""
    r = found.distribution
    if (isinstance(r, Prior) and r.tau == 1) or r.density == "none":
        return found
    codes = Codes.draw(selection, rng=fork(stream(seed, "defend"), r.kind))
    share, gains = best_epsilon(codes, r)
    chosen = {**found.chosen, "epsilon": share, "selection_gain": gains.mean}
    if share == 0:
        return replace(found, chosen=chosen)
    outcome = found.outcome
    if outcome.ok:
        outcome = Outcome(message=f"{outcome.message}; mixed with {share:g} of the prior against rows it misses")
    return replace(found, distribution=Defensive(r, share), outcome=outcome, chosen=chosen)


def save_fit(
    found: Fit[LatentDistribution], settings: Settings, path: Path, *, key: str, seed: int, inputs: Mapping[str, str]
) -> artifact.Artifact:
    """Write a fitted latent distribution, with how its fit went."""
    r = found.distribution
    report = {
        "outcome": asdict(found.outcome),
        "chosen": found.chosen,
        "curve": found.curve,
        "trace": found.trace,
        "settings": {"kind": settings.kind, **fields(settings)},
    }
    config = {**r.config(), "fit": report}
    manifest = artifact.Manifest(f"latent/{r.kind}", config, key, seed, inputs, found.seconds)
    return artifact.write(path, manifest, tensors=r.tensors())


def load_fit(path: Path) -> Fit[LatentDistribution]:
    """Read a fitted latent distribution and how its fit went."""
    r = latent.load(path)
    found = artifact.read(path)
    report: dict[str, Any] = found.config.get("fit", {})
    outcome = Outcome(**report["outcome"]) if "outcome" in report else Outcome()
    return Fit(r, outcome, report.get("trace", {}), report.get("chosen", {}), report.get("curve", []), found.seconds)
