"""The n-th call fails, n = 1, 2, .. until a command does without it; the same command then ends with the same bits."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from faults import KILLED, Faults
from stage import AUDIT, DATA, Action, Ended, age, differences, fresh, run, snapshot, verb


@dataclass(frozen=True)
class Scene:
    """A command that is disturbed.

    Attributes:
        name: of the command.
        action: takes the folder.
        before, after: folders as they are before it, and after it without disturbance.
        read: whether there is something to read from in `before` or `after`.
    """

    name: str
    action: Callable[[Path], Action]
    before: Path | None
    after: Path
    read: bool = False


@dataclass
class Tally:
    """What was done and found."""

    injected: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    readers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Take in what another process counted."""
        for name in ("injected", "ended", "readers"):
            getattr(self, name).update(getattr(other, name))
        self.faults += other.faults


def scenes(top: Path, data: Path) -> list[Scene]:
    """The verbs one after the other on a new run; then commands that replace parts of a finished one."""
    made = top / "made"

    def step(name: str, before: Path | None, action: Callable[[Path], Action], *, read: bool = False) -> Scene:
        after = made / name.replace(" ", "-") / "w"
        fresh(after, before)
        after.mkdir(parents=True, exist_ok=True)
        ended = run(action(after), top / "log")
        if ended.code:
            raise SystemExit(f"{name}, undisturbed: {ended.err}")
        return Scene(name, action, before, after, read)

    def train(seed: int, *more: str) -> Callable[[Path], Action]:
        return lambda w: verb("train", "--data", data, *DATA, "--seed", str(seed), "--out", w / "run", *more)

    def whole(seed: int, *more: str) -> Callable[[Path], Action]:
        return lambda w: verb("run", "--data", data, *DATA, *AUDIT, "--seed", str(seed), "--out", w / "run", *more)

    first = step("train", None, train(0))
    encoded = step("encode", first.after, lambda w: verb("encode", w / "run"))
    fitted = step("fit", encoded.after, lambda w: verb("fit", w / "run"))
    audited = step("audit", fitted.after, lambda w: verb("audit", w / "run", *AUDIT), read=True)
    done = step("report", audited.after, lambda w: verb("report", w / "run"), read=True)
    sampled = step("sample", done.after, lambda w: verb("sample", w / "run", "-n", "5"), read=True)
    exported = step("export", done.after, _export, read=True)
    more = ("--kinds", "mixture", "--set", "mixture.components=3", "--replace")
    again = step("fit --replace", done.after, lambda w: verb("fit", w / "run", *more), read=True)
    five = (*AUDIT, "--seed", "5")
    other = step("audit with other settings", done.after, lambda w: verb("audit", w / "run", *five), read=True)
    retrained = step("train --replace", done.after, train(1, "--replace"), read=True)
    rerun = step("run --replace", done.after, whole(1, "--replace"), read=True)
    return [first, encoded, fitted, audited, done, sampled, exported, again, other, retrained, rerun]


def prepare(scene: Scene, work: Path) -> None:
    """Make a folder as it is before a scene."""
    fresh(work, scene.before)
    work.mkdir(parents=True, exist_ok=True)


def again(
    tally: Tally, action: Action, folder: Path, log: Path, wanted: dict[str, str], *, what: str, where: str
) -> None:
    """Repeat a command that was disturbed, when what was left is old enough to be swept: it has to end as undisturbed.

    Args:
        tally: takes what comes out.
        action: the command.
        folder: in which all has to be as `wanted`.
        log: folder for what the command says.
        wanted: what lies there after the undisturbed command.
        what: kind of disturbance, for the count.
        where: the disturbance, for a fault.
    """
    age(folder)
    ended = run(action, log)
    wrong = [ended.err[-300:]] if ended.code else differences(snapshot(folder), wanted)
    if wrong:
        tally.faults.append(f"{where}, then again: {'; '.join(wrong[:4])}")
    else:
        tally.ended[f"{what}: same bits by the same command"] += 1


def _export(work: Path) -> Action:
    def act() -> int:
        from zprime.errors import ZprimeError
        from zprime.running import Run

        try:
            Run.open(work / "run").export("mixture", work / "exported")
        except ZprimeError as error:
            import sys

            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        return 0

    return act


def readers(work: Path, top: Path) -> dict[str, tuple[Ended, str]]:
    """What each reader says of a run: how it ended, and a hash of what it made."""
    out = top / "read"
    fresh(out, None).mkdir()
    calls = {
        "sample": verb("sample", work / "run", "--from", "mixture", "-n", "5", "--out", out / "mixture"),
        "sample generator": verb("sample", work / "run" / "generator", "-n", "5", "--out", out / "generator"),
        "explain": verb("explain", work / "run"),
        "report": verb("report", work / "run", "--out", out / "page.html"),
    }
    made = {"sample": "mixture.npz", "sample generator": "generator.npz", "report": "page.html"}
    found = {}
    for name, call in calls.items():
        ended = run(call, top / "log")
        file = out / made.get(name, "none")
        if file.suffix == ".npz" and file.exists():
            with np.load(file) as arrays:
                content = b"".join(arrays[k].tobytes() for k in sorted(arrays))
        else:
            content = file.read_bytes() if file.exists() else ended.out.encode()
        found[name] = ended, hashlib.sha256(content).hexdigest()
    return found


READ: dict[Path, dict[str, str]] = {}
"""Folder -> what each reader makes of it, undisturbed. Filled before processes are forked, each folder is read once."""


def undisturbed(scene: Scene, top: Path) -> dict[str, set[str]]:
    """What each reader may make during a scene."""
    allowed: dict[str, set[str]] = {}
    for folder in filter(None, (scene.before, scene.after)) if scene.read else ():
        if folder not in READ:
            found = readers(fresh(top / "work" / "w", folder), top)
            READ[folder] = {name: made for name, (ended, made) in found.items() if ended.code == 0}
        for name, made in READ[folder].items():
            allowed.setdefault(name, set()).add(made)
    return allowed


def disturb(scene: Scene, mode: str, top: Path, at: Iterator[int], *, read_every: int = 1) -> Tally:
    """Make calls of a command fail, one in each process, and repeat the command."""
    tally, work = Tally(), top / "work" / "w"
    wanted = snapshot(scene.after)
    allowed = undisturbed(scene, top)
    for n in at:
        prepare(scene, work)
        faults = Faults(work, mode, n)
        ended = run(_told(scene.action(work), faults, top), top / "log", faults)
        where = f"{scene.name}, {mode} at {n}"
        if ended.code == 0 and not (top / "hit").exists():
            return tally  # it does with fewer calls
        tally.injected[f"{scene.name}/{mode}"] += 1
        if ended.code != KILLED and not ended.clean:
            tally.faults.append(f"{where}: exit {ended.code}, {ended.err[-400:]}")
        outcome = {0: "done all the same", KILLED: "killed"}.get(ended.code, f"exit {ended.code}")
        tally.ended[f"{mode}: {outcome}"] += 1
        if scene.read and n % read_every == 0:
            for name, (read, made) in readers(work, top).items():
                if read.code == 0 and made in allowed.get(name, set()):
                    tally.readers["older or newer, whole"] += 1
                elif read.code in (2, 3) and read.clean:
                    tally.readers["refused"] += 1
                else:
                    tally.faults.append(f"{where}: {name} then exits {read.code}, {read.err[-300:] or 'a mix'}")
        if ended.code == 0:
            # what could not be deleted goes with the next command
            left = waiting(work / "run")
            wrong = [
                what
                for what in differences(snapshot(work), wanted)
                if "/." not in what and not what.startswith(("run/checkpoint", *left))
            ]
            if wrong:
                tally.faults.append(f"{where}: exit 0, but {'; '.join(wrong[:4])}")
        again(tally, scene.action(work), work, top / "log", wanted, what=mode, where=where)
    return tally


def waiting(run: Path) -> tuple[str, ...]:
    """Beginnings of paths that a run says it has still to delete, and of its own list, which says so."""
    from zprime import artifact

    dropped = artifact.read(run, "run").config["dropped"] if artifact.is_artifact(run) else {}
    empty = [f"{name.split('/')[0]}: left over" for name in dropped]  # a folder that goes with what was in it
    return tuple(f"run/{name}" for name in (*dropped, *empty, "manifest.json")) if dropped else ()


def _told(action: Action, faults: Faults, top: Path) -> Action:
    """The same, which tells whether its process came to the call that fails."""
    mark = top / "hit"
    mark.unlink(missing_ok=True)

    def act() -> int:
        code = action()
        if faults.n >= faults.at:
            mark.touch()
        return code

    return act
