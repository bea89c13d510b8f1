"""A whole run that is killed at a random moment or call; two runs at once; readers while a run is replaced."""

import contextlib
import hashlib
import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from failures import Tally, again
from faults import KILLED, Faults
from stage import AUDIT, DATA, Action, differences, done, finish, fresh, run, snapshot, start, verb

from zprime import loading, sampling
from zprime.errors import ArtifactError, UsageError
from zprime.results.audit import load as load_audit
from zprime.run_folder import RunFolder


def whole(data: Path, folder: Path, seed: int = 0, *more: str) -> Action:
    """`zprime run`."""
    return verb("run", "--data", data, *DATA, *AUDIT, "--seed", str(seed), "--out", folder, *more)


def undisturbed(data: Path, top: Path) -> tuple[dict[str, str], float, int]:
    """What a run ends with, how many seconds it takes, and how many calls."""
    folder = fresh(top / "undisturbed", None)
    began = time.monotonic()
    run(whole(data, folder), top / "log")
    took = time.monotonic() - began
    wanted = snapshot(folder)
    faults = Faults(fresh(folder, None), "count")

    def act() -> int:
        code = whole(data, folder)()
        (top / "calls").write_text(str(faults.n))
        return code

    run(act, top / "log", faults)
    return wanted, took, int((top / "calls").read_text())


def kills(data: Path, top: Path, numbers: range, seed: int, *, replace: Path | None = None) -> Tally:
    """Kill runs: by SIGKILL after a random time, or at a random call; half of those given an older run replace that."""
    tally, folder = Tally(), top / "killed"
    wanted, took, calls = undisturbed(data, top)
    for i in numbers:
        rng = random.Random(f"{seed}/{i}")
        older = replace is not None and i % 4 >= 2
        fresh(folder, replace if older else None)
        command = whole(data, folder, 0, *(["--replace"] if older else []))
        if i % 2:
            at = rng.randrange(1, calls)
            ended = run(command, top / "log", Faults(folder, "kill", at))
            where = f"kill {i}, at call {at}"
        else:
            child = start(command, top / "log")
            after = rng.uniform(0, took)
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ended = finish(child, top / "log")
            where = f"kill {i}, after {after:.3f} s"
        tally.injected["whole run killed"] += 1
        killed = ended.code in (KILLED, -signal.SIGKILL)
        if not killed and ended.code:
            tally.faults.append(f"{where}: exit {ended.code}, {ended.err[-300:]}")
        tally.ended["run: killed" if killed else "run: done before the kill"] += 1
        where += ", replacing" if older else ", new"
        again(tally, command, folder, top / "log", wanted, what="run", where=where)
    return tally


def together(data: Path, top: Path, rounds: int, seed: int) -> Tally:
    """The same command twice, at nearly the same time, in one folder."""
    tally, folder = Tally(), top / "together"
    wanted, took, _ = undisturbed(data, top)
    for i in range(rounds):
        rng = random.Random(f"{seed}/together/{i}")
        fresh(folder, None)
        first = start(whole(data, folder), top / "one")
        time.sleep(rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, took)]))
        second = start(whole(data, folder), top / "two")
        ended = [finish(first, top / "one"), finish(second, top / "two")]
        tally.injected["two processes"] += 1
        told = [e for e in ended if e.code == 2 and "is writing here" in " ".join(e.err.split())]
        whole_ones = [e for e in ended if e.code == 0]
        tally.ended["two processes: one is told who writes"] += len(told)
        wrong = differences(snapshot(folder), wanted)
        if len(told) + len(whole_ones) < 2 or not whole_ones or wrong:
            said = "; ".join(f"exit {e.code} {e.err[-200:]}" for e in ended)
            tally.faults.append(f"two processes, round {i}: {said}; {'; '.join(wrong[:4])}")
        else:
            tally.ended["two processes: same bits"] += 1
    return tally


def watch(data: Path, top: Path, times: int) -> Tally:
    """Read a run again and again while another process replaces it."""
    logging.getLogger("zprime").setLevel(logging.ERROR)
    tally, folder = Tally(), fresh(top / "watched", None)
    allowed: dict[str, set[str]] = {}
    for seed in (1, 0):
        run(whole(data, folder, seed, "--replace"), top / "log")
        for name, read in READS.items():
            allowed.setdefault(name, set()).add(read(folder))

    def write() -> int:
        return max(whole(data, folder, (i + 1) % 2, "--replace")() for i in range(times))

    child, found = start(write, top / "log"), Counter[str]()
    while (ended := done(child, top / "log")) is None:
        for name, read in READS.items():
            tally.injected["read while a run is replaced"] += 1
            try:
                made = read(folder)
            except (ArtifactError, UsageError):
                found["refused"] += 1
                continue
            except Exception as error:
                tally.faults.append(f"{name} while replaced: {type(error).__name__} {str(error)[:200]}")
                continue
            found["older or newer, whole"] += 1
            if made not in allowed[name]:
                tally.faults.append(f"{name} while replaced: a mix")
    tally.readers.update(found)
    if not found["older or newer, whole"]:
        tally.faults.append("no reader ever answered while the run was replaced")
    if ended.code or not ended.clean:
        tally.faults.append(f"the writer that was watched: exit {ended.code}, {ended.err[-300:]}")
    return tally


def _samples(model: sampling.GenerativeModel) -> str:
    z, x = sampling.sample(model, 5, seed=0, allow_copies=True, allow_rows=True)
    return hashlib.sha256(z.numpy().tobytes() + x.numpy().tobytes()).hexdigest()


READS = {
    "sample": lambda folder: _samples(RunFolder.open(folder).generative("mixture")),
    "sample of the generator": lambda folder: _samples(loading.load(folder / "generator")),
    "audit": lambda folder: load_audit(folder).inputs["model"],
}
