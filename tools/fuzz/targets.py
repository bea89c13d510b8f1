"""What is fuzzed: bytes -> a loader. Each answers, or raises an error of ours; anything else is a fault.

A target is a function of bytes, and examples of valid ones to start from. Files lie in a folder of memory.
"""

import contextlib
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zprime import artifact, latent
from zprime.artifact import MANIFEST, TENSORS, Manifest
from zprime.cli import main
from zprime.cli.given import Given
from zprime.cli.settings import kinds_with
from zprime.data.readers import read_source
from zprime.errors import ZprimeError
from zprime.results.names import CandidateId, check_name

MEMORY = Path("/dev/shm")
CODES = {0, 1, 2, 3, 4, 5}
"""Exit codes of the command line, without those of signals, and without 6: nothing here needs much memory."""


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        run: takes bytes; raises only what is a fault.
        seeds: valid input.
        share: of the cases, in proportion to the shares of the others.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    share: int


def folder() -> Path:
    """A new folder, in memory where there is such."""
    return Path(tempfile.mkdtemp(prefix="zprime-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))


def table(name: str) -> Callable[[bytes], object]:
    """A file of this name, read as data."""
    file = folder() / name

    def run(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(ZprimeError):
            found = read_source(str(file))
            assert found.x.ndim > 1, found.x.shape
            assert len(found.x), found.x.shape

    return run


def pictures(name: str) -> Callable[[bytes], object]:
    """A folder with one file of this name, read as data."""
    inside = folder()

    def run(content: bytes) -> None:
        (inside / name).write_bytes(content)
        with contextlib.suppress(ZprimeError):
            read_source(str(inside))

    return run


def manifest(content: bytes) -> None:
    """A manifest of any bytes."""
    (PLACE / MANIFEST).write_bytes(content)
    with contextlib.suppress(ZprimeError):
        artifact.read(PLACE)


def sealed(content: bytes) -> None:
    """A manifest with other values, sealed again, so that only the values can be refused.

    Of the bytes the first choose which value, and the rest is the JSON that it becomes, or else its text.
    """
    said = json.loads(SAID)
    part, at = said, 0
    for at in range(4):
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = keys[content[at] % len(keys)] if content[at : at + 1] else keys[0]
        if not isinstance(part[key], dict | list) or not part[key] or (content[at : at + 1] and content[at] > 200):
            break
        part = part[key]
    part[key] = value_of(content[at + 1 :])
    (PLACE / MANIFEST).write_bytes(seal(json.dumps(said).encode()))
    (PLACE / TENSORS).write_bytes(VALID)
    with contextlib.suppress(ZprimeError):
        load()


def value_of(content: bytes) -> object:
    """The JSON that these bytes are, else their text."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def tensors(content: bytes) -> None:
    """A tensor file of any bytes, whose hash the manifest has."""
    (PLACE / TENSORS).write_bytes(content)
    with contextlib.suppress(ZprimeError):
        artifact.seal(PLACE, KIND, files={TENSORS: artifact.hashlib.sha256(content).hexdigest()})
        load()


def load() -> None:
    """Load the latent distribution and ask it for its density."""
    r = latent.load(PLACE)
    z = torch.zeros(3, r.d)
    value = r.log_prob(z)
    assert bool(torch.isfinite(value).all()), value


def seal(content: bytes) -> bytes:
    """The manifest that these bytes say, if they are JSON, with a hash that fits."""
    try:
        said = json.loads(content)
        said.pop("sha256", None)
        said["sha256"] = artifact.digest(said)
        return (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return content


def command(argv: list[str]) -> None:
    """A call of the command line, in an empty folder, with nothing to read there."""
    quiet = io.StringIO()
    with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
        code: object = None
        try:
            main(argv)
        except SystemExit as ended:
            code = ended.code
    assert code in CODES, (argv, code)
    assert "Traceback" not in quiet.getvalue(), argv
    for left in Path.cwd().iterdir():
        assert left.name in KEPT, (argv, left)


def arguments(content: bytes) -> None:
    """Words with zeros between them; no path leads out of the folder."""
    words = content.decode("utf-8", "replace").replace("/", "_").split("\0")[:12]
    command([w for w in words if w])


def settings(content: bytes) -> None:
    """A TOML file with settings."""
    Path("z.toml").write_bytes(content)
    command(["--config", "z.toml", "report", "nothing"])


def names(content: bytes) -> None:
    """Names of candidates and fits, settings of kinds, labels."""
    text = content.decode("utf-8", "replace")
    for use in (CandidateId.parse, check_name, Given.of, lambda t: kinds_with(["mixture", "conditional"], [t])):
        with contextlib.suppress(ZprimeError):
            use(text)


PLACE = folder()
HERE = folder()
KEPT = {"z.toml"}
KIND = Manifest("latent/gaussian")
VALID = b""
SAID = b"{}"


def prepare() -> None:
    """Write a valid latent distribution to start from, and go to an empty folder."""
    global KIND, VALID, SAID
    r = latent.Gaussian(torch.tensor([0.5, 0.0]), torch.tensor([[0.8, 0.0], [0.2, 0.8]]))
    there = r.save(PLACE)
    KIND, VALID = Manifest(there.kind, there.config), (PLACE / TENSORS).read_bytes()
    SAID = (PLACE / MANIFEST).read_bytes()
    os.chdir(HERE)


def npy(x: np.ndarray) -> bytes:
    """As numpy stores it."""
    buffer = io.BytesIO()
    np.save(buffer, x)
    return buffer.getvalue()


def npz() -> Iterable[bytes]:
    """Arrays by name, packed and not."""
    x, y = np.arange(12.0).reshape(4, 3), np.arange(4)
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=x, y=y)
        yield buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("x.npy", npy(x))
        packed.writestr("readme.txt", "no array")
    yield buffer.getvalue()


def png() -> Iterable[bytes]:
    """Small pictures in several modes."""
    for mode in ("L", "RGB", "RGBA", "P", "1", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (4, 3)).save(buffer, "PNG")
        yield buffer.getvalue()


def idx() -> Iterable[bytes]:
    """Two pictures of 3 x 3."""
    yield struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(range(18))


def valid_manifest() -> Iterable[bytes]:
    """Of the latent distribution."""
    yield (PLACE / MANIFEST).read_bytes()


CSV = (b"a,b,label\n1,2,x\n3,4,y\n", b"1;2\n3;4\n", b'\xef\xbb\xbf1,2\n"3",1e5\n', b"x,x\nNA,1\n", b"1,2\r\n3\r\n")
WORDS = (
    b"run\0--data\0nope\0--out\0here\0--latents\x003",
    b"sample\0nothing\0--from\0mixture+p5\0-n\x003",
    b"fit\0nothing\0--kinds\0mixture\0--set\0mixture.components=5\0--name\0x",
    b"audit\0nothing\0--rows\x0010\0--json",
    b"report\0a\0b\0--public",
    b"kinds\0--quiet",
    b"explain\0nothing\0--out\0x.md",
)
TOML = (b"[report]\npublic = true\n", b'[run]\nlatents = 3\nhidden = [7, 8]\ndata = "digits"\n', b"x = nan\n")
VALUES = (b"\x00null", b"\x01\x00[1, 2]", b'\x02\x00"x"', b"\x03-1", b"\x04{}", b"\x05\x001e308", b"\x06\xffNaN", b"")
NAMES = (b"aggregated+p10", b"mixture", b"label=3", b"mixture.components=5", b"conditional.base=mixture", b"a+p1e-9")
TARGETS: dict[str, Target] = {
    "names": Target(names, lambda: NAMES, 250),
    "manifest": Target(manifest, valid_manifest, 200),
    "csv": Target(table("t.csv"), lambda: CSV, 170),
    "npy": Target(table("t.npy"), lambda: (npy(np.arange(12.0).reshape(4, 3)), npy(np.eye(3, dtype="<f4"))), 120),
    "npz": Target(table("t.npz"), npz, 60),
    "sealed": Target(sealed, lambda: VALUES, 80),
    "tensors": Target(tensors, lambda: (VALID,), 60),
    "idx": Target(pictures("train-images-idx3-ubyte"), idx, 20),
    "png": Target(pictures("a.png"), png, 20),
    "toml": Target(settings, lambda: TOML, 10),
    "arguments": Target(arguments, lambda: WORDS, 10),
}
