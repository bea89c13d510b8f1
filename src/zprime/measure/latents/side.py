"""The latent side of an audit: all that needs no decoder, beside the gains and ELBO surgery."""

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

from zprime.latent import Active, Aggregated
from zprime.measure.candidates import Candidates
from zprime.measure.latents.hole import hole
from zprime.measure.latents.leave_one_out import leave_one_out, scored
from zprime.measure.latents.low_density import curves, log_densities, proportions
from zprime.measure.latents.minibatch import minibatch
from zprime.measure.latents.surgery import surgery
from zprime.measure.latents.total_correlation import total_correlation
from zprime.measure.likelihood.gains import RowGains, elbo_gain, exact_posterior_gain
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import LatentsSide, LeaveOneOut, Surgery, TwoSample
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.statistics.c2st import c2st
from zprime.statistics.mmd import mmd

SAMPLE = 1000  # held-out codes, and draws of each candidate, for the two-sample tests
FEWEST = 8
ALONE = 500  # held-out rows for an aggregated posterior that is no candidate; fewer beside more than 60,000 components
CONTROL = "codes of the selection split"


def surgeries(study: Study) -> dict[str, Surgery]:
    """ELBO surgery of every split.

    Raises:
        NumericalError: a proven bound is broken.
    """
    cuts: dict[str, Surgery] = {}
    if study.train.posteriors.form == "points":
        return cuts
    for i, split in enumerate(study.splits):
        study.progress("ELBO surgery", i, len(study.splits))
        cuts[split.name] = surgery(split, rng=study.stream("surgery", split.name), prior=study.prior)
    study.progress("ELBO surgery", len(study.splits), len(study.splits))
    return cuts


def latents_side(
    study: Study, candidates: Candidates, split_gains: Mapping[str, RowGains], cut: Surgery | None
) -> LatentsSide:
    """Measure what is memorised, the hole, total correlation, and how held-out codes differ from draws.

    With 60,000 training rows, 16 latents and ten candidates it takes half a minute of one core.

    Args:
        study: what the audit works on.
        candidates: the candidates.
        split_gains: of `selection` and `heldout`, measured with the same candidates.
        cut: ELBO surgery of the training split; None where posteriors have no density: then most is not to be had.
    """
    seed, prior = study.seed, study.prior
    train, heldout = study.train.posteriors, study.heldout.posteriors
    independent = _independent(study.heldout, seed)
    if cut is None:
        tests = two_sample(study, candidates, independent)
        return LatentsSide({}, hole=None, total_correlation=None, minibatch=None, low_density={}, two_sample=tests)
    densities = log_densities(train, independent, seed=seed, prior=prior)
    return LatentsSide(
        leave_one_out=_leave_one_out(study, candidates, split_gains["heldout"]),
        hole=hole(study, split_gains, cut) if heldout.n > 2 and _units(study.heldout) > 1 else None,
        total_correlation=total_correlation(study.train, seed=seed, prior=prior, progress=study.progress),
        minibatch=minibatch(study.train, seed=seed) if _plain(train) and train.n > 1 else None,
        low_density=proportions(densities, seed=seed),
        two_sample=two_sample(study, candidates, independent),
        density_curves=curves(densities),
    )


def _leave_one_out(study: Study, candidates: Candidates, heldout: RowGains) -> dict[CandidateId, LeaveOneOut]:
    """For the candidates, and for the aggregated posterior too where it is no candidate."""
    train, seed, progress = study.train.posteriors, study.seed, study.progress
    if _units(study.train) < 2:
        return {}
    measured = leave_one_out(candidates, study.train, heldout, seed=seed, progress=progress)
    if any(isinstance(r.base if isinstance(r, Active) else r, Aggregated) for r in candidates.bases.values()):
        return measured
    aggregated = Aggregated(train.mean, train.scale, train.weights)
    alone = Candidates({"aggregated": aggregated}, prior=study.prior)
    taken = study.heldout.take(_pick(study.heldout.posteriors, min(ALONE, scored(train.n, 1)), seed))
    some, rng = taken.posteriors, study.stream("aggregated alone")
    elbo = elbo_gain(alone, some, rng=rng)
    exact = {k: some.by_datum(v) for k, v in exact_posterior_gain(alone, some, rng=rng).items()}
    row_gains = RowGains("heldout", some.row_ids, elbo, exact, weights=taken.weights, groups=taken.groups)
    return measured | leave_one_out(alone, study.train, row_gains, seed=seed, progress=progress)


def two_sample(study: Study, candidates: Candidates, heldout: MemoryPosteriors) -> dict[str, TwoSample]:
    """One code of each held-out row beside as many draws of every candidate, and of the selection split as control.

    The rows are independent and count the same: see `Split.independent`. Empty where there are fewer than 8.

    Args:
        study: what the audit works on.
        candidates: the candidates.
        heldout: posteriors of independent held-out rows.
    """
    seed = study.seed
    selection = _independent(study.selection, seed)
    n = min(SAMPLE, heldout.n, selection.n)
    if n < FEWEST:
        return {}
    rng = study.stream("two samples")
    x = heldout.take(_pick(heldout, n, seed)).draw(rng=rng)
    others = {CONTROL: selection.take(_pick(selection, n, seed)).draw(rng=rng)}
    for wanted in candidates.leading:
        r = candidates.distribution(wanted)
        others[str(wanted)] = r.sample(n, rng=study.stream("two samples", wanted.name))
    tests: dict[str, TwoSample] = {}
    for step, (name, y) in enumerate(others.items()):
        study.progress("two-sample tests", step, len(others))
        tests[name] = TwoSample(
            c2st(x, y.to(x.dtype), split="heldout", seed=seed), mmd(x, y.to(x.dtype), split="heldout", seed=seed)
        )
    study.progress("two-sample tests", len(others), len(others))
    return tests


def _independent(split: Split, seed: int) -> MemoryPosteriors:
    """Posteriors of independent rows of a split that count the same."""
    return split.independent(stream(seed, "independent", split.name)).posteriors


def _plain(train: MemoryPosteriors) -> bool:
    """Whether every row is a datum that counts the same, as minibatch estimators take it."""
    return train.weights is None and train.datum is None


def _units(split: Split) -> int:
    """Groups, or independent rows: one of them cannot be left out if it is the only one."""
    return split.design.units(split.n)


def _pick(p: MemoryPosteriors, n: int, seed: int) -> Int[Tensor, " m"]:
    """Positions of `n` rows at random, ascending."""
    return p.pick(n, rng=stream(seed, "latent side rows"))
