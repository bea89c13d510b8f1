"""What was measured, group by group, at which commit: benchmarks/results/speed.json."""

import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timing import HERE, Row

from zprime.kernels import compiled

sys.path.insert(0, str(HERE))

from trees import commit

STORE = HERE / "results" / "speed.json"
CHANGED = ", changed"


def told(root: Path = HERE.parent) -> dict[str, str]:
    """Of what all groups are: the commit, and the machine."""
    kernel = "torch" if compiled.module is None else compiled.module.used()
    machine = f"{processor()}, one thread, torch {torch.__version__}, kernels: {kernel}"
    return {"commit": commit(root), "machine": machine}


class Results:
    """Results of one commit on one machine; those of another one are dropped."""

    def __init__(self, now: dict[str, str], file: Path = STORE) -> None:
        """Go on from what there is, if it is of the same commit without changes, and of the same machine."""
        self.file, self.now = file, now
        kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        same = kept.get("of") == now and not now["commit"].endswith(CHANGED)
        self.groups: dict[str, dict[str, Any]] = kept["groups"] if same else {}

    @classmethod
    def stored(cls, file: Path = STORE) -> "Results":
        """All that there is, of whatever commit, to be shown."""
        kept = json.loads(file.read_text())
        if "of" not in kept:
            sys.exit(f"{file}: of an earlier form, which does not say its commit; run make bench")
        out = cls(kept["of"], file)
        out.groups = kept["groups"]
        return out

    def keep(self, name: str, found: object, spent: float) -> None:
        """What a group found, in so many CPU seconds; written at once."""
        self._put(name, {"found": plain(found), "cpu": spent})

    def fail(self, name: str, why: str, *, missing: bool = False) -> None:
        """Why a group has no results: something is missing, or it failed. What it had is dropped."""
        self._put(name, {"missing" if missing else "failed": why})

    def done(self, name: str) -> bool:
        """Whether a group needs not be measured again."""
        return "found" in self.groups.get(name, {})

    def found(self, name: str) -> Any:
        """What a group found, or None."""
        return self.groups.get(name, {}).get("found")

    @property
    def minutes(self) -> float:
        """CPU minutes of all groups."""
        return sum(g.get("cpu", 0.0) for g in self.groups.values()) / 60

    def _put(self, name: str, group: dict[str, Any]) -> None:
        self.groups[name] = {**group, "date": time.strftime("%Y-%m-%d")}
        text = json.dumps({"of": self.now, "groups": self.groups}, indent=1)
        self.file.write_text(text + "\n")


def plain(found: Any) -> Any:
    """With rows as dictionaries."""
    if isinstance(found, Row):
        return asdict(found)
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    return [plain(one) for one in found] if isinstance(found, list | tuple) else found


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(": ")[1] for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    )
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"
