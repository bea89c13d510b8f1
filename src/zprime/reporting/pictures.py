"""Grids of samples as PNG, and figures as SVG that are the same bytes for the same audit."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from zprime.record import Audit

STYLE: Any = {
    "svg.hashsalt": "zprime",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
}
INK, CODES, DRAWS = "#5b6470", "#8a94a3", "#d1495b"


def grid(x: Float[Tensor, "n c h w"], *, columns: int = 8, zoom: int = 1) -> Image.Image:
    """Images with values from 0 to 1, side by side with a thin gap."""
    n, c, h, w = x.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, c), 255, np.uint8)
    pixels: npt.NDArray[np.uint8] = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for i in range(n):
        top, left = 1 + i // columns * (h + 1), 1 + i % columns * (w + 1)
        sheet[top : top + h, left : left + w] = pixels[i]
    image = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def png(image: Image.Image) -> bytes:
    """PNG bytes."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """A picture inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: Figure) -> str:
    """A figure as an inline SVG element, without date."""
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def latent_map(audit: Audit) -> Figure:
    """Held-out codes beside draws from the prior and from every candidate, in the codes' first two principal axes."""
    names = [e.name for e in audit.entries if e.eligible and f"map.{e.name}" in audit.tensors]
    codes = audit.tensors["map.codes"].double()
    centre = codes.mean(0)
    _, _, axes = torch.linalg.svd(codes - centre, full_matrices=False)
    plane = axes[:2].T if codes.shape[1] > 1 else torch.cat([axes.T, torch.zeros(1, 1)], 1).double()

    def flat(z: Tensor) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = ((z.double() - centre) @ plane).numpy()
        return out

    points = flat(codes)
    reach = float(np.abs(points).max()) * 1.15
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns, 3.0 * lines), layout="constrained")
        for i, name in enumerate(names):
            axis = figure.add_subplot(lines, columns, i + 1)
            draws = flat(audit.tensors[f"map.{name}"])[:1000]
            axis.scatter(
                points[:1000, 0],
                points[:1000, 1],
                s=4,
                color=CODES,
                alpha=0.45,
                linewidths=0,
                rasterized=True,
                label="held-out codes",
            )
            axis.scatter(
                draws[:, 0], draws[:, 1], s=4, color=DRAWS, alpha=0.45, linewidths=0, rasterized=True, label="draws"
            )
            axis.set_title(audit.entry(name).label, color=INK)
            axis.set_xlim(-reach, reach)
            axis.set_ylim(-reach, reach)
            axis.set_aspect("equal")
            axis.tick_params(colors=INK)
    return figure


def components_curve(audit: Audit) -> Figure | None:
    """Number of components against the code gain on the selection split, where a fit chose it."""
    curves = [(e.label, e.curve) for e in audit.entries if e.curve and "components" in e.curve[0]]
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axis = figure.add_subplot()
        for label, curve in curves:
            x = [c["components"] for c in curve]
            y = [c["gain"] for c in curve]
            error = [1.96 * (c["stderr"] or 0.0) for c in curve]
            axis.errorbar(x, y, yerr=error, marker="o", markersize=4, capsize=2, label=label, color=DRAWS)
        axis.set_xscale("log")
        axis.set_xlabel("components K", color=INK)
        axis.set_ylabel("code gain, selection split\n(nats per row)", color=INK)
        axis.tick_params(colors=INK)
        axis.axhline(0, color=CODES, linewidth=0.8)
    return figure
