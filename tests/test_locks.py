"""One writer at a time: a second process is told who the first is; the lock of a dead process is taken over."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zprime import artifact, chain, locks
from zprime.errors import UsageError
from zprime.stages import NewFolder

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


def link(file: Path) -> None:
    (file.parent / "thesis.tex").write_text("all of it")
    file.symlink_to(file.parent / "thesis.tex")


def listen(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(file))


IN_THE_WAY = {
    "a symbolic link": link,
    "a symbolic link, of nothing": lambda file: file.symlink_to(file.parent / "nothing"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": listen,
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_no_file_in_the_place_of_a_lock_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets have to be short
    file = Path(locks.LOCK)
    IN_THE_WAY[what](file)
    before, there = os.lstat(file), sorted(Path().iterdir())
    told = f"{re.escape(locks.LOCK)}: expected a file, .* got {what.split(',')[0]}; move it elsewhere and run"
    with pytest.raises(UsageError, match=told), locks.writer(tmp_path):
        pass
    assert os.path.samestat(before, os.lstat(file))
    assert sorted(Path().iterdir()) == there
    if what == "a symbolic link":
        assert Path("thesis.tex").read_text() == "all of it"


def test_a_link_that_comes_after_the_look_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(tmp_path / locks.LOCK)
    monkeypatch.setattr(locks, "_check_file", lambda file, mode: None)
    with pytest.raises(UsageError, match="cannot write here"), locks.writer(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_another_name_of_the_lock_file_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    (tmp_path / locks.LOCK).hardlink_to(tmp_path / "thesis.tex")
    with locks.writer(tmp_path):
        assert json.loads((tmp_path / locks.LOCK).read_text())["pid"] == os.getpid()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("text", ["[" * 4096, '{"pid": 1e999}', "\0", '"pid"', '{"pid": 1}'])
def test_a_lock_that_does_not_say_who_held_it_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / locks.LOCK).write_text(text)
    with locks.writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("again", [True, False], ids=["another process took it", "nobody has it"])
def test_who_lost_the_lock_puts_nothing_in_place(tmp_path: Path, *, again: bool) -> None:
    file, other = tmp_path / locks.LOCK, tmp_path / "other"
    chain.start(tmp_path)
    artifact.write(tmp_path / ".staged" / "model", artifact.Manifest("model"))
    before = (tmp_path / artifact.MANIFEST).read_bytes()
    with locks.writer(tmp_path):
        file.unlink()
        if again:
            other.write_text("of another process")
            other.rename(file)
        for act in (
            lambda: chain.place(tmp_path, "model", tmp_path / ".staged" / "model"),
            lambda: chain.drop(tmp_path, ["model"]),
        ):
            with pytest.raises(UsageError, match="lock: this file was removed or replaced .*nothing was put in place"):
                act()
    assert (tmp_path / artifact.MANIFEST).read_bytes() == before
    assert not (tmp_path / "model").exists()
    assert file.exists() == again  # that of another process is not taken from it


def test_who_lost_the_lock_does_not_clear_the_folder_away(tmp_path: Path) -> None:
    """Another process that took it may have gone on with what lies there."""
    run = tmp_path / "run"

    def work() -> None:
        (run / "data").mkdir()
        (run / locks.LOCK).unlink()
        locks.check_kept(run)

    with pytest.raises(UsageError, match="removed or replaced"), NewFolder(run, worth=(), scrap=("data",)).attempt():
        work()
    assert sorted(p.name for p in run.iterdir()) == ["data", artifact.MANIFEST]


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Each appends to a file what it saw there; with a lock that leaks, two see the same."""
    code = f"""
import time
from pathlib import Path
from zprime import artifact, chain, locks
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
