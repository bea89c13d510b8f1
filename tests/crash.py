"""A process that ends at a call of the system: in a test, an exception that nothing may catch and go on from.

Or a call that fails once.
"""

import contextlib
import errno
import os
from collections.abc import Callable

import pytest

from zprime.errors import ZprimeError


class Crash(BaseException):
    """Not an error that anything may catch and go on."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: str, at: int, act: Callable[[], object]) -> bool:
    """Act until the `at`-th call of `os.<call>`, and crash there; whether it came to that."""
    real, calls = getattr(os, call), 0

    def crash(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Crash
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, crash)
        try:
            act()
        except Crash:
            return True
    assert calls < at
    return False


def fails_at(monkeypatch: pytest.MonkeyPatch, call: str, at: int, act: Callable[[], object]) -> bool:
    """Act while the `at`-th call of `os.<call>` fails once; whether it came to that."""
    real, calls = getattr(os, call), 0

    def fail(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with contextlib.suppress(ZprimeError, OSError):
            act()
    return calls >= at
