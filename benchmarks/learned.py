"""A prior that is kept, fitted after training, refined, or learned in training: log p(x) at the same CPU seconds.

    python benchmarks/learned.py digits fashion [--seeds 0 1 2]        (`make bench-learned`)

*prior* is a default training with N(0, I), from which *post hoc* and *refined* go on. The budget is so many times
(`Case.more`) its CPU seconds. Refining and learned priors get the number of epochs that fills it, by what a few epochs
of each took; early stopping is on, so that they may take less. All runs score the same held-out rows with 400
draws each, and differences are paired by row. What is done is kept in results/learned.json; --again forgets it.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import zprime
from zprime import VAE, AuditSettings, Dataset, DataSettings, Rows, TrainSettings, VAESettings
from zprime.learned import going_on_from
from zprime.results.audit import Audit
from zprime.statistics.estimate import mean_estimate
from zprime.training import Trained

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from pages import DOCS, put, table
from trees import commit

HERE = Path(__file__).parent
STORE = HERE / "results" / "learned.json"
PAGE = DOCS / "learned.md"
SPLITS = ("train", "selection", "heldout")
PILOT = 3  # epochs that tell how long one takes
SLOWER = 1 / 3  # of the learning rate, where a trained model is trained on
LEARNED = ("vamp", "mixture", "flow", "exemplars", "aggregated", "coreset")
AUDIT = AuditSettings(
    rows=2000,
    first_draws=400,
    samples=0,
    simulated=0,
    exchange=0,
    members=0,
    other_scale=0,
    grid=4,
    latent_side=False,
    bandwidth_path=False,
)


class Case(NamedTuple):
    """What is trained on, and how many times the CPU seconds of a default training everything may take."""

    title: str
    data: DataSettings
    network: VAESettings
    more: float


CASES = {
    "digits": Case("digits, mlp, 8 latents", DataSettings("digits"), VAESettings(latents=8), 3.0),
    "fashion": Case(
        "Fashion-MNIST, 20,000 rows, mlp, 16 latents",
        DataSettings("/usr/share/datasets/fashion-mnist", limit=20_000),
        VAESettings(latents=16, network="mlp"),
        1.5,
    ),
}


class Scored(NamedTuple):
    """One way to come by a model and a latent distribution.

    Attributes:
        cpu: seconds of training, and of the fit where there is one.
        epochs: the one that was kept; of a refined model, after the training before.
        log_p: mean over the held-out rows, nats.
        gap, error: mean of log p(x) less that under the prior, paired by row, and its standard error.
        says: what the latent distribution is called.
    """

    cpu: float
    epochs: int
    log_p: float
    gap: float
    error: float
    says: str


def untrained(case: Case, data: Dataset, seed: int) -> VAE:
    return VAE.build(data.shape, case.network.resolve(data.shape), seed=seed)


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its CPU seconds."""
    start = time.process_time()
    return make(), time.process_time() - start


def trained(data: Dataset, vae: VAE, epochs: int, seed: int, **how: Any) -> tuple[Trained, float]:
    """Train with the default settings but for the number of epochs."""
    settings = how.pop("settings", TrainSettings(epochs=epochs))
    rows, selection = data.rows("train"), data.rows("selection")
    return timed(lambda: zprime.train(vae, rows, selection, settings, seed=seed, progress=lambda *_: None, **how))


def splits(data: Dataset) -> dict[str, Rows]:
    return {s: data.rows(s) for s in SPLITS}


def audited(rows: dict[str, Rows], vae: VAE, kinds: tuple[str, ...], seed: int) -> tuple[Audit, float]:
    """Log p(x) of held-out rows under the prior and under fits after training; CPU seconds of the fits."""
    posteriors = {s: zprime.encode(vae, rows[s]) for s in SPLITS}

    def fitted() -> dict[str, Any]:
        split = {"selection": posteriors["selection"], "prior": vae.prior, "seed": seed}
        return {k: zprime.fit(k, posteriors["train"], **split) for k in kinds}

    fits, cpu = timed(fitted)
    audit = zprime.audit(fits, posteriors, model=vae, rows=rows, prior=vae.prior, settings=AUDIT, seed=seed)
    return audit, cpu


class Heldout:
    """Log p(x) of the held-out rows under the prior N(0, I), which all others are compared with."""

    def __init__(self, prior: list[float]) -> None:
        self.prior = prior

    def scored(self, audit: Audit, name: str, cpu: float, epochs: int) -> Scored:
        entry = next(e for e in audit.leading if e.id.name == name)
        log_p = audit.log_prob(str(entry.id))
        self.prior = self.prior or log_p.tolist()
        gap = mean_estimate(log_p - torch.tensor(self.prior), unit="nats per row", split="heldout", seed=None)
        assert gap.stderr is not None
        return Scored(cpu, epochs, float(log_p.mean()), gap.value, gap.stderr, entry.label)


def measured(
    case: Case, seed: int, known: dict[str, Scored], keep: Callable[[str, Scored], None], rows: Heldout
) -> None:
    """Every way that is not known yet, one after the other."""
    data, scored = zprime.load_data(case.data, seed=seed), rows.scored
    default = TrainSettings().plan(len(data.rows("train")))
    if all(name in known for name in names()):
        return
    vae = untrained(case, data, seed)
    first, spent = trained(data, vae, default, seed)
    budget = case.more * spent
    if "post hoc" not in known:
        audit, fit = audited(splits(data), vae, ("mixture",), seed)
        keep("prior", scored(audit, "prior", spent, first.epoch))
        keep("post hoc", scored(audit, "mixture", spent + fit, first.epoch))
    for name, learn in (("refined", False), ("refined, r learned too", True)):
        if name not in known:
            epoch = spent / len(first.history)
            audit, more, epochs = refined(data, copy.deepcopy(vae), seed, budget - spent, epoch, learn=learn)
            keep(name, scored(audit, "prior", spent + more, epochs))
    for kind in LEARNED:
        if f"learned: {kind}" in known:
            continue
        _, pilot = trained(data, untrained(case, data, seed), PILOT, seed, prior=kind)
        vae = untrained(case, data, seed)
        found, cpu = trained(data, vae, max(1, round(PILOT * budget / pilot)), seed, prior=kind)
        audit, fit = audited(splits(data), vae, ("mixture",), seed)
        keep(f"learned: {kind}", scored(audit, "prior", cpu, found.epoch))
        keep(f"learned: {kind}, then post hoc", scored(audit, "mixture", cpu + fit, found.epoch))


def refined(data: Dataset, vae: VAE, seed: int, left: float, epoch: float, *, learn: bool) -> tuple[Audit, float, int]:
    """Fit a mixture and train on with it in place of the prior, in the CPU seconds `left`; an epoch takes `epoch`."""
    parts = {s: zprime.encode(vae, data.rows(s)) for s in SPLITS[:2]}
    r, fit = timed(lambda: zprime.fit("mixture", parts["train"], selection=parts["selection"], seed=seed))
    on = TrainSettings(epochs=max(1, math.floor((left - fit) / epoch)), lr=SLOWER * TrainSettings().lr, warmup=0)
    vae.prior = r.distribution
    how = {"prior": going_on_from(r.distribution)} if learn else {}
    again, more = trained(data, vae, on.epochs, seed, settings=on, start=True, **how)
    audit, _ = audited(splits(data), vae, ("gaussian",), seed)
    return audit, fit + more, again.epoch


def names() -> list[str]:
    """Every way."""
    learned = [f"learned: {kind}{after}" for kind in LEARNED for after in ("", ", then post hoc")]
    return ["prior", "post hoc", "refined", "refined, r learned too", *learned]


def row(name: str, seeds: list[dict[str, Scored]]) -> list[str]:
    """Differences from the prior: of each seed, paired by row, and their mean over seeds with its error."""
    values = [s[name].gap for s in seeds]
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    cells = ["–"] * (len(values) + 1)
    if name != "prior":
        cells = [f"{s[name].gap:+.2f} ± {s[name].error:.2f}" for s in seeds]
        cells.append(f"{statistics.mean(values):+.2f}{error}")
    cpu, log_p = (statistics.mean(getattr(s[name], field) for s in seeds) for field in ("cpu", "log_p"))
    return [name, *cells, f"{log_p:.2f}", f"{cpu:.1f}", " / ".join(str(s[name].epochs) for s in seeds)]


def page(store: dict[str, Any]) -> str:
    """The tables, of all cases and seeds that are complete."""
    parts = []
    for name, case in CASES.items():
        kept = store.get(name, {})
        seeds = {int(k): {n: Scored(*v) for n, v in found["ways"].items()} for k, found in kept.items()}
        if not seeds:
            continue
        names = [n for n in next(iter(seeds.values())) if all(n in s for s in seeds.values())]
        heads = ["z′ from", *(f"seed {k}" for k in seeds), "mean over seeds", "log p(x)", "CPU s", "epoch kept"]
        rows = [row(n, list(seeds.values())) for n in names]
        n = len(next(iter(kept.values()))["rows"])
        parts.append(f"**{case.title}**, {n:,} held-out rows:\n\n{table(heads, rows)}")
    parts.append(
        f"*`python benchmarks/learned.py {' '.join(store.get('cases', []))}` at commit {store.get('commit')}.*"
    )
    return "\n\n".join(parts)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() and not given.again else {}
    store |= {"commit": commit(HERE.parent), "cases": list(CASES)}
    for name in given.cases:
        for seed in given.seeds:
            found = store.setdefault(name, {}).setdefault(str(seed), {"rows": [], "ways": {}})
            known, rows = {k: Scored(*v) for k, v in found["ways"].items()}, Heldout(found["rows"])

            def keep(what: str, value: Scored, known: Any = known, found: Any = found, rows: Heldout = rows) -> None:
                known[what], found["ways"][what] = value, list(value)
                found["rows"] = [round(v, 4) for v in rows.prior]
                STORE.write_text(json.dumps(store))
                print(f"{what:40} {value.cpu:8.1f} CPU s  {value.gap:+.2f} ± {value.error:.2f}", flush=True)

            print(f"{name}, seed {seed}", flush=True)
            measured(CASES[name], seed, known, keep, rows)
    put(PAGE, "learned", page(store))
    print(page(store))


if __name__ == "__main__":
    main()
