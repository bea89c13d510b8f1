"""A pytest plugin: records which tests of a file run which lines, or runs chosen tests in the order of the choice.

    python -m pytest -p mutant_plugin tests/test_x.py    with MUTANT_RECORD=lines.json or MUTANT_SELECT=tests.json

Beside what a test runs itself, what its fixtures of a wider scope run is recorded by fixture, and what cached functions
(`functools.cache`) run is recorded for the file: these run once, for whichever test comes first.
"""

import functools
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CACHED = "*"
MEMORY = 10 << 30


def seconds() -> float:
    """Processor time, of ended children too: what else the machine does hardly changes it."""
    return sum(os.times()[:4])


class Recorder:
    """Lines of src/zprime by test, fixture and cached function."""

    def __init__(self, into: str) -> None:
        import coverage

        self.into, self.now = into, ""
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.fixtures: dict[str, list[str]] = {}
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=["*/src/zprime/*"])
        self.coverage.start()
        cache = functools.cache
        functools.cache = lambda f: cache(functools.wraps(f)(lambda *a, **k: self.within(CACHED, f, *a, **k)))  # type: ignore[assignment]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.fixtures[item.nodeid] = ["*" + f for f in getattr(item, "fixturenames", ())]
        before, start = self.switch(item.nodeid), seconds()
        yield
        self.switch(before)
        self.seconds[item.nodeid] = self.seconds.get(item.nodeid, 0.0) + seconds() - start

    def switch(self, context: str) -> str:
        """Attribute what runs from here on to `context`; return what it was."""
        before, self.now = self.now, context
        self.coverage.switch_context(context)
        return before

    def within(self, context: str, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `f` in another context."""
        before = self.switch(context if self.now else "")
        try:
            return f(*args, **kwargs)
        finally:
            self.switch(before)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        name, start = "*" + fixturedef.argname, seconds()
        before = self.switch(name)
        try:
            return (yield)
        finally:
            self.switch(before)
            took = seconds() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self.seconds[before] = self.seconds.get(before, 0.0) - took  # is in the time of its first test too

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for file in data.measured_files():
            path = "src/zprime/" + file.rpartition("/src/zprime/")[2]
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in filter(None, contexts):
                    masks = lines.setdefault(context, {})
                    masks[path] = masks.get(path, 0) | 1 << line
        tests = {
            t: {"seconds": self.seconds[t], "fixtures": [f for f in fixtures if f in lines]}
            for t, fixtures in self.fixtures.items()
            if t not in self.failed and t in self.seconds
        }
        hexed = {c: {p: hex(m) for p, m in masks.items()} for c, masks in lines.items()}
        fixtures = {c: s for c, s in self.seconds.items() if c.startswith("*")}
        Path(self.into).write_text(json.dumps({"tests": tests, "lines": hexed, "seconds": fixtures}))


class Selector:
    """Runs the chosen tests only, in the order in which they were chosen."""

    def __init__(self, chosen: str) -> None:
        self.order = {t: i for i, t in enumerate(json.loads(Path(chosen).read_text()))}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])


def pytest_configure(config: pytest.Config) -> None:
    if PLUGIN is not None:
        config.pluginmanager.register(PLUGIN)


PLUGIN: Recorder | Selector | None = None
if os.environ.get("MUTANT_RECORD"):
    PLUGIN = Recorder(os.environ["MUTANT_RECORD"])
elif os.environ.get("MUTANT_SELECT"):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # a mutant may ask for any number of bytes
    resource.setrlimit(resource.RLIMIT_CPU, (int(os.environ["MUTANT_SECONDS"]),) * 2)
    PLUGIN = Selector(os.environ["MUTANT_SELECT"])
