"""What fuzzing found, read again: each input is answered, or refused with an error of ours."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "fuzz"))

import targets

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> Iterator[None]:
    before = Path.cwd()
    targets.prepare()
    yield
    os.chdir(before)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_valid_input_and_all_that_was_found_is_no_fault(name: str) -> None:
    target = targets.TARGETS[name]
    for content in (*target.seeds(), *(f.read_bytes() for f in sorted((CORPUS / name).glob("*")))):
        target.run(content)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_shortened_and_altered_input_is_no_fault(name: str) -> None:
    """A small and fixed part of what `make fuzz` does."""
    target = targets.TARGETS[name]
    for content in target.seeds():
        step = max(1, len(content) // (8 if target.share < 20 else 40))
        for at in range(0, len(content), step):
            for altered in (content[:at], content[:at] + b"\xff" + content[at + 1 :], content[:at] + content[at:] * 2):
                target.run(altered)


def test_a_fault_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that swallowed every error would find nothing."""

    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(targets, "read_source", broken)
    with pytest.raises(KeyError):
        targets.TARGETS["csv"].run(b"1,2\n")
