"""A run as users make it, step by step, each a process with one thread; its posteriors serve the other groups."""

import shutil
import sys
from pathlib import Path

from timing import FASHION, HERE

from zprime.posteriors import MemoryPosteriors, ShardedPosteriors

sys.path.insert(0, str(HERE))

from trees import Tree

EPOCHS = 5
STEPS: dict[str, tuple[str, ...]] = {
    "train": ("--data", str(FASHION), "--latents", "16", "--network", "mlp", "--epochs", str(EPOCHS), "--out"),
    "encode": (),
    "fit": (),
    "audit --quick": (),
    "audit": (),
}


def run(folder: Path) -> dict[str, float]:
    """Each step -> its CPU seconds, in a run that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    here, out = Tree(HERE.parent), dict[str, float]()
    for name, options in STEPS.items():
        verb, *how = name.split()
        command = ["-m", "zprime", "--threads", "1", "--quiet", verb, *how, *options, str(folder)]
        out[f"zprime {name}"] = here.run(*command).cpu
        print(f"zprime {name:40} {out[f'zprime {name}']:8.1f} CPU s", flush=True)
    return out


def posteriors(folder: Path) -> tuple[MemoryPosteriors, MemoryPosteriors]:
    """Those of the training and the held-out split of the run."""
    train, heldout = (ShardedPosteriors(folder / "posteriors" / split) for split in ("train", "heldout"))
    return train.gather(), heldout.gather()
