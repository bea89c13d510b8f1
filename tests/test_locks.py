"""One writer at a time: a second process is told who the first is; the lock of a dead process is taken over."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zprime import locks
from zprime.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from zprime import locks
with locks.writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_writes(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    told = rf"process {holder.pid} on \S+ \(python, since 20\d\d-.*\) is writing here; wait until it is done"
    with pytest.raises(UsageError, match=told), locks.writer(tmp_path):
        pass
    assert (tmp_path / locks.LOCK).exists()  # it is still held


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_is_taken_over_and_that_is_said(
    tmp_path: Path, holder: "subprocess.Popen[str]", caplog: pytest.LogCaptureFixture, number: int
) -> None:
    os.kill(holder.pid, number)
    holder.wait()
    with caplog.at_level(logging.WARNING, "zprime"), locks.writer(tmp_path):
        assert json.loads((tmp_path / locks.LOCK).read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} on" in caplog.text
    assert "ended before it was done; its lock is taken over" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_calls_within_calls_share_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locks.writer(tmp_path):
        with locks.writer(tmp_path):
            pass
        code = f"from pathlib import Path; from zprime import locks\nwith locks.writer(Path({str(tmp_path)!r})): pass"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} on" in found.stderr  # the inner one has not given it away
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locks.writer(tmp_path):
        raise KeyError
    with locks.writer(tmp_path):
        pass


def test_where_files_cannot_be_locked_that_is_said_once_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def refused(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with caplog.at_level(logging.WARNING, "zprime"), locks.writer(tmp_path):
        pass
    assert caplog.text.count("no locks here (No locks available); let no two processes write in it") == 1


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Each appends to a file what it saw there; with a lock that leaks, two see the same."""
    code = f"""
import time
from pathlib import Path
from zprime import locks
from zprime.errors import UsageError
folder, done = Path({str(tmp_path)!r}), 0
while done < 5:
    try:
        with locks.writer(folder):
            file = folder / "count"
            n = int(file.read_text()) if file.exists() else 0
            time.sleep(0.002)
            file.write_text(str(n + 1))
            done += 1
    except UsageError:
        time.sleep(0.001)
"""
    start = time.monotonic()
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "15", time.monotonic() - start
