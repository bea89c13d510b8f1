"""Make the README's picture from a run: python examples/picture.py runs/fashion docs/images/fashion.png"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zprime import artifact
from zprime.reporting import pictures
from zprime.results.audit import load as load_audit
from zprime.results.names import ROWS


def main(run: Path, out: Path) -> None:
    """Held-out images, then samples from each latent distribution, with the held-out likelihood gain of each."""
    audit = load_audit(run / "audit")
    titles = {ROWS: "held-out data"}
    for name in ("prior", "mixture", "aggregated"):
        entry = audit.entry(name)
        gain = entry.heldout.likelihood.gain
        said = "" if name == "prior" else f"\n{gain} nats per row"
        titles[f"grid.{name}"] = f"z' from {entry.label}{said}"
    sheets = [pictures.grid(audit.tensors[n][:32], columns=8, zoom=2).convert("RGB") for n in titles]
    gap, head = 24, 84
    width, height = sheets[0].width + gap, sheets[0].height + head + gap
    canvas = Image.new("RGB", (2 * width - gap, 2 * height - gap), "white")  # two beside two: read on a phone as well
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(30)
    for i, (title, sheet) in enumerate(zip(titles.values(), sheets, strict=True)):
        x, y = width * (i % 2), height * (i // 2)
        pen.text((x, y + (4 if "\n" in title else 42)), title, fill="black", font=font)
        canvas.paste(sheet, (x, y + head))
    artifact.make_folder(out.parent)
    artifact.write_file(out, pictures.png(canvas))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
