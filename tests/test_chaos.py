"""The harness of `make chaos` sees what it is to see: planted faults are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools" / "chaos"
WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from faults import Faults
from zprime import atomic
folder, way, mode, at = Path(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
faults = Faults(folder, mode, at)
faults.install()
try:
    if way == "whole":
        atomic.write_file(folder / "f", b"newer content")
    else:
        with open(folder / "f", "wb") as file:
            file.write(b"newer content")
except Exception as error:
    print(type(error).__name__)
print(faults.n, dict(faults.calls))
"""


def write(folder: Path, way: str, mode: str, at: int) -> tuple[str, str, list[str]]:
    """What the process said, what is then in the file, and what lies in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "f").write_text("older")
    words = [sys.executable, "-c", WRITE, str(TOOLS), str(folder), way, mode, str(at)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.stderr == ""
    return said.stdout, (folder / "f").read_text(), sorted(p.name for p in folder.iterdir() if p.name != "f")


def test_every_call_of_a_write_fails_once_and_the_file_is_whole(tmp_path: Path) -> None:
    said, content, _ = write(tmp_path / "0", "whole", "count", 0)
    assert content == "newer content"
    assert "'create': 1" in said
    assert "'write': 1" in said
    assert "'fsync': 1" in said
    assert "'replace': 1" in said
    n = int(said.split()[0])
    for at in range(1, n + 1):
        said, content, left = write(tmp_path / "error", "whole", "error", at)
        assert content == "older"
        assert said.startswith("UsageError")
        assert left == []
    _, content, left = write(tmp_path / "kill", "whole", "kill", 2)
    assert (content, len(left)) == ("older", 1)


@pytest.mark.parametrize("mode", ["error", "kill", "full"])
def test_a_write_in_place_is_seen_to_lose_what_was_there(tmp_path: Path, mode: str) -> None:
    _, content, _ = write(tmp_path / "run", "in place", mode, 2)
    assert content == "newer "


def test_a_file_that_is_read_in_spite_of_its_damage_is_a_fault(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(TOOLS)!r})
import damage
from failures import Tally
from zprime.errors import ArtifactError
def refuses():
    raise ArtifactError("altered")
def crashes():
    raise KeyError("raw")
tally = Tally()
damage.check(tally, "flip", "one", [refuses], harmless=False)
assert tally.faults == [] and tally.ended == {{"flip: refused": 1}}
damage.check(tally, "flip", "two", [lambda: 1], harmless=False)
damage.check(tally, "flip", "three", [crashes], harmless=True)
damage.check(tally, "flip", "four", [refuses], harmless=True)
assert [f.split(":")[0] for f in tally.faults] == ["two", "three", "four"]
assert tally.ended == {{"flip: refused": 1}}  # what was a fault is not counted as refused
assert tally.injected == {{"flip": 4}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
