"""Every kind on a ring of posteriors whose aggregated posterior is known in closed form: python examples/toy.py

Writes docs/images/toy.png, and the table of docs/kinds/toy.md.
"""

import io
import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from pages import DOCS, put, table
from PIL import Image
from scipy.special import i0e
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

import zprime
from zprime import artifact
from zprime.arrays import standard_log_prob
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import SETTINGS
from zprime.latent.kind import Context, Fit
from zprime.measure.candidates import mix
from zprime.memory import size
from zprime.posteriors import MemoryPosteriors
from zprime.reporting import pictures
from zprime.rng import stream
from zprime.statistics.format import proportion
from zprime.tables import NONE

N, SEED = 200, 0
SCALES = (0.04, 0.12)  # of the posteriors, either with probability 1/2, whatever the place
JITTER = 0.15  # standard deviation of the means about the ring
WIDTHS = [math.hypot(JITTER, s) for s in SCALES]
RADIUS = math.sqrt(2 * (1 - sum(w * w for w in WIDTHS) / len(WIDTHS)))  # so that the covariance is exactly I
HALF, SIDE = 3.0, 201  # the grid: [-HALF, HALF]^2, SIDE points each way
PAGE = DOCS / "kinds" / "toy.md"
PICTURE = DOCS / "images" / "toy.png"
INK, LINE = "#333a44", "#d1495b"


class Encoder:
    """A row is (mean, mean, log scale): the encoder has only to read it. The decoder gives the mean back."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :2], x[:, 2:].exp().expand(-1, 2)

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(z, torch.ones_like(z)), 1)


def rows(split: str) -> Rows:
    """N rows from the population; labels are quarters of the ring."""
    rng = stream(SEED, "toy", split)
    angle = 2 * math.pi * torch.rand(N, generator=rng, dtype=torch.float64)
    mean = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    mean = mean + JITTER * torch.randn(N, 2, generator=rng, dtype=torch.float64)
    scale = torch.tensor(SCALES, dtype=torch.float64)[torch.randint(2, (N,), generator=rng)]
    x = torch.cat([mean, scale.log()[:, None]], 1)
    return Rows(split, x, torch.arange(N), labels=(4 * angle / (2 * math.pi)).long())


def population(z: Tensor) -> Tensor:
    """Log-density of the population aggregated posterior: a circle blurred by two Gaussians (a Bessel function)."""
    r = z.norm(dim=1)
    terms = [
        torch.log(torch.from_numpy(i0e((r * RADIUS / w**2).numpy())))
        - (r - RADIUS).square() / (2 * w**2)
        - math.log(2 * math.pi * w**2 * len(WIDTHS))
        for w in WIDTHS
    ]
    return torch.logsumexp(torch.stack(terms), 0)


@dataclass(frozen=True)
class Row:
    """One kind: what was fitted, and log-densities on the grid: its own, and that of its candidate."""

    kind: str
    r: LatentDistribution
    epsilon: float
    log_r: Tensor
    log_candidate: Tensor

    @classmethod
    def measure(cls, kind: str, fit: Fit[LatentDistribution], z: Tensor) -> "Row":
        r, epsilon = fit.distribution, fit.chosen.epsilon or 0.0
        log_r = r.log_prob(z)
        return cls(kind, r, epsilon, log_r, mix(log_r, standard_log_prob(z), epsilon))


def square(side: int) -> tuple[Tensor, float]:
    """Points of the grid, and the area of a cell."""
    axis = torch.linspace(-HALF, HALF, side, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def kl(log_q: Tensor, log_r: Tensor, area: float) -> float:
    """KL(q || r) in nats by quadrature; where q is 0 in double precision it adds nothing."""
    q = log_q.exp()
    return float(torch.where(q > 0, q * (log_q - log_r), 0.0).sum()) * area


def coarse(log_q: Tensor) -> Tensor:
    """Every other point each way: what the error of the quadrature is told by."""
    return log_q.reshape(SIDE, SIDE)[::2, ::2].reshape(-1)


def measure() -> tuple[list[Row], MemoryPosteriors]:
    """Fit and evaluate every kind that has a density."""
    splits = {s: rows(s) for s in ("train", "selection")}
    model = Encoder()
    train, selection = (MemoryPosteriors(*model.encode(r.x), labels=r.labels) for r in splits.values())
    out = []
    for kind in SETTINGS:
        if kind == "shared-nuts":
            continue  # draws without a density
        found = zprime.fit(kind, train, selection=selection, context=Context(model, **splits), seed=SEED)
        out.append(Row.measure(kind, found, square(SIDE)[0]))
        print(f"{out[-1].r.label}: {found.outcome.message}", flush=True)
    return out, train


def written(rows: list[Row], truth: Tensor, qbar: Tensor, area: float) -> str:
    """The table, and how exact it is."""
    lines, worst = [], 0.0
    for row in rows:
        values = [kl(truth, row.log_r, area), kl(truth, row.log_candidate, area), kl(qbar, row.log_candidate, area)]
        again = kl(coarse(truth), coarse(row.log_candidate), 4 * area)
        worst = max(worst, abs(again - values[1]))
        shown = [f"{v:.3f}" if v < 100 else f"{v:,.0f}" for v in values]
        share = proportion(row.epsilon) if row.epsilon else NONE
        kept = [row.r.label, size(row.r.bytes), row.r.density]
        lines.append([f"[{row.kind}]({row.kind}.md)", *kept, shown[0], share, *shown[1:]])
    outside = abs(1 - float(truth.exp().sum()) * area)
    of_r, of_c = r"$\mathrm{KL}(\text{truth} \Vert r)$", r"$\mathrm{KL}(\text{truth} \Vert c)$"
    heads = ["kind", "as fitted", "stored", "density", of_r, "share of p", of_c, r"$\mathrm{KL}(\bar q \Vert c)$"]
    return (
        f"{table(heads, lines)}\n\n{N} posteriors, seed {SEED}; quadrature on {SIDE} × {SIDE} points of "
        f"$[-{HALF:g}, {HALF:g}]^2$: the truth's mass there is 1 to {outside:.0e}, and with half as many points each "
        f"way {of_c} moves by {worst:.0e} nats at most."
    )


def level(log_r: Tensor, area: float, share: float) -> float:
    """The density above which lies this share of the mass."""
    ranked = log_r.exp().sort(descending=True).values
    return float(ranked[min(int((ranked.cumsum(0) * area < share).sum()), len(ranked) - 1)])


def drawn(rows: list[Row], truth: Tensor, train: MemoryPosteriors, area: float) -> Figure:
    """Each r as the lines that hold 50 % and 95 % of its mass, over the truth in grey."""
    columns = 5
    axis = torch.linspace(-HALF, HALF, SIDE).numpy()
    figure = Figure(figsize=(11.5, 7.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0, hspace=0)
    panels = figure.subplots(-(-(len(rows) + 1) // columns), columns, sharex=True, sharey=True).flatten()
    for panel in panels:
        panel.set_axis_off()
        panel.set(aspect="equal", xlim=(-2.55, 2.55), ylim=(-2.55, 2.55))
        grey = truth.exp().reshape(SIDE, SIDE).T.numpy()
        panel.imshow(grey, extent=(-HALF, HALF, -HALF, HALF), origin="lower", cmap="Greys", vmax=1.6 * grey.max())
    panels[0].scatter(*train.mean.T.numpy(), s=3, color=INK, linewidths=0)
    panels[0].set_title(f"the truth, and {N} means", fontsize=10, color=INK)
    for panel, row in zip(panels[1:], rows, strict=False):
        density = row.log_r.exp()
        if abs(float(density.sum()) * area - 1) < 0.05:
            levels = [level(row.log_r, area, share) for share in (0.95, 0.5)]
            shape = density.reshape(SIDE, SIDE).T.numpy()
            panel.contour(axis, axis, shape, levels=levels, colors=LINE, linewidths=(0.9, 1.6))
        else:  # narrower than the grid: draws instead
            panel.scatter(*row.r.sample(50, rng=stream(SEED, "drawn")).T.numpy(), s=8, color=LINE, linewidths=0)
        value = kl(truth, row.log_r, area)
        panel.set_title(f"{row.r.label}\n{value:,.{2 if value < 100 else 0}f} nats", fontsize=10, color=INK)
    return figure


def main() -> None:
    """Measure, write, draw."""
    found, train = measure()
    z, area = square(SIDE)
    truth = population(z)
    put(PAGE, "make toy", written(found, truth, train.log_prob(z), area))
    buffer = io.BytesIO()
    drawn(found, truth, train, area).savefig(buffer, format="png", dpi=100)
    artifact.write_file(PICTURE, pictures.png(Image.open(buffer).convert("RGB")))


if __name__ == "__main__":
    main()
