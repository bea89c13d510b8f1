"""Shapes and types in annotations are checked under pytest: the hook must come before any import of zprime."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, max_examples=50, database=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)  # HYPOTHESIS_PROFILE=search
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

hook = jaxtyping.install_import_hook("zprime", "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before any fixture, since commands that were called here leave as many threads as they took.

    What the tests train is small: two threads on a busy machine are several times slower.
    """
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Nothing of what was loaded is garbage: to look through it again and again takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations as users have them, unchecked: for the errors that our own code raises for wrong shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


from zprime import progress  # noqa: E402
from zprime.cli import console  # noqa: E402
from zprime.kernels import compiled  # noqa: E402

SETS = [] if compiled.module is None else list(compiled.module.sets())


@pytest.fixture(params=["torch", *SETS])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every instruction set that this machine can run, and torch."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "module", None)
        yield "torch"
        return
    before = compiled.module.used()
    compiled.module.use(request.param)
    yield request.param
    compiled.module.use(before)


@pytest.fixture(autouse=True, scope="session")
def quiet() -> Iterator[None]:
    """Nothing is told of progress where a test does not look: it costs time to know how long something takes."""
    with progress.shown.through(progress.silent):
        yield


@pytest.fixture(autouse=True)
def switches() -> None:
    """What a process keeps of `--quiet` and of torch's first export is not kept for the next test."""
    vars(console.OPTIONS).update(vars(console.Options()))
    torch.distributions.Distribution.set_default_validate_args(True)


CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium by playwright; the test is skipped where either is missing."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[dev]')")
    if not CHROMIUM.exists():
        pytest.skip(f"no chromium at {CHROMIUM} (apt-get install chromium, or set CHROMIUM)")
    with sync.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()
