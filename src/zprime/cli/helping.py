"""What the help of the command line shows, and how."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cyclopts.help import DefaultFormatter, HelpPanel

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

SIMPLE = 12  # denominators of proportions that are shown as such
EXAMPLES = {
    "init": "zprime init mymodel.py",
    "run": "zprime run --data digits --out runs/digits",
    "train": "zprime train --data digits --out runs/digits",
    "encode": "zprime encode runs/digits",
    "fit": "zprime fit runs/digits --kinds mixture --set mixture.components=64",
    "audit": "zprime audit runs/digits --quick",
    "refine": "zprime refine runs/digits --with mixture",
    "explain": "zprime explain runs/digits",
    "report": "zprime report runs/digits runs/other",
    "sample": "zprime sample runs/digits -n 100 --out digits.png",
    "export": "zprime export runs/digits --onnx",
    "explore": "zprime explore runs/digits",
    "card": "zprime card runs/digits",
    "verify": "zprime verify runs/digits",
    "codes": "zprime codes runs/digits",
    "kinds": "zprime kinds",
    "doctor": "zprime doctor",
}
"""One of each verb, in the order of work."""
EPILOGUE = "Examples, in the order of work:\n\n" + "\n".join(f"- {line}" for line in EXAMPLES.values())


def shown_default(value: Any) -> str | None:
    """A default as one types it: numbers of a list with blanks between them, a sixth as 1/6; None shows none."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, float) and 0 < value < 1 and len(str(value)) > SIMPLE:
        return str(Fraction(value).limit_denominator(SIMPLE))
    return '""' if value == "" else str(value)


class Help(DefaultFormatter):
    """Panels without the options that make a list empty; they work all the same."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: HelpPanel) -> None:
        """Show one panel."""
        entries = [
            e.copy(negative_names=tuple(n for n in e.negative_names if not n.startswith("--empty-")))
            for e in panel.entries
        ]
        super().__call__(console, options, panel.copy(entries=entries))
