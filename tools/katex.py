"""Fetch KaTeX, pinned, which sets the formulas of the site: python tools/katex.py.

`npm pack` downloads the package without its dependencies and runs none of its code. Its SHA-512 is checked before the
files that the site needs are kept in docs/assets/katex: the script, the style sheet and the fonts that browsers ask for
(woff2). SHA256SUMS lists them, and the tests compare it with what is there.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

from onnx_web import checked

VERSION = "0.19.1"
SHA512 = "jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA=="
FOLDER = Path(__file__).parent.parent / "docs" / "assets" / "katex"
KEPT = ("LICENSE", "dist/katex.min.js", "dist/katex.min.css")
SUMS = "SHA256SUMS"
OURS = ("NOTICE.txt", "OFL.txt")  # beside them, not of the package


def wanted(member: str) -> bool:
    """Whether the site needs this file of the package."""
    inner = member.removeprefix("package/")
    return inner in KEPT or (inner.startswith("dist/fonts/") and inner.endswith(".woff2"))


def sums(folder: Path = FOLDER) -> str:
    """Hash and name of every file of the package, as `sha256sum` writes them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SUMS, *OURS))
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in files)


def unpack(archive: Path, folder: Path) -> None:
    """Write the files that are kept, without the package's own folders but `fonts`."""
    with tarfile.open(archive) as tar:
        for member in filter(lambda m: wanted(m.name), tar.getmembers()):
            content = tar.extractfile(member)
            assert content is not None
            place = folder / member.name.removeprefix("package/").removeprefix("dist/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.read())
    (folder / SUMS).write_text(sums(folder))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", f"katex@{VERSION}"], cwd=place, check=True, capture_output=True)
        unpack(checked(Path(place) / f"katex-{VERSION}.tgz", SHA512), FOLDER)
