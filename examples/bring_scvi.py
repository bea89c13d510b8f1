"""scvi-tools' SCVI on real counts, with the aggregated posterior as prior: python examples/bring_scvi.py

celltypist ships a count matrix of 559 cells and 32,786 genes; the 500 most variable genes are kept. Beside the audit, a
posterior predictive check: cells generated from each latent distribution against held-out cells.
"""

import importlib.util
import logging
import os
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
warnings.simplefilter("ignore")

import anndata
import numpy as np
import pandas as pd
import scvi
import torch
from scvi.model import SCVI
from table import written
from torch import Tensor

import zprime
from zprime import bring
from zprime.rng import stream

logging.disable(logging.WARNING)
GENES, EPOCHS, SETS = 500, 300, 20
AUDIT = zprime.AuditSettings(rows=500, draws=400, simulated=0)


def cells() -> anndata.AnnData:
    """celltypist's sample (the file is read; celltypist is not imported), its most variable genes."""
    spec = importlib.util.find_spec("celltypist")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "data" / "samples" / "sample_cell_by_gene.csv"
    counts = pd.read_csv(file, index_col=0).round()  # integers, written with rounding errors
    x = counts.to_numpy(dtype=np.float32)
    share = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    top = np.sort(share.var(0).argsort()[-GENES:])
    return anndata.AnnData(x[:, top], obs=counts.index.to_frame(), var=counts.columns[top].to_frame())


def trained(adata: anndata.AnnData) -> SCVI:
    """SCVI as it comes (ZINB, 10 latents), with its KL term at full weight for the second half of training."""
    SCVI.setup_anndata(adata)
    scvi.settings.seed = 0
    model = SCVI(adata)
    model.train(
        max_epochs=EPOCHS,
        accelerator="cpu",
        train_size=0.6,
        validation_size=0.2,
        plan_kwargs={"n_epochs_kl_warmup": EPOCHS // 2},
        enable_progress_bar=False,
    )
    return model


def compare(real: Tensor, made: Tensor) -> list[float]:
    """Root mean square gaps between genes' log mean counts, shares of zeros, and correlations of log counts."""

    def summary(x: Tensor) -> list[Tensor]:
        log = x.log1p()
        common = log[:, real.mean(0).argsort(descending=True)[:100]] + 1e-6 * torch.randn(
            len(x), 100, generator=stream(0, "ties")
        )
        return [x.mean(0).log1p(), (x == 0).float().mean(0), torch.corrcoef(common.T).flatten()]

    return [float((a - b).square().mean().sqrt()) for a, b in zip(summary(real), summary(made), strict=True)]


def main() -> None:
    """Audit, then the check."""
    model = trained(cells())
    mine = bring.scvi(model)
    fits = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture", "aggregated", "exemplars")}
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=AUDIT)
    sizes = {s: p.n for s, p in mine.posteriors.items()}
    print(f"# celltypist's sample, {GENES} genes, cells {sizes}; {AUDIT.draws} draws, seed 0\n")
    print("\n".join(f"- {s}" for s in mine.says), "\n")
    print(written(audit))

    heldout = mine.rows["heldout"].x
    n = len(heldout)
    print(f"\n# Posterior predictive check: {SETS} sets of {n} generated cells against {n} held-out cells\n")
    print(
        "Root mean square gaps over genes (correlations: pairs of the 100 commonest); mean over sets ± their spread\n"
    )
    print("| z′ from | log mean count | proportion of zeros | correlations |")
    print("| --- | --- | --- | --- |")
    sources = {"prior": zprime.fit("prior", **mine.splits), **fits}
    for name, fit in sources.items():
        shown = mine.generator(fit.distribution, allow_rows=True)
        found = [
            compare(heldout, zprime.sample(shown, n, seed=s, noise="draw", allow_rows=True)[1]) for s in range(SETS)
        ]
        told(name, found)
    pick = [torch.randperm(sizes["train"], generator=stream(s, "control"))[:n] for s in range(SETS)]
    told("training cells (control)", [compare(heldout, mine.rows["train"].x[i]) for i in pick])
    print(f"\nVerdict: {audit.verdict.sentence}")


def told(name: str, found: list[list[float]]) -> None:
    """One row of the table."""
    means, spreads = np.mean(found, 0), np.std(found, 0, ddof=1)
    print(f"| {name} | " + " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True)) + " |")


if __name__ == "__main__":
    main()
