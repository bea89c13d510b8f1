"""Several processes on one or more machines, by torch.distributed: one leads, the others do their share of its work.

torchrun (or Slurm, or Kubernetes) starts the same command in every process. Rank 0 runs it as if it were alone. Where
work divides into units, such as the shards of posteriors, `each` and `total` give every process its units, and give
rank 0 all results in the order of the units. Which process did a unit changes no bit of its result.
"""

import contextlib
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor
from torch import distributed as dist

from zprime import interrupts, peers
from zprime.errors import ResourceError, ZprimeError
from zprime.peers import Group, asked, told
from zprime.workers import sendable

log = logging.getLogger("zprime")
T = TypeVar("T")
U = TypeVar("U")
MOST = 1 << 26
"""Bytes of results up to which the sums of all units are sent; above, each process adds up its own first."""

_group: Group | None = None


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _group is None else _group.rank


def world() -> int:
    """Number of processes that work together; 1 where there is one."""
    return 1 if _group is None else _group.size


def share() -> tuple[int, int]:
    """Number of this process, and of all, within `together`; else 0 and 1: this process does all of the work."""
    return (_group.rank, _group.size) if _group is not None and _group.abreast else (0, 1)


def lead(main: Callable[[], T]) -> T | None:
    """Run `main` with all processes of a job: in rank 0; the others do their share of its work until it ends.

    In a job of one process, or without torchrun, it is a call of `main`; also where the script has called
    `torch.distributed.init_process_group` itself.

    Args:
        main: takes nothing; e.g. `lambda: zprime.run("digits", "runs/digits")`.

    Returns:
        What `main` returns in rank 0, None in the others.

    Raises:
        ResourceError: the processes did not find each other, or one ended, or did not answer in time. The next start
            goes on from what is finished.
        UsageError: the environment names no such job.
    """
    global _group
    if not asked() or _group is not None or (dist.is_available() and dist.is_initialized()):
        return main()
    # a signal ends this process also while it waits; files are written whole or not at all: nothing is to clean up
    before = interrupts.replace(signal.SIG_DFL, lambda handler: handler is not signal.SIG_IGN)
    try:
        _group = peers.joined()
        if _group.rank:
            _serve(_group)
            return None
        interrupts.restore(before)
        try:
            return main()
        finally:
            _dismiss(_group)
    finally:
        interrupts.restore(before)
        if _group is not None:
            _group = None
            peers.part()


def each(
    work: Callable[..., T],
    common: Sequence[Any],
    units: Sequence[Any],
    *,
    before: Callable[[Any], object] = lambda unit: None,
) -> list[T]:
    """`[work(*common, unit) for unit in units]`, shared among the processes.

    Args:
        work: a function of a module.
        common: its first arguments, sent to all processes. What cannot be pickled is not sent: then this process does
            all units.
        units: its last argument in each call; process r does units r, r + world, ...
        before: called with each unit that this process does, before it does it; it is not sent.

    Raises:
        Exception: what the first failing unit raised, in whatever process.
        ResourceError: a process ended, or did not answer in time.
    """

    def own(*args: Any) -> T:
        before(args[-1])
        return work(*args)

    return list(_shared("each", work, common, units, own=own))


def total(work: Callable[..., Sequence[Tensor]], common: Sequence[Any], units: Sequence[Any]) -> list[Tensor]:
    """The sums of what `work(*common, unit)` gives, added up in the order of the units.

    The same bits on any number of processes while the results of all units are no more than `MOST` bytes. Above, each
    process adds up its own units first: then sums agree up to rounding (float64: about 1e-15 of the largest term).

    Args:
        work: a function of a module; its tensors have the same shapes for every unit.
        common: its first arguments.
        units: its last argument in each call, at least one.

    Raises:
        Exception, ResourceError: as `each`.
    """
    if _free() is None:
        return added(work(*common, unit) for unit in units)
    return added(_shared("total", work, common, units))


def added(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Sums of several results, in their order; one result at a time is kept."""
    sums: list[Tensor] = []
    for part in parts:
        sums = [a + b for a, b in zip(sums, part, strict=True)] if sums else list(part)
    return sums


def together(work: Callable[..., T], *common: Any) -> T:
    """`work(*common)` in all processes at once, which may call torch.distributed; what it returns in rank 0.

    Raises:
        Exception: what it raised in any process.
        ResourceError: a process ended, or did not answer in time.
    """
    found: T = _shared("together", work, common, range(world()))[0]
    return found


@final
class Held(Generic[U]):
    """Units of data that stay where they are worked on: each is sent once, to the process that does it."""

    def __init__(self, units: Sequence[U]) -> None:
        """Take all units, in order."""
        self.units = list(units)
        self._number = 0

    def total(self, work: Callable[..., Sequence[Tensor]], *common: Any) -> list[Tensor]:
        """The sums of what `work(*common, unit)` gives for every unit, as `total`."""
        group = _free()
        if group is None or len(self.units) < 2:
            return added(work(*common, unit) for unit in self.units)
        if not self._number:
            self._number = _keep(group, self.units)
        return added(_shared("total", work, common, self.units, held=self._number))

    def __del__(self) -> None:
        if self._number and _group is not None:
            _group.gone.append(self._number)


def _free() -> Group | None:
    """The group, where this is its leader and no call is under way."""
    return None if _group is None or _group.rank or _group.broken or _group.turn.locked() else _group


def _shared(
    how: str,
    work: Callable[..., Any],
    common: Sequence[Any],
    units: Sequence[Any],
    *,
    held: int = 0,
    own: Callable[..., Any] | None = None,
) -> Any:
    """Let all processes do their share; one result a unit, or for large sums one a process. `own` is `work` here."""
    group, here = _free(), own or work

    def alone() -> list[Any]:
        return [here(*common)] if how == "together" else [here(*common, unit) for unit in units]

    if group is None or len(units) < 2 or not group.turn.acquire(blocking=False):
        return alone()
    try:
        try:
            call = peers.packed((work, tuple(common), None if held else units))
        except Exception as error:  # whatever a class of somebody else's raises, e.g. one that is in no module
            _say_alone(group, f"{type(error).__name__}: {error}")
            return alone()
        message = peers.packed((how, call, held, len(units), torch.get_num_threads(), group.gone))
        answers = _asked(group, how, message, partial(_done, group, how, here, common, units, len(units)))
        odd = next((answer for answer in answers if isinstance(answer, _Unreadable)), None)
        if odd is not None:  # e.g. a model whose code only this process has loaded
            _say_alone(group, odd.why)
            return alone()
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed is not None:
            raise failed
        if how == "together" or isinstance(answers[0][0], _Sum):
            return [found for share in answers for found in share]
        return [answers[i % group.size][i // group.size] for i in range(len(units))]
    finally:
        group.turn.release()


def _say_alone(group: Group, why: str) -> None:
    """Say once why the others have nothing to do."""
    if not group.alone:
        log.info("process 0 does some of the work alone, which the others cannot be sent: %s", why[:200])
    group.alone = True


def _asked(group: Group, how: str, message: bytes, own: Callable[[], Any]) -> list[Any]:
    """What all processes answer to a message, and this one's `own` share; an exception in its place where one failed.

    Raises:
        ResourceError: a process ended, or did not answer in time.
    """
    group.broken, group.gone = True, []  # until all have answered
    with told(group):
        peers.wake(group)
        peers.to_all(message)
    mine = own()
    if how == "together" and isinstance(mine, Exception):
        # the others wait for this one's numbers, and will not answer
        raise peers.lost(group, mine) if peers.is_of_messages(mine) else mine
    answers = [mine, *(peers.answer(group, r) for r in range(1, group.size))]
    group.broken = False
    return answers


class _Sum(list[Tensor]):
    """The sums over all units of one process."""


def _done(group: Group, how: str, work: Callable[..., Any], common: Sequence[Any], units: Any, n: int) -> Any:
    """Results of the units of this process; an exception where one failed, so that nobody waits for it."""
    try:
        if how == "together":
            group.abreast = True
            return [work(*common)]
        mine = units[group.rank :: group.size]
        if how == "each":
            return [work(*common, unit) for unit in mine]
        parts: list[Any] = []
        for unit in mine:
            parts.append(work(*common, unit))
            if n * sum(t.numel() * t.element_size() for t in parts[0]) > MOST:
                parts = [_Sum(added(parts))]
        return parts
    except Exception as error:
        if how == "together":
            if not peers.is_of_messages(error):  # that follows from what ended another process
                peers.leave(group, sendable(error))
            if group.rank:
                os._exit(1)  # the others wait for this one's numbers: a closed connection ends that
        return error
    finally:
        group.abreast = False


def _keep(group: Group, units: Sequence[Any]) -> int:
    """Send each process its units; their number."""
    with group.turn:
        number, group.broken = group.asked + 1, True  # until all have theirs
        with told(group):
            peers.wake(group)
            peers.to_all(peers.packed(("keep", b"", number, 0, torch.get_num_threads(), group.gone)))
            group.gone = []
            for r in range(1, group.size):
                peers.send(peers.packed(list(units[r :: group.size])), r)
        group.broken = False
        return number


def _serve(group: Group) -> None:
    """Do what rank 0 asks for, until it says that all is done."""
    with told(group):
        while True:
            peers.sleep(group)
            how, call, held, n, threads, gone = pickle.loads(peers.from_leader())
            for number in gone:
                group.held.pop(number, None)
            if how == "end":
                return
            if how == "keep":
                group.held[held] = pickle.loads(peers.receive(0))
                continue
            torch.set_num_threads(threads)  # as rank 0 has them: the same bits
            found = _did(group, how, call, held, n)
            peers.send(peers.packed(sendable(found) if isinstance(found, Exception) else found), 0)


def _did(group: Group, how: str, call: bytes, held: int, n: int) -> Any:
    """Results of the units of this process, for a call that rank 0 sent."""
    try:
        work, common, units = pickle.loads(call)
    except Exception as error:
        if how == "together":
            return _done(group, how, partial(_raise, error), (), [], 1)
        return error if isinstance(error, ZprimeError) else _Unreadable(f"{type(error).__name__}: {error}")
    return _done(group, how, work, common, _Mine(group.held[held]) if held else units, n)


def _raise(error: Exception) -> None:
    raise error


@dataclass(frozen=True)
class _Unreadable:
    """The answer of a process that cannot read what it is to work on, and why."""

    why: str


class _Mine(list[Any]):
    """Units that are all of this process."""

    def __getitem__(self, part: Any) -> Any:
        """All of them, whatever slice is asked for."""
        return list(self)


def _dismiss(group: Group) -> None:
    """Tell the other processes that all is done."""
    if group.broken:  # what they wait for does not come
        with contextlib.suppress(RuntimeError):
            peers.leave(group, ResourceError(f"process 0 of {group.size} ended before all had answered; {peers.AGAIN}"))
        return
    with contextlib.suppress(RuntimeError, ResourceError):
        peers.wake(group)
        peers.to_all(peers.packed(("end", b"", 0, 0, 1, [])))
