"""False alarms and power of *leave the prior*: `make bench-verdict`.

Every data set gets a linear-Gaussian VAE at its maximum-likelihood solution (Tipping & Bishop 1999) with exact
posteriors, real fits of gaussian, mixture and aggregated, and a whole audit. Where the data are Gaussian, r(z) = p(z)
is true; a hole is planted by drawing z1 from two clumps with mean 0 and variance 1.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from oracles import linear_gaussian, maximum_likelihood
from zprime.auditing import audit
from zprime.data import Rows
from zprime.fitting import fit
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.05)
SIZES = {"train": 500, "selection": 300, "heldout": 300}
KINDS = ("gaussian", "mixture", "aggregated")
SETTINGS = AuditSettings(rows=300, draws=120, grid=1, map=1, simulated=0)
HOLES = (0.1, 0.3, 1.0)
WRONG = 0.7
RESULTS = Path(__file__).parent / "results"
PAGES = Path(__file__).parents[1] / "docs" / "results"


def hole(a: float) -> float:
    """KL of two equal clumps N(+-a, 1 - a^2) from N(0, 1), in nats, by quadrature."""
    z = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    log_r = clumps(z, a, 1 - a * a)
    log_p = -0.5 * (z.square() + math.log(2 * math.pi))
    return float((log_r.exp() * (log_r - log_p)).sum() * (z[1] - z[0]))


def clumps(z: Tensor, a: float, var: float) -> Tensor:
    parts = torch.stack([-0.5 * (z - s * a).square() / var for s in (-1, 1)])
    return torch.logsumexp(parts, 0) - math.log(2) - 0.5 * math.log(2 * math.pi * var)


def place(size: float) -> float:
    """How far apart the clumps must be for a hole of this size: by bisection."""
    low, high = 0.0, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hole(middle) < size else (low, middle)
    return low


def seen(a: float) -> float:
    """What x shows of the hole, E log p_r(x) - log p_p(x): the KL of the same clumps with the noise of x added."""
    noise = MODEL.var / float(MODEL.gram[0])
    z = torch.linspace(-15, 15, 60001, dtype=torch.float64)
    log_r = clumps(z, a, 1 - a * a + noise)
    log_p = -0.5 * (z.square() / (1 + noise) + math.log(2 * math.pi * (1 + noise)))
    return float((log_r.exp() * (log_r - log_p)).sum() * (z[1] - z[0]))


def data(seed: int, split: str, a: float) -> Tensor:
    rng = stream(seed, "verdict", split)
    n = SIZES[split]
    z = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    side = 2 * (torch.rand(n, generator=rng) < 0.5).double() - 1
    z[:, 0] = a * side + math.sqrt(1 - a * a) * z[:, 0]
    noise = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    return z @ MODEL.weight.T + MODEL.bias + math.sqrt(MODEL.var) * noise


def verdict(seed: int, a: float, widen: float) -> tuple[str, str, float]:
    """Decision, choice and held-out gain of one data set."""
    x = {s: data(seed, s, a) for s in SIZES}
    model, _ = maximum_likelihood(x["train"], 2)
    vae = model.vae(widen=widen)
    posteriors = {s: MemoryPosteriors(*(v.contiguous() for v in vae.encode(v))) for s, v in x.items()}
    fits = {k: fit(k, posteriors["train"], selection=posteriors["selection"], seed=seed) for k in KINDS}
    rows = {s: Rows(s, v, torch.arange(len(v))) for s, v in x.items()}
    v = audit(fits, posteriors, model=vae, rows=rows, settings=SETTINGS, seed=seed).verdict
    gain = v.numbers["heldout"].value if "heldout" in v.numbers else 0.0
    return v.decision, v.choice, gain


def cases() -> dict[str, tuple[float, float]]:
    """Name -> (where the clumps are, factor of the encoder's scales)."""
    found = {"r = p is true": (0.0, 1.0), f"r = p is true, scales of q times {WRONG}": (0.0, WRONG)}
    return found | {f"a hole of {h:g} nats": (place(h), 1.0) for h in HOLES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="go on from this seed, and add to what is there")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of the cases, from 0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = RESULTS / "verdict.json"
    kept: dict[str, list[list[object]]] = json.loads(store.read_text()) if store.exists() else {}
    for i, (name, (a, widen)) in enumerate(cases().items()):
        if args.only is not None and i not in args.only:
            continue
        if args.first and len(kept.get(name, [])) != args.first:
            parser.error(f"--first: expected {len(kept.get(name, []))}, what there is of {name!r}, got {args.first}")
        start = time.process_time()
        fresh = [list(verdict(seed, a, widen)) for seed in range(args.first, args.first + args.seeds)]
        kept[name] = (kept.get(name, []) if args.first else []) + fresh
        print(f"{name}: {time.process_time() - start:.0f} CPU s")
        RESULTS.mkdir(exist_ok=True)
        store.write_text(json.dumps(kept) + "\n")
    page = table(kept)
    (PAGES / "verdict.md").write_text(page)
    print(page)


def table(kept: dict[str, list[list[object]]]) -> str:
    sizes = ", ".join(f"{n} {s}" for s, n in SIZES.items())
    heads = ("data", "seen, nats", "data sets", "leave the prior", "keep", "undecided", "chosen", "mean held-out gain")
    lines = [
        "# The verdict by likelihood: false alarms and power",
        "",
        f"Linear-Gaussian models at their maximum-likelihood solution, {sizes} rows, two latents, five pixels; fits of "
        f"{', '.join(KINDS)} with default settings; {SETTINGS.draws} draws a row; seeds 0, 1, ... A hole is KL(r‖p) of "
        "the latent distribution that made the data; *seen* is what x shows of it, E[log p_r(x) - log p(x)]. Rates "
        "with their 95 % Wilson intervals.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    where = cases()
    for name, found in kept.items():
        n = len(found)
        counts = Counter(str(f[0]) for f in found)
        left = counts["leave the prior"]
        interval = binomtest(left, n).proportion_ci(method="wilson")
        chosen = ", ".join(f"{k} {c}" for k, c in Counter(str(f[1]) for f in found if f[1] != "prior").most_common())
        gains = [float(f[2]) for f in found if f[0] == "leave the prior"]  # type: ignore[arg-type]
        mean = f"{sum(gains) / len(gains):+.3f}" if gains else "-"
        rate = f"{left / n:.1%} ({interval.low:.1%} to {interval.high:.1%})"
        kept_, open_ = counts["keep the prior"] / n, counts["undecided"] / n
        visible = abs(seen(where[name][0]))
        lines.append(
            f"| {name} | {visible:.3f} | {n} | {rate} | {kept_:.1%} | {open_:.1%} | {chosen or '-'} | {mean} |"
        )
    lines += ["", "False alarms, tested against 5 % (one-sided binomial):"]
    for name, found in kept.items():
        if name.startswith("r = p"):
            left = sum(f[0] == "leave the prior" for f in found)
            p = binomtest(left, len(found), 0.05, alternative="greater").pvalue
            lines.append(f"{name}: {left} of {len(found)}, p = {p:.3f}{'' if p > 0.05 else ' **above 5 %**'}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
