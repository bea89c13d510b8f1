"""How a command ends: every signal at every moment, workers without a parent, and memory that runs out."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import torch

from zprime import engine, interrupts, memory
from zprime.cli.ending import ended
from zprime.errors import ResourceError, UsageError
from zprime.networks import build, count
from zprime.workers import Worker, stop

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SCRIPT = """
import os, sys, time
from pathlib import Path
from zprime import interrupts

def nap(folder, name):
    try:
        (folder / name).write_text(str(os.getpid()))
        time.sleep(60)
    finally:
        (folder / f"{name}-clean").touch()

def work():
    from zprime.engine import in_processes
    folder = Path(sys.argv[1])
    try:
        in_processes(nap, [(folder, "a"), (folder, "b")], workers=2, done=print)
    finally:
        (folder / "cleaning").touch()
        time.sleep(float(sys.argv[2]))

if __name__ == "__main__":
    interrupts.Listener().install()
    from zprime.cli import kinds, main
    kinds.kinds = work
    main(["kinds"])
"""


def _hear() -> None:
    """What the tests themselves ignore (Ctrl-C in the background of a shell, SIGHUP under nohup) is not ignored."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def heard(command: list[str]) -> "subprocess.Popen[str]":
    """A process that hears every signal; the leader of a group of its own."""
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=_hear,
    )


def napping(folder: Path, cleanup: float = 0.0) -> tuple["subprocess.Popen[str]", list[int]]:
    """A command with two workers at work, and their process ids."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = heard([sys.executable, str(script), str(folder), str(cleanup)])
    return process, [int(until(folder / name)) for name in "ab"]


def until(file: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while not (file.exists() and (file.read_text() or "-clean" in file.name or file.name == "cleaning")):
        assert time.monotonic() < deadline, file
        time.sleep(0.01)
    return file.read_text()


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
@pytest.mark.parametrize("group", [False, True], ids=["parent", "group"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_workers_too_with_one_sentence(number: signal.Signals, group: bool, tmp_path: Path) -> None:
    process, pids = napping(tmp_path)
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert " ".join(err.split()) == interrupts.sentence(number)
    assert gone(pids, 2)
    assert (tmp_path / "a-clean").exists()


@linux
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process, pids = napping(tmp_path)
    process.kill()
    assert gone(pids, 2)
    _, err = process.communicate(timeout=30)  # closed when the last process that holds it has ended
    assert err == ""


@linux
def test_the_watched_pipe_alone_ends_a_worker(tmp_path: Path) -> None:
    """As on systems that do not kill the children of a process that was killed."""
    code = (
        "import sys, time, threading, multiprocessing as m\nfrom zprime import workers\nimport os\n"
        "def child(path):\n"
        "    workers.sys = type('other', (), {'platform': 'other'})\n"
        "    workers._end_with_parent()\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    p = m.get_context('spawn').Process(target=child, args=(sys.argv[1],)); p.start(); p.join()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = heard([sys.executable, str(script), str(tmp_path / "pid")])
    pid = int(until(tmp_path / "pid"))
    process.kill()
    assert gone([pid], 2)
    process.communicate()


@linux
def test_a_second_signal_while_cleaning_up_says_how_to_end_and_a_third_ends(tmp_path: Path) -> None:
    process, pids = napping(tmp_path, 30)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        until(tmp_path / "cleaning")
        time.sleep(0.3)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "once more ends at once" in err
    assert err.strip().endswith(interrupts.sentence(signal.SIGINT))
    assert "Traceback" not in err
    assert gone(pids, 2)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("after", [0.0, 0.1, 0.4, 0.8])
def test_a_signal_while_modules_are_loaded_prints_no_traceback(number: signal.Signals, after: float) -> None:
    """From where zprime is first loaded; before it Python itself starts."""
    code = (
        "import runpy, sys; from zprime import interrupts; print('.', file=sys.stderr, flush=True)\n"
        "sys.argv = ['zprime', 'explain', '--help']\nimport zprime.__main__ as m\n"
        "interrupts.Listener().install(); print('!', file=sys.stderr, flush=True); import torch; m.main()"
    )
    process = heard([sys.executable, "-c", code])
    assert process.stderr is not None
    while process.stderr.readline().strip() != "!":
        pass
    time.sleep(after)
    process.send_signal(number)
    err = process.stderr.read()
    assert process.wait(timeout=30) in ((128 + number,) if after == 0 else (0, 128 + number))  # torch takes a second
    assert err.strip() == (interrupts.sentence(number) if process.returncode else "")


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(given: dict[str, str], spins: str) -> None:
    """OpenMP reads it when torch is loaded, so the command line has to come first."""
    code = (
        "import os, sys; sys.argv = ['zprime', '--version']\nimport zprime.__main__ as m\n"
        "assert 'torch' not in sys.modules\ntry: m.main()\nfinally: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == spins


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_python_drops_comes_again() -> None:
    class Deaf:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with interrupts.listening() as listener:
        listener.working = True
        with pytest.raises(interrupts.Stopped):  # noqa: PT012 the exception comes while it sleeps
            made = Deaf()
            del made
            time.sleep(5)


def test_signals_wait_until_a_deferred_block_is_done() -> None:
    done = []
    with interrupts.listening() as listener:
        listener.working = True
        with pytest.raises(interrupts.Stopped), interrupts.deferred():  # noqa: PT012 what waits comes at its end
            signal.raise_signal(signal.SIGTERM)
            done.append(1)
    assert done == [1]


def test_a_signal_while_a_worker_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = SpawnProcess.start, []

    def start(process: SpawnProcess) -> None:
        real(process)
        started.append(process)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SpawnProcess, "start", start)
    with interrupts.listening() as listener:
        listener.working = True
        with pytest.raises(interrupts.Stopped):
            engine.in_processes(print, [(1,), (2,)], workers=2, done=print)
    assert len(started) == 1
    assert not started[0].is_alive()


def test_memory_that_ran_out_in_a_worker_is_told_as_that() -> None:
    worker = Worker.start()
    try:
        worker.give(out_of_memory, ())
        with pytest.raises(ResourceError, match=r"memory ran out in a worker process \(8.0 GB more were asked for\)"):
            worker.answer()
    finally:
        stop([worker])


def out_of_memory() -> None:
    raise ValueError("data: too large") from MemoryError("Unable to allocate 8000000000 bytes")


def test_limits_of_control_groups_above_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a slice, or of a job in a queue, whose steps have no limit of their own."""
    files = {
        "/proc/self/cgroup": "0::/slurm/job_1/step_0",
        "/sys/fs/cgroup/slurm/job_1/memory.max": "1000",
        "/sys/fs/cgroup/slurm/job_1/memory.current": "400",
        "/sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max",
        "/sys/fs/cgroup/slurm/job_1/step_0/memory.current": "300",
    }
    monkeypatch.setattr(memory, "_text", lambda file: files.get(str(file), ""))
    assert memory._group() == 600


def test_a_worker_that_the_system_killed_is_told() -> None:
    worker = Worker.start()
    try:
        worker.give(os.kill, (worker.process.pid, signal.SIGKILL))
        with pytest.raises(ResourceError, match=r"ended by SIGKILL .* where memory runs out.*workers=1"):
            worker.answer()
    finally:
        stop([worker])


# -- standard streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["--help", "--version", "run --help", "kinds", "--json kinds", "doctor"])
def test_text_without_standard_output_ends_as_without_a_reader(words: str, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m zprime {words} {closed}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == ((0 if closed == "2>&-" else 141), "")
    assert bool(done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_streams(closed: str, tmp_path: Path) -> None:
    """Its product is files; and what is said is in none of them."""
    words = "run --data digits --latents 2 --hidden 16 --epochs 1 --rows 12 --draws 120 --map 20 --kinds gaussian"
    command = f"exec {sys.executable} -m zprime {words} --samples 0 --exchange 0 --out {tmp_path}/run {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    audited = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m zprime --json explain {tmp_path}/run {closed}"],
        capture_output=True,
        check=False,
    )
    assert (audited.returncode, audited.stderr) == (141, b"")
    assert (tmp_path / "run" / "report.html").read_text().rstrip().endswith("</html>")


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("mlp", (5,)), ("conv", (1, 16, 16))])
def test_weights_are_counted_as_they_would_be_made(name: str, shape: tuple[int, ...]) -> None:
    state = torch.random.get_rng_state()
    made = sum(p.numel() for part in build(name, shape, 3, hidden=(7, 9), width=4) for p in part.parameters())
    torch.random.set_rng_state(state)
    assert count(name, shape, 3, hidden=(7, 9), width=4) == made
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_does_not_fit_is_refused_and_what_fits_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    memory.need(1000, "x", "y")
    with pytest.raises(UsageError, match=r"tables: needs at least 1.0 kB of memory, and 1.0 kB are free; lower rows"):
        memory.need(1001, "tables", "lower rows")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.need(1e30, "x", "y")  # a system that does not say


def test_full_covariances_that_do_not_fit_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from zprime.fitting import fit
    from zprime.latent import MixtureSettings
    from zprime.posteriors import MemoryPosteriors

    monkeypatch.setattr(memory, "available", lambda: 4 * 10**9)
    d, n = 4096, 40
    posteriors = MemoryPosteriors(torch.zeros(n, d), torch.ones(n, d))
    with pytest.raises(UsageError, match=r"20 full covariances of 4,096 dimensions: needs at least 8.1 GB .*diagonal"):
        fit(MixtureSettings(20, "full"), posteriors, selection=posteriors, keep_duplicates=True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), ""),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."), "4.0 GB"),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), "8.0 GB"),
        (OSError(12, "Cannot allocate memory"), ""),
        (SystemError("error return without exception set"), ""),
        (type("PanicException", (BaseException,), {})("PyObject pointer is null"), ""),
    ],
)
def test_memory_that_ran_out_is_told_with_what_to_change(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = UsageError("weights and settings do not fit together")
    wrapped.__cause__ = error
    for e in (error, wrapped):
        assert ended(e, interrupts.Listener(), "fit") == 6
        text = " ".join(capsys.readouterr().err.split())
        assert "fit: memory ran out" in text
        assert said in text
        assert "fewer components" in text


def test_other_errors_are_not_taken_for_memory() -> None:
    assert memory.ran_out(RuntimeError("size mismatch")) is None
    with pytest.raises(RuntimeError, match="size mismatch"):
        ended(RuntimeError("size mismatch"), interrupts.Listener(), "fit")
    assert ended(OSError(28, "No space left on device", "x"), interrupts.Listener(), "fit") == 1


def test_free_memory_obeys_ulimit() -> None:
    code = "import resource as r; from zprime import memory as m; r.setrlimit(r.RLIMIT_AS, (2**30, 2**30))\n"
    code += "print(m.available())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(out) < 2**30


def within(kilobytes: int, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command under `ulimit -v`."""
    command = f"ulimit -v {kilobytes}; exec {sys.executable} -m zprime {' '.join(words)}"
    two = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    return subprocess.run(["sh", "-c", command], env=two, capture_output=True, text=True, check=False, timeout=120)


@linux
@pytest.mark.parametrize("kilobytes", [24_000, 30_000, 60_000, 300_000, 450_000, 550_000, 640_000, 800_000])
def test_memory_that_runs_out_while_modules_are_loaded_is_one_sentence(kilobytes: int) -> None:
    """numpy and torch end the process with words of their own, or by SIGABRT, and scipy never does."""
    done = within(kilobytes, "doctor")
    said = " ".join(done.stderr.split())
    assert (done.returncode, done.stdout) == (6, "")
    assert said.startswith("error: ")
    assert said.count("error") == 1
    assert "let the process have more memory" in said


@linux
def test_help_needs_no_memory_for_torch() -> None:
    assert within(100_000, "--help").returncode == 0


@linux
def test_a_library_that_finds_no_memory_is_told_as_memory(capfd: pytest.CaptureFixture[str]) -> None:
    error = ImportError("Cannot import module 'zprime.cli.run'")
    error.__cause__ = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert ended(error, interrupts.Listener(), "run") == 6
    assert memory.ran_out(ImportError("No module named 'torch'")) is None
    pid = os.fork()
    if not pid:
        memory.give_up()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    assert capfd.readouterr().err.encode().endswith(memory.LAST_WORDS)
