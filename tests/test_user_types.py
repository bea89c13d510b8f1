"""A user's script is type-checked against the installed package: py.typed ships, and the public names have types."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zprime

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".mypy_cache" / "user"  # torch takes 10 s the first time, then 1 s
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def mypy(folder: Path, *scripts: str) -> str:
    """What mypy says of scripts in a folder of their own, where the package is installed and its sources are not."""
    pytest.importorskip("mypy")
    for i, text in enumerate(scripts):
        (folder / f"script_{i}.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(CACHE), "."]
    outside = {k: v for k, v in os.environ.items() if k not in ("MYPYPATH", "PYTHONPATH")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=outside).stdout


def test_py_typed_lies_beside_the_package() -> None:
    assert zprime.__file__ is not None
    assert Path(zprime.__file__).with_name("py.typed").is_file()


def test_scripts_of_the_readme_have_the_types_they_are_told(tmp_path: Path) -> None:
    assert len(BLOCKS) == 2
    wrong = 'import zprime\n\nzprime.load_data("digits")\n'
    told = mypy(tmp_path, *BLOCKS, wrong).splitlines()
    assert told[0] == (
        'script_2.py:3: error: Argument 1 to "load" has incompatible type "str"; expected "DataSettings"  [arg-type]'
    )
    assert told[1:] == ["Found 1 error in 1 file (checked 3 source files)"]
