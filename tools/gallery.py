"""Write docs/gallery.md, and its pictures from a run: python tools/gallery.py runs/demo.

Every figure of `zprime.plot` is on the page, in the groups below. Those that the run has nothing for stand without a
picture.
"""

import sys
from pathlib import Path

from formulas import typeset

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
IMAGES = ROOT / "docs" / "images" / "gallery"
GROUPS = {
    "What to draw from": ("gains", "trade_off", "components"),
    "Samples": ("samples", "fidelity", "bandwidth_path", "columns", "counts"),
    "Latents": ("latent_map", "surgery", "dimensions", "averages", "hole", "low_density", "memorised", "two_samples"),
    "Encoder, training rows and new rows": ("calibration", "membership", "drift"),
}
HEAD = """# Gallery

Every figure of `zprime.plot`, by name. Each takes an audit, and returns a matplotlib figure, or None where the audit
has nothing for it. The pictures are of scikit-learn's digits (`make demo`, seed 0; made by
`python tools/gallery.py runs/demo`). The [report](report.md) shows the same figures with what they say.

<!-- slow -->
```python
import zprime
from zprime import plot

audit = zprime.run("digits", "runs/demo")  # or `zprime.load_audit` of a run's folder `audit/`
plot.gains(audit).savefig("gains.pdf")
```
"""


def told(name: str) -> str:
    """What the figure shows: the first sentence of its docstring."""
    from zprime import plot

    lines = (getattr(plot, name).__doc__ or "").split("\n\n")[0].split()
    return " ".join(lines).split("; None")[0].split(", or None")[0].removesuffix(".") + "."


def text(images: Path = IMAGES) -> str:
    """The page, with the pictures that are there."""
    out = HEAD
    for group, names in GROUPS.items():
        out += f"\n## {group}\n"
        for name in names:
            out += f"\n### {name}\n\n`plot.{name}(audit)`: {typeset(told(name))}\n"
            if (images / f"{name}.png").is_file():
                out += f"\n![{told(name)}](images/gallery/{name}.png)\n"
    return out


def pictures(run: Path) -> None:
    """Draw what the audit of a run has."""
    import zprime
    from zprime import plot

    audit = zprime.load_audit(run / "audit")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in (n for names in GROUPS.values() for n in names):
        figure = getattr(plot, name)(audit)
        if figure is not None:
            figure.savefig(IMAGES / f"{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    pictures(Path(sys.argv[1]))
    PAGE.write_text(text())
