"""Memory: what the machine has left, whether a piece of work fits in it, and whether an error says that it ran out."""

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from zprime.errors import ResourceError, UsageError

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
SIGNS = (
    "not enough memory",
    "DefaultCPUAllocator",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "Unable to allocate",
    "Storage size calculation overflowed",
    "can't start new thread",
    "Failed to launch worker thread",
    "failed to map segment",
    "error return without exception set",
    "PyObject pointer is null",
)
"""What errors of torch, numpy, safetensors, Python and the system say where memory ran out."""

LIBRARIES, EACH_THREAD = 800_000_000, 85_000_000
"""Bytes of addresses that torch 2.13, numpy and scipy take when they are loaded, and those that the two OpenBLAS take
for each thread. With fewer, these libraries end the process themselves, or try again for ever."""
PANIC = "PanicException"
"""What libraries in Rust raise; it has no type that could be imported."""
LAST_WORDS = b"error: memory ran out; let the process have more memory\n"
"""Made before memory runs out."""


def need(count: int | float, what: str, advice: str) -> None:
    """Refuse work that needs more memory than there is, before any of it is allocated.

    Args:
        count: bytes that the work needs at least; inf where they cannot be counted.
        what: what they are for, as it stands before "needs".
        advice: what to change.

    Raises:
        UsageError: there are fewer.
    """
    there = available()
    if there is not None and count > there:
        wanted = "more memory than can be counted" if count == math.inf else f"at least {size(count)} of memory"
        raise UsageError(f"{what}: needs {wanted}, and {size(there)} are free; {advice}")


def need_libraries() -> None:
    """Load what needs a fixed amount of memory while there is some, where `ulimit -v` sets a limit.

    Raises:
        ResourceError: it leaves too little.
    """
    left = _own_limit()
    if left is None:
        return
    wanted = LIBRARIES + EACH_THREAD * _blas_threads()
    if left < wanted:
        raise ResourceError(
            f"ulimit -v: expected at least {size(wanted)} of memory, to load torch and scipy alone, got "
            f"{size(max(0, left))}; let the process have more memory, or set OMP_NUM_THREADS=1"
        )
    import scipy.special  # noqa: F401


def give_up() -> NoReturn:
    """Say that memory ran out, and end the process, without any more memory."""
    with contextlib.suppress(OSError):
        os.write(2, LAST_WORDS)
    os._exit(ResourceError.exit_code)


def fits(count: int) -> bool:
    """Whether so many bytes are free, as far as the system says."""
    there = available()
    return there is None or count < there


def available() -> int | None:
    """Bytes that this process can still allocate; None where the system does not say."""
    found = [b for b in (_machine(), _group(), _own_limit()) if b is not None]
    return max(0, min(found)) if found else None


def size(count: int | float) -> str:
    """Bytes: `76.6 kB`."""
    unit = 0
    while count >= 999.95 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:,.{min(unit, 1)}f} {UNITS[unit]}"


def ran_out(error: BaseException) -> str | None:
    """What an error, or one that it came from, says of memory that ran out, in short; None if it says nothing so."""
    for e in _causes(error):
        text = str(e)
        if isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno == errno.ENOMEM):
            return _wanted(text)
        library = isinstance(e, RuntimeError | OSError | ImportError | SystemError) or type(e).__name__ == PANIC
        if library and any(sign in text for sign in SIGNS):
            return _wanted(text)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error


def _wanted(text: str) -> str:
    """How much was asked for, where the error tells."""
    if found := re.search(r"allocate ([\d.]+) ?(bytes|[KMGTPE]iB)", text):
        power = 0 if found[2] == "bytes" else 1 + "KMGTPE".index(found[2][0])
        return f"{size(float(found[1]) * 1024**power)} more were asked for"
    return ""


def _blas_threads() -> int:
    """How many threads OpenBLAS starts, each with memory of its own."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return os.cpu_count() or 1


def _machine() -> int | None:
    """Memory and swap that are free or can be freed."""
    lines = _text("/proc/meminfo").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest}
    if "MemAvailable" in kilobytes:
        return 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # all there is, where what is free is not told
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _group() -> int | None:
    """What the control group of this process leaves (containers), in version 2 or 1."""
    places = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")]
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers or "memory" in controllers.split(","):
            top = places[1] if controllers else places[0]
            below = Path(path.lstrip("/"))
            places += [top / part for part in (below, *below.parents)]  # a limit above counts as well
    left = []
    for place in places:
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, now = _text(place / limit).strip(), _text(place / used).strip()
            if most.isdigit() and now.isdigit():
                left.append(int(most) - int(now) + _cached(place))
    return min(left, default=None)


def _cached(place: Path) -> int:
    """Bytes of files that a control group gives back when it needs room."""
    for line in _text(place / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _own_limit() -> int | None:
    """What `ulimit -v` leaves to this process."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text("/proc/self/statm").split()
    if most == resource.RLIM_INFINITY or not pages:
        return None
    return most - int(pages[0]) * resource.getpagesize()


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text()
    except (OSError, ValueError):
        return ""
