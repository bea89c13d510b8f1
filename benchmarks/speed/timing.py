"""Two pieces of work, timed turn by turn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
DOCS = HERE.parent / "docs"
FASHION = Path("/usr/share/datasets/fashion-mnist")
ROUNDS = 3
MORE = 7  # where a round is short, or its noise as large as what is to be seen


@dataclass(frozen=True)
class Row:
    """One comparison: times are CPU seconds for the same work (the peer's scaled up where it had fewer points)."""

    job: str
    against: str
    ratios: list[float]
    ours: float
    peer: float
    least: float | None = None
    stretch: float | None = None
    unit: str = "x"

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def interleaved(
    job: str,
    against: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    scale: float = 1.0,
    least: float | None = None,
    stretch: float | None = None,
    rounds: int = ROUNDS,
) -> Row:
    """Ratio peer / ours, turn by turn; `scale` times the peer's work would be ours."""
    ours()  # caches, and what is laid out once
    a, b = [], []
    for _ in range(rounds):
        b.append(seconds(peer) * scale)
        a.append(seconds(ours))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    row = Row(job, against, ratios, statistics.median(a), statistics.median(b), least, stretch)
    print(f"{job:52} {against:34} {row.ratio:10.2f}  ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return row
