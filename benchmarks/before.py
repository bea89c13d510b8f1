"""The same data sets under the code before its repairs, for the columns *before* of docs/results.

It runs in a checkout of that code, with what it needs of this one:

    git worktree add ../before b2fb11e && cd ../before
    cp ../zprime/benchmarks/{before,worlds,models,planted,pools,harness}.py benchmarks
    cp ../zprime/tests/{bimodal,oracles}.py tests
    make .venv/.done && .venv/bin/python benchmarks/before.py
    cp benchmarks/results/before.json ../zprime/benchmarks/results

and then verdict.py, alarms.py (`--only` and no number: nothing is run) and clearing.py (`--page`) write their pages.
"""

from collections.abc import Callable, Mapping
from functools import partial

from harness import runs
from planted import BELIEVED, Planted, Split, believed, rule_cases
from pools import KINDS, SHARES, SIZES, Pools
from worlds import World, alarm_cases, duplicate_cases, verdict_cases

from zprime.auditing import audit
from zprime.fitting import fit
from zprime.latent.kind import Settings
from zprime.latent.selection import TIE
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.samples.copying import copying
from zprime.measure.verdicts.decision import needed
from zprime.measure.verdicts.likelihood import decide
from zprime.results.audit import Audit, AuditSettings
from zprime.statistics.estimate import mean_estimate

BEFORE = "b2fb11e"
LEAVE = "leave the prior"

LIKELIHOOD = AuditSettings(rows=300, draws=120, grid=1, map=1, simulated=0, samples=0)
SAMPLES = AuditSettings(draws=0, samples=400, grid=4, map=1, simulated=0, features="pixels")
BOTH = AuditSettings(rows=300, draws=120, samples=400, grid=4, map=1, simulated=0, features="pixels")


def audited(world: World, kinds: Mapping[str, Settings | str], settings: AuditSettings, seed: int) -> Audit:
    """Fit and audit; the code before knew no groups."""
    train, selection = world.posteriors["train"], world.posteriors["selection"]
    fits = {name: fit(k, train, selection=selection, seed=seed) for name, k in kinds.items()}
    return audit(fits, world.posteriors, model=world.model, rows=world.rows, settings=settings, seed=seed)


def by_likelihood(world: Callable[[int], World], kinds: Mapping[str, Settings | str], seed: int) -> object:
    found = audited(world(seed), kinds, LIKELIHOOD, seed).verdict
    return found.decision, found.choice


def by_samples(world: Callable[[int], World], kinds: Mapping[str, Settings | str], seed: int) -> object:
    return samples_of(audited(world(seed), kinds, SAMPLES, seed))


def by_both(world: Callable[[int], World], kinds: Mapping[str, Settings | str], seed: int) -> object:
    """Decision and choice by likelihood and for generation."""
    found = audited(world(seed), kinds, BOTH, seed)
    assert found.samples is not None
    first, second = found.verdict, found.samples.verdict
    return first.decision, first.choice, second.decision, second.choice


def samples_of(found: Audit) -> tuple[str, list[str]]:
    """The decision, and the copying status of every candidate."""
    assert found.samples is not None
    return found.samples.verdict.decision, [e.status for e in found.samples.entries if not e.id.alone]


def cleared(seed: int) -> object:
    """Status of samples with a share of copies, of a training set of its own."""
    pools = Pools(seed)
    return {
        f"{kind} {share:g} {n}": copying(pools.sample(kind, share, n), pools.unseen, seed=seed).status
        for n in SIZES
        for kind in KINDS
        for share in SHARES
    }


def ruled(make: Callable[[int], Planted], seed: int) -> object:
    """The rule alone; the code before knew no groups and no bound."""
    e = mean_estimate(make(seed).values, unit="nats per row", split="heldout", seed=seed)
    return LEAVE if e.value > needed(e, TIE) else "keep the prior", "", e.value


def decided(case: tuple[dict[str, float], str, int], seed: int) -> object:
    candidates, first, second = believed(case, seed)
    v = decide(candidates, split("selection", first), split("heldout", second), seed=seed)
    return v.decision, v.choice, 0.0


def split(name: str, planted: Split) -> RowGains:
    return RowGains(name, **planted._asdict())


def cases() -> dict[str, Callable[[int], object]]:
    """Name of the page, a colon and the name of its case -> what is run with one seed."""
    found: dict[str, Callable[[int], object]] = {
        f"verdict: {name}": partial(by_likelihood, *case) for name, case in verdict_cases().items()
    }
    found |= {f"alarms: {name}": partial(by_samples, *case) for name, case in alarm_cases().items()}
    found |= {f"alarms: {name}": partial(by_both, *case) for name, case in duplicate_cases().items()}
    found |= {"clearing": cleared}
    found |= {f"verdict: {name}": partial(ruled, make) for name, make in rule_cases().items()}
    found |= {f"verdict: {name}": partial(decided, case) for name, case in BELIEVED.items()}
    return found


def main() -> None:
    runs("What the code before its repairs made of the same data sets.", "before", cases())


if __name__ == "__main__":
    main()
