"""The processes of one job, as torch.distributed knows them: how they find each other, and messages between them.

What goes wrong between them ends in a `ResourceError` that names the processes.
"""

import contextlib
import io
import logging
import os
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from zprime.errors import ResourceError, UsageError

log = logging.getLogger("zprime")
ASKED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets in the environment of every process."""
PATIENCE = "ZPRIME_PROCESS_TIMEOUT"
"""Name in the environment of the seconds that one process waits for another."""
WAIT = 1800.0  # seconds, where the environment says nothing
SOON = 5.0  # seconds after which it is said that a process waits for the others
NAP = timedelta(seconds=20)  # after which a process that has nothing to do asks again
REST = 0.1  # seconds in which threads that only wait for Python's lock have it
FAILED = "zprime/failed"
"""Where a process leaves the error by which it ends."""
AGAIN = "what is finished is kept: start the same command again, and it goes on from there"


@dataclass
class Group:
    """The processes of this job, as one of them sees them.

    Attributes:
        rank: number of this process.
        size: number of all.
        store: where all can leave a word.
        asked: calls so far.
        held: number of a `Held` -> units that are kept here.
        gone: numbers of those that the others may forget.
        turn: held during a call, which is one thread's at a time.
        broken: whether messages between the processes got out of step, so that no more can be sent.
        abreast: whether all processes do the same work at once now.
        alone: whether it was said that this process does some work alone.
    """

    rank: int
    size: int
    store: Any
    asked: int = 0
    held: dict[int, list[Any]] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    turn: threading.Lock = field(default_factory=threading.Lock)
    broken: bool = False
    abreast: bool = False
    alone: bool = False


def asked() -> bool:
    """Whether this process was started as one of several, by torchrun or with the same environment."""
    return all(name in os.environ for name in ASKED) and os.environ["WORLD_SIZE"] != "1"


def joined() -> Group:
    """Find the other processes.

    Raises:
        UsageError: the environment names no such job.
        ResourceError: they did not come in time.
    """
    where = ", ".join(f"{name}={os.environ[name]}" for name in ASKED)
    seconds = os.environ.get(PATIENCE, str(WAIT))
    try:
        number, size, wait = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(seconds=float(seconds))
        if not 0 <= number < size or not wait > timedelta(0):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"processes: expected RANK below WORLD_SIZE, and seconds above 0 in {PATIENCE}, got {where}, {seconds}; "
            "start with torchrun, or unset WORLD_SIZE"
        ) from error
    if not dist.is_available():
        raise UsageError("processes: this torch was built without torch.distributed; unset WORLD_SIZE")
    gpu = torch.cuda.is_available() and dist.is_nccl_available()
    slow = threading.Timer(
        min(SOON, wait.total_seconds() / 2),
        log.warning,
        ("process %d of %d waits up to %g s for the others (%s)", number, size, wait.total_seconds(), where),
    )
    slow.daemon = True
    slow.start()
    try:
        store = _own_part(next(rendezvous("env://", timeout=wait))[0])
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=number, world_size=size, timeout=wait
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ResourceError(
            f"process {number} of {size}: did not find the others within {wait.total_seconds():g} s ({where}): "
            f"{_short(error)}; start all of them, and see whether the machines reach each other at that address"
        ) from error
    finally:
        slow.cancel()
    return Group(number, size, store)


def _own_part(store: Any) -> Any:
    """Of the store that torchrun keeps over restarts, a part that is this start's: addresses of before lead nowhere."""
    now = [os.environ.get(name, "0") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE")]
    return PrefixStore("/".join(["zprime", *now]), store)


class Opened(ABC):
    """What the other processes of a job open for themselves, as this one did; a plain pickle of it is as ever."""

    @abstractmethod
    def opening(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """A function of a module and its arguments, which give the same again; None where it was changed since."""


class _Pickler(pickle.Pickler):
    """As pickle, but of a part of a tensor that part alone is sent, and a random stream is sent as it stands.

    What is opened from a folder is opened again.
    """

    def reducer_override(self, value: Any) -> Any:
        """How these are made again; all else as ever."""
        if isinstance(value, Opened) and (opening := value.opening()) is not None:
            return opening
        if type(value) is Tensor and value.device.type == "cpu" and value.layout is torch.strided:
            bare = value.detach().contiguous()
            content = bare.reshape(-1).view(torch.uint8).numpy().tobytes() if bare.numel() else b""
            return _tensor_of, (content, value.dtype, tuple(value.shape))
        if isinstance(value, torch.Generator) and value.device.type == "cpu":
            return _stream_of, (value.initial_seed(), value.get_state())
        return NotImplemented


def _tensor_of(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape)


def _stream_of(seed: int, state: Tensor) -> torch.Generator:
    rng = torch.Generator()
    rng.manual_seed(seed)
    rng.set_state(state)
    return rng


def packed(value: Any) -> bytes:
    """A message.

    Raises:
        pickle.PicklingError, AttributeError, TypeError, NotImplementedError, RuntimeError: it cannot be sent.
    """
    out = io.BytesIO()
    _Pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def wake(group: Group) -> None:
    """Let the others hear what comes."""
    group.asked += 1
    group.store.set(f"zprime/{group.asked}", "1")


def sleep(group: Group) -> None:
    """Wait, however long, until rank 0 has something to say; a receive would have a time limit."""
    group.asked += 1
    while True:
        try:
            group.store.wait([f"zprime/{group.asked}"], NAP)
        except dist.DistStoreError as error:
            if "timeout" not in str(error).lower() or group.store.check([FAILED]):
                raise
        else:
            return


@contextlib.contextmanager
def told(group: Group, other: int | None = None) -> Iterator[None]:
    """Say in words that a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise lost(group, error, other) from error


def part() -> None:
    """End the group, and let gloo's threads put down what they hold before Python ends.

    DistributedDataParallel keeps the group, so that torch does not join them; one that lets go of the tensor of the
    last message while Python ends aborts the process (seen in torch 2.13).
    """
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    time.sleep(REST)


def is_of_messages(error: Exception) -> bool:
    """Whether a message between processes did not get through: another one ended, or did not answer in time."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def leave(group: Group, error: Exception) -> None:
    """Leave the error by which this process ends to the others; the first one that is left stays. It can be pickled."""
    group.store.compare_set(FAILED, "", packed(error))


def lost(group: Group, error: Exception, other: int | None = None) -> Exception:
    """What to raise where a message did not get through."""
    with contextlib.suppress(RuntimeError):
        if group.store.check([FAILED]):
            failed: Exception = pickle.loads(group.store.get(FAILED))
            return failed
    who = f"process {other}" if other is not None else "a process" if not group.rank else "process 0"
    return ResourceError(
        f"process {group.rank} of {group.size}: {who} of this job ended, or did not answer within "
        f"{os.environ.get(PATIENCE, f'{WAIT:g}')} s ({_short(error)}); {AGAIN}. Where the system ended it because "
        "memory ran out, start fewer processes a machine"
    )


def _short(error: Exception) -> str:
    """The first line of what torch says, without its place in the source."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition("] ")[2].split(". ")[0][:160]


def answer(group: Group, r: int) -> Any:
    """What process r answers."""
    with told(group, r):
        return pickle.loads(receive(r))


def to_all(content: bytes) -> None:
    """Send from rank 0 to all others."""
    dist.broadcast(torch.tensor([len(content)]), 0)
    dist.broadcast(_tensor(content), 0)


def from_leader() -> bytes:
    """Receive what rank 0 sends to all."""
    count = torch.zeros(1, dtype=torch.long)
    dist.broadcast(count, 0)
    content = torch.empty(int(count), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return content.numpy().tobytes()


def send(content: bytes, to: int) -> None:
    """Send to one process."""
    dist.send(torch.tensor([len(content)]), to)
    dist.send(_tensor(content), to)


def receive(source: int) -> bytes:
    """Receive what one process sends."""
    count = torch.zeros(1, dtype=torch.long)
    dist.recv(count, source)
    content = torch.empty(int(count), dtype=torch.uint8)
    dist.recv(content, source)
    return content.numpy().tobytes()


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
