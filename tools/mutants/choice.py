"""Which tests are run for a mutant: those that run the changed line, nearest file first."""

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutant_plugin import CACHED
from places import Mutant

RULES = "tests/test_rules.py"


@dataclass
class TestFile:
    """What one test file runs."""

    __test__ = False
    path: str
    tests: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    lines: dict[str, dict[str, int]]
    whole: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str, recorded: Path) -> "TestFile":
        """From what `Recorder` wrote."""
        data = json.loads(recorded.read_text())
        lines = {c: {p: int(m, 16) for p, m in masks.items()} for c, masks in data["lines"].items()}
        file = cls(path, data["tests"], data["seconds"], lines)
        for masks in lines.values():
            for p, mask in masks.items():
                file.whole[p] = file.whole.get(p, 0) | mask
        return file

    def runs(self, context: str, wanted: dict[str, int]) -> bool:
        """Whether a test, fixture or cached function runs one of the lines."""
        masks = self.lines.get(context, {})
        return any(masks.get(p, 0) & mask for p, mask in wanted.items())

    def ranked(self, wanted: dict[str, int]) -> list[tuple[int, float, str]]:
        """(rank, seconds, test) of those that run one of the lines or may do so, the first to be run first."""
        cached, ranked = self.runs(CACHED, wanted), []
        for test, facts in self.tests.items():
            if self.runs(test, wanted):
                ranked.append((0, facts["seconds"], test))
            elif any(self.runs(f, wanted) for f in facts["fixtures"]):
                ranked.append((1, facts["seconds"], test))
            elif cached:
                ranked.append((2, facts["seconds"], test))
        return sorted(ranked)

    def nearness(self, path: str) -> tuple[bool, float]:
        """Whether it is named like the module, and which share of what it runs is in the module."""
        total = sum(m.bit_count() for m in self.whole.values())
        named = f"_{Path(path).stem}_" in f"{Path(self.path).stem}_"
        return named, self.whole.get(path, 0).bit_count() / max(total, 1)


def choose(files: list[TestFile], mutant: Mutant, root: Path, cap: float) -> tuple[list[str], float]:
    """Tests that may notice a mutant, the nearest file first, and their seconds; at most `cap` seconds.

    They run one of the lines that the mutant concerns. In a file, tests that run it themselves come first, then those
    whose fixtures do, then (where a cached function does) all others; each time the quickest first. The nearest file
    may take half of the time, others a quarter. Rules of all classes are tested first where the change is one of what
    runs at import, and then tests that name a changed constant, which need not run a line of the library.
    """
    chosen = [t for f in files if mutant.imported and f.path == RULES for t in f.tests]
    chosen += [t for f in files for t in naming(f, mutant, root) if t not in chosen]
    spent = sum(f.tests[t]["seconds"] for f in files for t in chosen if t in f.tests)
    wanted = wanted_lines(mutant, files, root)
    near = [f for f in files if any(f.whole.get(p, 0) & m for p, m in wanted.items())]
    near.sort(key=lambda f: f.nearness(mutant.path), reverse=True)
    for file in near:
        allowed = min(cap / 2 if file is near[0] else cap / 4, cap - spent)
        used: set[str] = set()
        taken = 0.0
        for _, seconds, test in file.ranked(wanted):
            fixtures = set(file.tests[test]["fixtures"]) - used
            cost = seconds + sum(file.seconds.get(f, 0.0) for f in fixtures)
            if taken + cost <= allowed or (file is near[0] and not taken and cost <= cap):
                chosen.append(test)
                used |= fixtures
                taken += cost
        spent += taken
    return list(dict.fromkeys(chosen)), spent


def naming(file: TestFile, mutant: Mutant, root: Path) -> list[str]:
    """Tests of a file that name the constant or class which the mutant concerns, in their own text."""
    if not mutant.name.lstrip("_")[:1].isupper():
        return []
    text = (root / file.path).read_text()
    if Path(mutant.path).stem not in text:
        return []
    word = re.compile(rf"\b{mutant.name}\b")
    functions = [f for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef)]
    named = {f.name for f in functions if word.search(ast.unparse(f))}
    return [t for t in file.tests if t.split("::")[-1].split("[")[0] in named]


def users(files: list[TestFile], root: Path, mutant: Mutant) -> dict[str, int]:
    """Lines that some test runs and that use the name which the changed statement defines.

    Of other modules only those that mention the mutant's module; of a field everywhere `.name` and `name=`.
    """
    constant = mutant.name.lstrip("_")[:1].isupper()  # or a class
    word = re.compile(rf"\b{mutant.name}\b" if constant else rf"\.{mutant.name}\b|\b{mutant.name}=")
    wanted: dict[str, int] = {}
    for path in {p for f in files for p in f.whole}:
        text = (root / path).read_text()
        if path == mutant.path or not constant or Path(mutant.path).stem in text:
            for number, line in enumerate(text.splitlines(), 1):
                if word.search(line):
                    wanted[path] = wanted.get(path, 0) | 1 << number
            for first, last in defaulted(text, word) if path.endswith(".py") else ():
                wanted[path] = wanted.get(path, 0) | (1 << last + 1) - (1 << first)
    return wanted


def defaulted(text: str, word: re.Pattern[str]) -> list[tuple[int, int]]:
    """First and last lines of the bodies of functions with the name among their defaults, which run at import only."""
    if not word.search(text):
        return []
    functions = [f for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef)]
    return [
        (f.body[0].lineno, f.body[-1].end_lineno or f.body[-1].lineno)
        for f in functions
        if any(d is not None and word.search(ast.unparse(d)) for d in [*f.args.defaults, *f.args.kw_defaults])
    ]


def wanted_lines(mutant: Mutant, files: list[TestFile], root: Path) -> dict[str, int]:
    """Lines of which a test must run one, as bits by file."""
    named = users(files, root, mutant) if mutant.name else {}
    last = min(mutant.last, mutant.code.count("\n") + 2)
    return named or {mutant.path: (1 << last + 1) - (1 << mutant.first)}
