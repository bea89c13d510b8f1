"""zprime init."""

import os
from pathlib import Path

from zprime import artifact
from zprime.cli.console import give, say
from zprime.errors import UsageError

TEXT = Path(__file__).with_name("mymodel.py.txt")
NAME = "mymodel.py"


def init(path: Path = Path(NAME)) -> None:
    """Write a commented Python file by which a VAE of your own comes to the command line; it runs as it stands.

    Parameters
    ----------
    path
        File to write; nothing may be there.
    """
    if path.suffix != ".py":
        raise UsageError(f"path: expected the name of a Python file, e.g. {NAME}, got {str(path)!r}")
    if os.path.lexists(path):
        raise UsageError(f"path: {path} is there already, and is not replaced; choose another name")
    artifact.make_folder(path.parent)
    artifact.write_file(path, TEXT.read_bytes().replace(NAME.encode(), path.name.encode()))
    say(f"{path}: a VAE of your own. It runs as it stands:")
    say(f"  python {path}")
    say(f"  zprime run --model {path}:build --model-weights weights.pt --data rows.npz --out runs/mine")
    give({"file": path})
