"""Draw z' from the latent.safetensors beside this file: `python sample.py 100 0 z.npy` (how many, seed, where to)."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}


def load(file: Path) -> dict[str, Any]:
    """Arrays of a safetensors file: 8 bytes of length, a header in JSON, then the numbers."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    arrays = {}
    for name, a in json.loads(raw[8:start]).items():
        begin, end = a["data_offsets"]
        arrays[name] = np.frombuffer(raw[start + begin : start + end], TYPES[a["dtype"]]).reshape(a["shape"])
    return arrays


def from_noise(r: dict[str, Any], uniform: Any, normal: Any) -> Any:
    """Shape [n, d]: z' for n numbers in [0, 1), which pick components, and [n, columns] standard normal numbers."""
    d = r["mean"].shape[1]
    k = np.minimum(np.searchsorted(r["cumulative"], uniform, side="right"), len(r["mean"]) - 1)
    z = r["mean"][k] + r["scale"][k] * normal[:, :d]
    for i, factor in enumerate(r.get("factor", ())):
        rows = r["which"][k] == i
        z[rows] += normal[rows, d:] @ factor.T
    return z


def sample(n: int, seed: int = 0, file: Path = Path(__file__).parent / "latent.safetensors") -> Any:
    """Draw z', shape [n, d], float32."""
    r, rng = load(file), np.random.default_rng(seed)
    columns = r["mean"].shape[1] + (r["factor"].shape[2] if "factor" in r else 0)
    return from_noise(r, rng.random(n), rng.standard_normal((n, columns), dtype=np.float32))


if __name__ == "__main__":
    given = sys.argv[1:4]
    number, start, out = (*given, *("100", "0", "z.npy")[len(given) :])
    np.save(out, sample(int(number), int(start)))
