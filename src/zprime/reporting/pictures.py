"""Grids of samples as PNG, and figures as SVG that are the same bytes for the same audit."""

import base64
import io
import re

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from zprime.reporting.palette import DATA, INK, LINE, MARK, SECOND, SOFT, STYLE

SHADES = {INK: "ink", SOFT: "soft", LINE: "line", DATA: "data", MARK: "mark", SECOND: "second"}


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
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """A picture inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: Figure, name: str) -> str:
    """A figure as an inline SVG element, without date; its ids begin with `name`, its colours are the page's."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in SHADES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
