"""Copies of the working tree, in each of which one worker runs tests."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from places import Mutant

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).resolve().parent / "mutant_plugin.py"
PYTEST = ["-q", "-n0", "-p", "no:cacheprovider", "-p", "mutant_plugin"]
RECORD_LIMIT = 1800.0
STOPPED = threading.Event()


class Stopped(Exception):  # noqa: N818
    """The command was interrupted: what a killed test run says is not used."""


@dataclass(frozen=True)
class Clone:
    """A copy of the working tree, and the process that starts pytest there."""

    path: Path
    zygote: subprocess.Popen[str]

    @classmethod
    def make(cls, path: Path) -> "Clone":
        """Copy what git lists or would list, and the compiled kernels; bytecode of unchanged files stays."""
        listed = ["git", "ls-files", "-co", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        kernels = [p.relative_to(ROOT).as_posix() for p in (ROOT / "src/zprime/kernels").glob("_compiled*.so")]
        wanted = {f for f in [*files, *kernels] if (ROOT / f).is_file()}
        for old in [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]:
            if old.relative_to(path).as_posix() not in wanted:
                old.unlink()
        for file in wanted:
            to = path / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, to)
        start = [sys.executable, str(PLUGIN.parent / "zygote.py")]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return cls(path, subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))

    def record(self, file: str, into: Path) -> bool:
        """Record which test of a file runs which line; whether all its tests passed."""
        code, text = self._run([file], RECORD_LIMIT, MUTANT_RECORD=str(into))
        if code not in (0, 1, 5) or not into.exists():
            raise SystemExit(f"{file} cannot be run: pytest ended with {code}\n{text[-2000:]}")
        return code != 1

    def outcome(self, mutant: Mutant, tests: list[str], seconds: float) -> tuple[str, str]:
        """(outcome, the test that noticed) of a mutant; `seconds` is what the tests take without it.

        The mutated file has a time of its own, and no bytecode is written: neither Python nor jaxtyping's import hook
        can take the bytecode of another version for it.
        """
        if not tests:
            return "not run", ""
        file, chosen, limit = self.path / mutant.path, self.path / "chosen.json", int(2 * seconds + 15)
        chosen.write_text(json.dumps(tests))
        files = dict.fromkeys(t.partition("::")[0] for t in tests)
        select = {"MUTANT_SELECT": str(chosen), "MUTANT_SECONDS": str(limit), "PYTHONDONTWRITEBYTECODE": "1"}
        source, times = file.read_text(), file.stat()
        try:
            file.write_text(mutant.code)
            os.utime(file, (times.st_atime, times.st_mtime + 1000 + int(mutant.key, 16) % 10**6))
            code, text = self._run(["-x", "--tb=line", *files], 5 * limit, **select)
        finally:
            file.write_text(source)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        by = next((line.split(" ")[1] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))), "")
        slow = dict.fromkeys((None, -signal.SIGKILL, -signal.SIGXCPU), "too slow")
        outcome = (slow | {0: "survived", 1: "failed", 5: "not run"}).get(code, "crashed")
        if not by and outcome in ("failed", "crashed") and self._run(["tests/test_rng.py"], RECORD_LIMIT)[0] != 0:
            raise SystemExit(f"pytest does not run without a mutant either:\n{text[-2000:]}")
        return outcome, by

    def _run(self, arguments: list[str], limit: float, **environment: str) -> tuple[int | None, str]:
        """Exit code of pytest (None after `limit` seconds) and what it printed."""
        temporary, output = self.path / "tmp", self.path / "output.txt"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        paths = [str(self.path / "src"), str(PLUGIN.parent)]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(temporary)}
        job = {"arguments": [*PYTEST, *arguments], "folder": str(self.path), "paths": paths, "limit": limit,
               "environment": environment, "output": str(output)}  # fmt: skip
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        try:
            self.zygote.stdin.write(json.dumps(job) + "\n")
            self.zygote.stdin.flush()
            answer = self.zygote.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if STOPPED.is_set():
            raise Stopped
        if not answer:
            raise SystemExit("the process that starts pytest has ended")
        return json.loads(answer), output.read_text(errors="replace")


def spread(clones: list[Clone], jobs: list[Callable[[Clone], None]]) -> None:
    """Run every job in the next clone that is free. An interruption ends the tests that are running."""
    free: queue.Queue[Clone] = queue.Queue()
    for clone in clones:
        free.put(clone)

    def work(job: Callable[[Clone], None]) -> None:
        clone = free.get()
        try:
            job(clone)
        finally:
            free.put(clone)

    with ThreadPoolExecutor(len(clones)) as pool:
        try:
            for future in [pool.submit(work, job) for job in jobs]:
                future.result()
        except BaseException:
            STOPPED.set()
            for clone in clones:
                clone.zygote.terminate()
            pool.shutdown(cancel_futures=True)
            raise
