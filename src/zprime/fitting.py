"""Fit a latent distribution to posteriors; the selection split chooses the share of the prior for its candidate."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Distribution

from zprime import artifact, chain, latent
from zprime.calls import taken
from zprime.data.duplicates import EQUAL, POSTERIOR, check_duplicates, duplicates_of, found, sentence
from zprime.distribution import LatentDistribution, Prior, is_standard
from zprime.errors import ArrayError
from zprime.latent import Active, ConditionalSettings, settings_for
from zprime.latent.active import active_dimensions, restrict
from zprime.latent.defensive import has_candidate
from zprime.latent.kind import Context, Fit, Outcome, Settings, Task, described, fields
from zprime.latent.priors import prior_of
from zprime.latent.selection import Codes, best_epsilon, smallest_of_best
from zprime.posteriors import MemoryPosteriors, Posteriors, Shard
from zprime.progress import Progress, shown
from zprime.results.facts import Chosen, CurvePoint
from zprime.rng import fork, stream
from zprime.schema import guarded
from zprime.schema.kinds import check_settings

log = logging.getLogger("zprime")
MOST = 1_000_000
"""Data that a fit of many passes is made to at most: their sums are then known to a part in a thousand."""
TYPES = {"settings": Settings | str, "train": Posteriors, "selection": Posteriors, "context": Context | None}


@taken("fit", instead="of a brought model write fit(kind, **mine.splits)", types=TYPES)
def fit(
    settings: Settings | str,
    train: Posteriors,
    *,
    selection: Posteriors,
    context: Context | None = None,
    prior: LatentDistribution | Distribution | None = None,
    keep_duplicates: bool = False,
    seed: int = 0,
    progress: Progress = shown,
) -> Fit[LatentDistribution]:
    """Fit one kind: the distribution itself, without any share of the prior.

    The candidate that an audit makes of it is `(1 - e) r + e p`; e in {0.01, 0.05, 0.1} is chosen on the selection
    split and noted in `chosen.epsilon`. A kind that no verdict may choose has none.

    Where the encoder leaves some dimensions unused, the kind is also fitted to the active ones alone, with N(0, I) on
    the rest, and the selection split decides between the two. (Not where the prior is another one, nor for a kind that
    no verdict may choose: it is what its definition says.)

    Rows of the selection split that equal a training row would choose whatever remembers it: they are left out, with a
    warning that counts and names them. With a context, rows are compared. Without one, posteriors are, bit for bit:
    that misses a row whose posterior was computed with another rounding, e.g. in a batch of another size. `audit` with
    the training rows finds it.

    Args:
        settings: of the kind to fit, or its name for the defaults.
        train: posteriors of the training split: what r is fitted to.
        selection: posteriors of the selection split: what settings and e are chosen on.
        context: model and rows, for kinds that need them.
        prior: p(z), what the VAE was trained with: ours, or a torch Distribution with one latent as its event; None is
            N(0, I).
        keep_duplicates: keep rows of the selection split that equal a training row, and do not look for them. Without
            it more than 1 % is refused.
        seed: decides every random choice.
        progress: called by long fits.

    A kind whose fit is more than one pass over the posteriors is fitted to at most 1,000,000 data, drawn at random.

    Raises:
        UsageError: unknown kind, settings or a prior that cannot be used.
        ArrayError: posteriors or context do not belong together, or more than 1 % of the selection split equals
            training rows.
    """
    if isinstance(settings, str):
        settings = settings_for(settings)
    p = prior_of(prior, train.d)
    if selection.d != train.d:
        raise ArrayError(f"selection: expected {train.d} latent dimensions as in train, got {selection.d}")
    start = time.process_time()
    if not keep_duplicates:
        selection, context = _unseen(train, selection, context)
    many = train.data
    if many > MOST and _of_posteriors(settings):
        train, context = train.some(MOST, rng=stream(seed, "fit", "some of many")), None

    def fresh(train: Posteriors, selection: Posteriors, prior: LatentDistribution, context: Context | None) -> Task:
        return Task(train, selection, prior, stream(seed, "fit", settings.kind), context, progress)

    task = fresh(train, selection, p, context)
    task.need_form(settings)
    whole = settings.fit(task)
    r, dims = whole.distribution, active_dimensions(train) if is_standard(p) else []
    if r.eligible and not settings.needs and not settings.whole and r.density != "none" and 0 < len(dims) < train.d:
        inner = fresh(restrict(train, dims), restrict(selection, dims), Prior(len(dims)), None)
        whole = _better(whole, _widen(settings.fit(inner), dims, train.d), task, seed)
    whole = with_share(whole, task, seed=seed)
    if train.data < many:
        said = f"fitted to {train.data:,} of {many:,} data, drawn at random; {whole.outcome.message}"
        whole = replace(whole, outcome=replace(whole.outcome, message=said))
    return replace(whole, settings=described(settings), seconds=time.process_time() - start)


def _of_posteriors(settings: Settings) -> bool:
    """Whether a fit takes many passes over posteriors, or their labels, and neither model nor rows."""
    base = settings.base if isinstance(settings, ConditionalSettings) else settings
    return not settings.quick and not (settings.needs - {"labels"}) and not base.needs - {"labels"}


def _unseen(train: Posteriors, selection: Posteriors, context: Context | None) -> tuple[Posteriors, Context | None]:
    """The selection split without rows that equal a training row.

    Raises:
        ArrayError: they are more than 1 %, or the context has other rows than the posteriors.
    """
    seen: Iterable[Tensor]
    if context is None:
        same, seen, looked_at = POSTERIOR, (_numbers(s) for s in train.shards()), _numbers(selection.gather())
    else:
        same, seen, looked_at = EQUAL, [context.train.compared], context.selection.compared
        if len(looked_at) != selection.n:
            raise ArrayError(f"context: expected the {selection.n} rows of selection, got {len(looked_at)}")
    equal = duplicates_of(seen, {"selection": looked_at})
    parts = selection.datum
    if parts is not None and "selection" in equal:  # a datum is there twice if all of its parts are
        different = torch.bincount(parts, (~equal["selection"]).double()) > 0
        equal = {"selection": ~different[parts]}
    told = found(equal, {"selection": selection.row_ids}, kept=False)
    check_duplicates(told, same)
    for split, d in told.items():
        log.warning("%s (%s)", sentence(split, d, same), d.named())
        at = (~equal[split]).nonzero().flatten()
        selection = selection.gather().take(at)
        context = None if context is None else replace(context, selection=context.selection.take(at))
    return selection, context


def _numbers(part: Shard | MemoryPosteriors) -> Tensor:
    """Means and standard deviations side by side, in the type that holds either."""
    return torch.cat([part.mean, part.scale.flatten(1)], 1).double()


def _widen(narrow: Fit[LatentDistribution], dims: list[int], d: int) -> Fit[LatentDistribution]:
    """Put N(0, I) on the collapsed dimensions."""
    wide = Active(narrow.distribution, tuple(dims), d)
    return replace(narrow, distribution=wide, chosen=replace(narrow.chosen, active=dims))


def _better(
    whole: Fit[LatentDistribution], active: Fit[LatentDistribution], task: Task, seed: int
) -> Fit[LatentDistribution]:
    """The one whose candidate has the larger ELBO gain on the selection split; a tie goes to what stores less."""
    codes = Codes.draw(task.selection, task.prior, rng=stream(seed, "active"))
    gains = [best_epsilon(codes, f.distribution)[1] for f in (whole, active)]
    return (whole, active)[smallest_of_best(gains, [f.distribution.bytes for f in (whole, active)])]


def with_share(fit: Fit[LatentDistribution], task: Task, *, seed: int) -> Fit[LatentDistribution]:
    """Note the share of the prior with the best ELBO gain on the selection split; none where there is no candidate."""
    r = fit.distribution
    if not has_candidate(r, task.prior):
        return fit
    codes = Codes.draw(task.selection, task.prior, rng=fork(stream(seed, "defend"), r.kind))
    epsilon, gains = best_epsilon(codes, r)
    return replace(fit, chosen=replace(fit.chosen, epsilon=epsilon, gain=gains.mean))


def save_fit(
    fit: Fit[LatentDistribution], settings: Settings, path: Path, *, key: str, seed: int, inputs: Mapping[str, str]
) -> artifact.Artifact:
    """Write a fitted latent distribution, with how its fit went."""
    r = fit.distribution
    report = {
        "outcome": asdict(fit.outcome),
        "chosen": asdict(fit.chosen),
        "curve": [asdict(point) for point in fit.curve],
        "trace": fit.trace,
        "settings": {"kind": settings.kind, **fields(settings)},
        "described": fit.settings,
    }
    config = {**r.config(), "fit": report}
    measured = {} if fit.seconds is None else {"seconds": fit.seconds}
    manifest = artifact.Manifest(f"latent/{r.kind}", config, key, seed, inputs, measured)
    return artifact.write(path, manifest, tensors=r.tensors())


def load_fit(path: Path) -> Fit[LatentDistribution]:
    """Read a fitted latent distribution and how its fit went.

    Raises:
        ArtifactError: missing, altered, no latent distribution, or not written by `save_fit`.
    """
    r = latent.load(path)
    stored = chain.read(path)
    if "fit" not in stored.config:  # saved by itself
        return Fit(r)
    check_settings(path, stored.kind, stored.config)
    report = stored.config["fit"]
    with guarded(path, "fit it again"):
        return Fit(
            r,
            Outcome(**report["outcome"]),
            report["trace"],
            Chosen(**report["chosen"]),
            [CurvePoint(**point) for point in report["curve"]],
            stored.measured.get("seconds"),
            report["described"],
        )
