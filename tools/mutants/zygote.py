"""Runs pytest many times in processes forked from this one, which has imported torch: 3 seconds less each time.

Reads a JSON object a line: pytest's `arguments`, `folder`, `paths` (in front of sys.path), `environment`, the file for
its `output`, and a `limit` in seconds. Answers each with a line: pytest's exit code, minus a signal, or null (limit).
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from typing import Any

import pytest

IMPORTED = "torch scipy.stats scipy.optimize sklearn.datasets matplotlib.figure safetensors.torch PIL.Image"
CHECKS = "rich.console hypothesis beartype jaxtyping coverage"


def run(job: dict[str, Any]) -> int:
    """Pytest, in the child."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, target)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.path[:1] = job["paths"]  # in place of the folder of this file
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in job["environment"]
    tempfile.tempdir = None
    return int(pytest.main(job["arguments"]))


def kill(child: int) -> None:
    """End a child and what it has started."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            end(child, signal.SIGKILL)


def wait(child: int, limit: float) -> int | None:
    """Exit code of the child, None where it takes longer than `limit`."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    kill(child)
    os.waitpid(child, 0)
    return None


def main() -> None:
    """Serve until standard input ends."""
    for name in f"{IMPORTED} {CHECKS}".split():
        importlib.import_module(name)
    child = 0

    def stop(*_: object) -> None:
        if child:
            kill(child)
        os._exit(143)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sends SIGTERM
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = run(job)
                sys.stdout.flush()
            finally:
                os._exit(code)
        code = wait(child, job["limit"])
        child = 0
        print(json.dumps(code), flush=True)


if __name__ == "__main__":
    main()
