"""Operations of torch that find no memory: the n-th raises what torch's allocator does.

This stands for allocations of tensors. Those of numpy, of Python itself and inside the compiled kernels do not count.
"""

import random
from pathlib import Path
from typing import Any

from failures import Scene, Tally, again, prepare
from stage import Action, run, snapshot
from torch.utils._python_dispatch import TorchDispatchMode

RAN_OUT = 6
"""Exit code of a command that memory ran out for."""
MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8589934592 bytes. Error code 12 (Cannot allocate memory)"
)


class NoMemory(TorchDispatchMode):  # type: ignore[misc]
    """Counts operations, and lets one of them fail; 0 lets none fail."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.n = at, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and call or fail."""
        self.n += 1
        if self.n == self.at:
            raise RuntimeError(MESSAGE)
        return func(*args, **(kwargs or {}))


def _with(action: Action, at: int, told: Path) -> Action:
    def act() -> int:
        with NoMemory(at) as mode:
            code = action()
        told.write_text(str(mode.n))
        return code

    return act


def allocations(scene: Scene, top: Path, times: int, seed: int) -> Tally:
    """Let operations drawn by chance fail, one in each process, and repeat the command."""
    tally, work, told = Tally(), top / "work" / "w", top / "operations"
    wanted, rng = snapshot(scene.after), random.Random(f"{seed}/{scene.name}")

    prepare(scene, work)
    run(_with(scene.action(work), 0, told), top / "log")
    total = int(told.read_text())
    if not total:
        tally.faults.append(f"{scene.name}: no operation of torch to fail")
    for at in sorted({1, *(rng.randrange(1, total + 1) for _ in range(times - 1))}) if total else []:
        prepare(scene, work)
        ended = run(_with(scene.action(work), at, told), top / "log")
        tally.injected["operation of torch without memory"] += 1
        where = f"{scene.name}, no memory at operation {at} of {total}"
        if ended.clean and ended.code == RAN_OUT:
            tally.ended[f"no memory: exit {RAN_OUT}"] += 1
        else:
            tally.faults.append(f"{where}: exit {ended.code}, {ended.err[-200:]}")
        again(tally, scene.action(work), work, top / "log", wanted, what="no memory", where=where)
    return tally
