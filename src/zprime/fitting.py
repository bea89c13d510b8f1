"""Fit a latent distribution to posteriors, and decide on the selection split what share of the prior goes with it."""

from dataclasses import replace

from zprime.distribution import Fit, LatentDistribution, Outcome, Progress, Settings, silent
from zprime.errors import ArrayError
from zprime.latent import Defensive, Prior, settings_for
from zprime.latent.choose import Codes, best_share
from zprime.latent.context import Context
from zprime.posteriors import Posteriors
from zprime.rng import fork, generator


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
    rng = generator(seed, "fit", settings.kind)
    found = settings.fit(train, selection=selection, context=context, rng=rng, progress=progress)
    return defend(found, selection, seed=seed)


def defend(found: Fit[LatentDistribution], selection: Posteriors, *, seed: int) -> Fit[LatentDistribution]:
    """Mix in the prior where that raises the code gain on the selection split (nothing to do for the prior itself)."""
    r = found.distribution
    if isinstance(r, Prior) or r.density == "none":
        return found
    codes = Codes.draw(selection, rng=fork(generator(seed, "defend"), r.kind))
    share, gains = best_share(codes, r)
    chosen = {**found.chosen, "epsilon": share, "selection_code_gain": float(gains.mean())}
    if share == 0:
        return replace(found, chosen=chosen)
    outcome = found.outcome
    if outcome.ok:
        outcome = Outcome(message=f"{outcome.message}; mixed with {share:g} of the prior against rows it misses")
    return replace(found, distribution=Defensive(r, share), outcome=outcome, chosen=chosen)
