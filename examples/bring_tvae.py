"""ctgan's TVAE on the diamonds table, its lost encoder kept: python examples/bring_tvae.py

Five seeds, each with rows and a TVAE of its own; the first is audited. Rows are drawn by TVAE's own sample(), from
N(0, I) and from zprime's mixture, and compared with held-out diamonds by sdmetrics' quality report.
"""

import importlib.util
import logging
import math
import os
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import pandas as pd
import torch
from ctgan import TVAE
from sdmetrics.reports import QualityReport
from table import written

import zprime
from zprime import bring

logging.disable(logging.INFO)
warnings.simplefilter("ignore")
SEEDS, EPOCHS = 5, 100
SIZES = {"train": 8000, "selection": 2000, "heldout": 4000}
CHOICES = ["cut", "color", "clarity"]
AUDIT = zprime.AuditSettings(rows=500, draws=400, simulated=0)


def diamonds(seed: int) -> dict[str, pd.DataFrame]:
    """Rows of plotnine's table at random, in three parts (the file is read; plotnine is not imported)."""
    spec = importlib.util.find_spec("plotnine")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    table = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "diamonds.csv")
    order = np.random.default_rng(seed).permutation(len(table))
    parts = np.split(order, np.cumsum(list(SIZES.values())))
    return {s: table.iloc[i].reset_index(drop=True) for s, i in zip(SIZES, parts, strict=False)}


def quality(real: pd.DataFrame, made: pd.DataFrame) -> dict[str, float]:
    """sdmetrics' scores, from 0 to 1."""
    columns = {c: {"sdtype": "categorical" if c in CHOICES else "numerical"} for c in real}
    report = QualityReport()
    report.generate({"t": real}, {"t": made}, {"tables": {"t": {"columns": columns}}}, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return {
        "overall": report.get_score(),
        "shapes": float(scores["Column Shapes"]),
        "pairs": float(scores["Column Pair Trends"]),
    }


def one(seed: int) -> dict[str, dict[str, float]]:
    """Train, audit, draw and score."""
    tables = diamonds(seed)
    torch.manual_seed(seed)
    model = TVAE(embedding_dim=16, epochs=EPOCHS, enable_gpu=False)
    model.set_random_state(seed)
    with bring.tvae_keeping() as kept:
        model.fit(tables["train"], CHOICES)
    mine = bring.tvae(model, tables, encoder=kept.encoder, seed=seed)
    kinds = ("gaussian", "mixture", "aggregated") if seed == 0 else ("mixture",)
    fits = {k: zprime.fit(k, **mine.splits, seed=seed) for k in kinds}
    if seed == 0:
        audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=AUDIT, seed=seed)
        print(f"# Diamonds: {SIZES}, 16 latents; {AUDIT.rows} held-out rows, {AUDIT.draws} draws, seed 0\n")
        print("\n".join(f"- {s}" for s in mine.says), "\n")
        print(written(audit))
        print(f"\nVerdict: {audit.verdict.sentence}", flush=True)
    # z' from the mixture whatever the verdict: the table below is to show whether that helps
    n = len(tables["heldout"])
    out = {"N(0, I)": quality(tables["heldout"], model.sample(n))}
    with bring.tvae_drawing(model, fits["mixture"].distribution, seed=seed):
        out["mixture"] = quality(tables["heldout"], model.sample(n))
    out["training rows"] = quality(tables["heldout"], tables["train"].head(n))
    return out


def main() -> None:
    """All seeds, and the paired differences."""
    found = [one(seed) for seed in range(SEEDS)]
    print(f"\n# sdmetrics' quality report against {SIZES['heldout']} held-out diamonds, {SEEDS} seeds\n")
    print("| z′ from | overall | column shapes | column pair trends |")
    print("| --- | --- | --- | --- |")
    for name in found[0]:
        means = [np.mean([f[name][k] for f in found]) for k in ("overall", "shapes", "pairs")]
        print(f"| {name} | " + " | ".join(f"{m:.1%}" for m in means) + " |")
    gap = np.array([f["mixture"]["overall"] - f["N(0, I)"]["overall"] for f in found])
    stderr = gap.std(ddof=1) / math.sqrt(SEEDS)
    print("\nMixture minus N(0, I), overall, seed by seed: " + ", ".join(f"{100 * g:+.2f}" for g in gap) + " points")
    better = gap.mean() > 2 * stderr
    worse = gap.mean() < -2 * stderr
    says = "better tables" if better else "worse tables" if worse else "no measurable difference"
    print(
        f"\nVerdict by quality report: {says} from the mixture ({100 * gap.mean():+.2f} ± {100 * stderr:.2f} points)."
    )


if __name__ == "__main__":
    main()
