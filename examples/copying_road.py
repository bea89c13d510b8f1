"""The road from copies to off the data: python examples/copying_road.py runs/fashion [docs/images/copying_road.png]

The bandwidth h of `exemplars` leads from the aggregated posterior (h = 0) to one Gaussian (h = 1). How near are decoded
samples to the training rows, compared with reconstructions of rows that no part has seen?
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from zprime import Posteriors, Run, artifact, vae
from zprime.latent import ExemplarsSettings, Prior
from zprime.measure.copying import Copying, Neighbours, TrainingSet, copying
from zprime.posteriors import Sharded
from zprime.reporting.pictures import CODES, DRAWS, INK, STYLE
from zprime.rng import generator

GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
N = 2000


@dataclass
class Road:
    """A run's rows, posteriors and decoder, ready to be sampled."""

    job: Run

    def __post_init__(self) -> None:
        self.posteriors = {
            s: Sharded(self.job.path / "posteriors" / s).gather() for s in ("train", "selection", "heldout")
        }
        self.vae = vae.load(self.job.path / "model")
        train, codes = self.job.rows["train"].x, self.posteriors["train"].mean
        self.set = TrainingSet(train, codes, yardstick=min(N, self.posteriors["heldout"].n), seed=0)
        self.yardstick = self.decode(self.codes("heldout"))[0]

    def codes(self, split: str) -> torch.Tensor:
        """One draw z ~ q(z|x) for rows of a split."""
        p = self.posteriors[split]
        rows = torch.randperm(p.n, generator=generator(0, "rows", split))[:N]
        return p.take(rows).draw(rng=generator(0, "codes", split))

    def decode(self, z: torch.Tensor) -> tuple[Neighbours, torch.Tensor]:
        """Decoder means, and where they lie to the training set."""
        batches = vae.decoded(self.vae, z, noise="mean", rng=generator(0, "x"))
        x = torch.cat([x for _, x in batches])
        return self.set.neighbours(x), x

    def measure(self, r: Posteriors | object) -> Copying:
        """Copying by draws of a latent distribution."""
        return copying(self.decode(r.sample(N, rng=generator(0, "draws")))[0], self.yardstick)  # type: ignore[attr-defined]


def main(run: Path, out: Path) -> None:
    """Measure along the road, print the table, draw the figure."""
    torch.set_num_threads(1)
    road = Road(Run.open(run))
    rng = generator(0, "plant")
    shape = road.job.rows["train"].x.shape[1:]
    controls = {
        "planted copies": copying(road.set.neighbours(road.set.plant(N, rng=rng).reshape(-1, *shape)), road.yardstick),
        "reconstructions": copying(road.decode(road.codes("selection"))[0], road.yardstick),
        "prior": road.measure(Prior(road.vae.latents)),
    }
    steps = []
    for h in GRID:
        settings = ExemplarsSettings(bandwidth=h)
        train, selection = road.posteriors["train"], road.posteriors["selection"]
        fitted = settings.fit(train, selection=selection, context=None, rng=generator(0, "fit"))
        steps.append(road.measure(fitted.distribution))
    print("| z′ from | nearer one | near | singled | authentic | Z_U | C_T | gate |")
    print("| --- " * 8 + "|")
    for name, c in [*controls.items(), *((f"h = {h:g}", c) for h, c in zip(GRID, steps, strict=True))]:
        chance = f"{c.within.value:.3f} ± {c.within.stderr:.3f}"
        shares = [f"{100 * e.value:.1f} %" for e in (c.near, c.singled, c.authenticity)]
        statistics = f"{c.z_u.value:+.1f} | {c.c_t.value:+.1f}"
        print(f"| {name} | {chance} | {' | '.join(shares)} | {statistics} | {c.status} |")
    draw(steps, controls, str(road.job.dataset.name), out)


def draw(steps: list[Copying], controls: dict[str, Copying], name: str, out: Path) -> None:
    """Chance and Z_U over h, with the controls as lines."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        low = [c.within.value - c.within.low for c in steps]
        high = [c.within.high - c.within.value for c in steps]
        marks = {"marker": "o", "markersize": 4, "color": DRAWS}
        left.errorbar(GRID, [c.within.value for c in steps], yerr=[low, high], capsize=2, **marks)
        right.plot(GRID, [c.z_u.value for c in steps], **marks)
        for axis, field in ((left, "within"), (right, "z_u")):
            for label, c in controls.items():
                value = getattr(c, field).value
                axis.axhline(value, color=CODES, linewidth=0.8, linestyle=":")
                axis.text(1.0, value, label, color=INK, ha="right", va="bottom", fontsize=8)
            axis.set_xlabel("bandwidth h of exemplars", color=INK)
            axis.tick_params(colors=INK)
        left.axhspan(0.55, 1.02, color=DRAWS, alpha=0.08, linewidth=0)
        left.set_ylim(0, 1.05)
        left.set_ylabel("chance that a sample is the nearer one", color=INK)
        right.axhline(0, color=INK, linewidth=0.5)
        right.set_ylabel("Z_U (below 0: copies)", color=INK)
        figure.suptitle(f"{name}: from copies (h = 0) to off the data (h = 1)", color=INK, fontsize=10)
        artifact.make_folder(out.parent)
        figure.savefig(out, dpi=110, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("docs/images/copying_road.png"))
