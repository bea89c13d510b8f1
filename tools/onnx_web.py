"""Fetch onnxruntime-web, pinned, for the test in a browser: python tools/onnx_web.py build/onnxruntime-web.

`npm pack` downloads the package without its dependencies and runs none of its code. Its SHA-512 is checked here again,
before three of its files are kept: the module, its loader, and the runtime in WebAssembly.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
KEPT = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def checked(archive: Path, expected: str = SHA512) -> Path:
    """The archive, if its SHA-512 in base64 is the expected one; else the program ends."""
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != expected:
        sys.exit(f"{archive.name}: expected SHA-512 {expected}, got {found}; nothing is unpacked")
    return archive


def unpack(archive: Path, folder: Path) -> None:
    """Write the files that are kept, and at last the version, by which a later call knows that all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in KEPT:
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                sys.exit(f"{archive.name}: expected dist/{name} in it, got none")
            (folder / name).write_bytes(member.read())
    (folder / "VERSION").write_text(f"{VERSION}\n")


def fetch(folder: Path) -> None:
    """Have this version in the folder; nothing is downloaded where it is there already."""
    stamp = folder / "VERSION"
    if stamp.exists() and stamp.read_text().strip() == VERSION:
        return
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            ["npm", "pack", "--silent", f"onnxruntime-web@{VERSION}"], cwd=place, check=True, stdout=subprocess.DEVNULL
        )
        unpack(checked(Path(place) / f"onnxruntime-web-{VERSION}.tgz"), folder)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
