"""`make help` names every target, and no target is a file."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][a-z%-]*):(?!=)", TEXT, re.M)


def test_every_target_has_its_line_of_help() -> None:
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}  # not as part of `make test`
    run = subprocess.run(["make", "help"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    shown = run.stdout.splitlines()
    assert [line.split()[0] for line in shown] == TARGETS
    assert all(len(line.split(maxsplit=1)) == 2 for line in shown)


def test_every_target_is_phony() -> None:
    listed = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", TEXT, re.M)
    assert listed is not None
    assert set(listed[1].replace("\\", " ").split()) == {t for t in TARGETS if "%" not in t}
