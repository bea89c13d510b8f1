"""Make the README's picture from a run: python examples/picture.py runs/fashion docs/images/fashion.png"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zprime import artifact
from zprime.reporting import pictures
from zprime.results.audit import load as load_audit


def main(run: Path, out: Path) -> None:
    """Held-out images, then samples from each latent distribution, with the held-out likelihood gain of each."""
    audit = load_audit(run / "audit")
    titles = {"held-out data": "held-out data"}
    for name in ("prior", "mixture", "aggregated"):
        entry = audit.entry(name)
        gain = entry.heldout.likelihood.gain
        titles[name] = "z' from prior" if name == "prior" else f"z' from {entry.label}\n{gain} nats per row"
    sheets = [pictures.grid(audit.tensors[f"grid.{n}"][:48], columns=8, zoom=1).convert("RGB") for n in titles]
    gap, head = 16, 40
    width = sum(s.width for s in sheets) + gap * (len(sheets) - 1)
    canvas = Image.new("RGB", (width, sheets[0].height + head), "white")
    pen, font, x = ImageDraw.Draw(canvas), ImageFont.load_default(12), 0
    for title, sheet in zip(titles.values(), sheets, strict=True):
        pen.text((x, 4 if "\n" in title else 20), title, fill="black", font=font)
        canvas.paste(sheet, (x, head))
        x += sheet.width + gap
    artifact.make_folder(out.parent)
    artifact.write_file(out, pictures.png(canvas))


main(Path(sys.argv[1]), Path(sys.argv[2]))
