"""Grids of samples as PNG, and figures as SVG that are the same bytes for the same audit."""

import base64
import io
import re
import warnings

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from zprime.escape import label
from zprime.reporting.palette import DATA, INK, LINE, MARK, PROBLEM, SECOND, SOFT, STYLE

SHADES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    DATA: "data",
    MARK: "mark",
    SECOND: "second",
    PROBLEM: "problem",
}


def grid(x: Float[Tensor, "n c h w"], *, columns: int = 8, zoom: int = 1) -> Image.Image:
    """Images with values from 0 to 1, side by side with a thin gap."""
    n, c, h, w = x.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, c), 255, np.uint8)
    pixels = _bytes(x)
    for i in range(n):
        top, left = 1 + i // columns * (h + 1), 1 + i % columns * (w + 1)
        sheet[top : top + h, left : left + w] = pixels[i]
    image = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def picture(x: Float[Tensor, "c h w"]) -> Image.Image:
    """One image with values from 0 to 1, pixel by pixel."""
    pixels: npt.NDArray[np.uint8] = _bytes(x[None])[0]
    return Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)


def _bytes(x: Float[Tensor, "n c h w"]) -> npt.NDArray[np.uint8]:
    """Values from 0 to 1 as bytes, channels last."""
    pixels: npt.NDArray[np.uint8] = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def sheet(x: Float[Tensor, "n c h w"], *, title: str = "", columns: int = 8) -> Figure:
    """The same as a figure, under a title."""
    across = min(columns, len(x))
    height = 0.62 * -(-len(x) // across) * x.shape[2] / x.shape[3]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.62 * across, height + 0.3 * bool(title)), layout="constrained")
        axis = figure.add_subplot()
        axis.imshow(np.asarray(grid(x, columns=columns)), cmap="gray", vmin=0, vmax=255)
        axis.set_title(label(title), color=INK)
        axis.set_axis_off()
    return figure


def png(image: Image.Image) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """A picture inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: Figure, name: str) -> str:
    """A figure as an inline SVG element, without date; its ids begin with `name`, its colours are the page's."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser has its own fonts
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")  # else all is drawn once more before it is written
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = UNIVERSAL.sub("", text[text.index("<svg") :])
    return TAG.sub(lambda tag: _of_the_page(tag[0], name), text)


TAG = re.compile(r"<[^<>]*>")
"""What matplotlib writes around text, in which `<` and `>` are escaped."""
UNIVERSAL = re.compile(r"<style\b[^>]*>\*\{[^{}]*\}</style>")
"""Its style sheet, which would hold for all of the page; its values are given to the root instead, and inherited."""
ROOT = '<svg stroke-linejoin="round" stroke-linecap="butt" '
FONT = re.compile(r"^(?:(\w+) )??(?:(\d{3}|bold) )?([\d.]+px) (.+)$")
"""`font`, which is no attribute of SVG: style, weight, size, families."""


def _of_the_page(tag: str, name: str) -> str:
    """A tag with ids of its own, in the page's colours, and without a `style`, which the page's policy forbids."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    for colour, variable in SHADES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    tag = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), tag)
    return ROOT + tag.removeprefix("<svg ") if tag.startswith("<svg ") else tag


def _attributes(style: str) -> str:
    """The declarations of a `style` as attributes of their own."""
    pairs = [(k.strip(), v.strip()) for k, _, v in (part.partition(":") for part in style.split(";")) if k.strip()]
    found = []
    for key, value in pairs:
        font = FONT.match(value) if key == "font" else None
        if font is None:
            found.append((key, value))
        else:
            names = ("font-style", "font-weight", "font-size", "font-family")
            found += [(k, v) for k, v in zip(names, font.groups(), strict=True) if v]
    return "".join(f' {k}="{v}"' for k, v in found)
