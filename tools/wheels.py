"""Build an sdist and a wheel, and try the wheel away from the sources: python tools/wheels.py [3.11] [3.12] [3.13].

Python 3.11 has a lock: the wheel is installed beside what zprime imports and nothing else, then the tests' packages
come and a few tests run against the wheel. On 3.12 and 3.13, where there is such an interpreter, the wheel is built
from the sdist, installed, every module imported, and `--help` run. What is not there is skipped, and it says so.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
OTHERS = ("3.12", "3.13")
TESTS = ("test_artifact.py", "test_kernels.py", "test_compiled.py", "test_mixture.py")
EXTRAS = ("sklearn", "pyro", "arviz_stats", "pythae", "scvi", "ctgan", "diffusers")
IMPORT_ALL = (
    f"EXTRAS = {EXTRAS}"
    + """
import pathlib, pkgutil, importlib, zprime
assert "site-packages" in zprime.__file__, zprime.__file__
names = [m.name for m in pkgutil.walk_packages(zprime.__path__, "zprime.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name.split(".")[0] in EXTRAS, f"{name} needs {error.name}"
        print(f"{name} needs the extra that has {error.name}")
from zprime.kernels import compiled
print(f"{len(names)} modules imported, kernels: {compiled.missing or 'compiled'}")
"""
)


def run(*command: str | Path, where: Path) -> None:
    """Run a command with no path to the sources; stop where it fails."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    print("+", *(str(c) for c in command if "\n" not in str(c)), flush=True)
    subprocess.run([str(c) for c in command], cwd=where, env=clean, check=True)


def interpreter(version: str) -> str | None:
    """The path of this version's interpreter, if it is on PATH and starts (pyenv's shims are there without one)."""
    own = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    for found in [shutil.which(f"python{version}"), *map(str, own)]:
        if found and subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return found
    return None


def build(scratch: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel of this interpreter, built from the sdist by the locked tools; both in dist/."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", scratch / "dist", ROOT, where=scratch)
    DIST.mkdir(exist_ok=True)
    (sdist,) = (scratch / "dist").glob("zprime-*.tar.gz")
    (wheel,) = (scratch / "dist").glob("zprime-*.whl")
    return tuple(Path(shutil.copy(p, DIST)) for p in (sdist, wheel))


def try_commands(python: Path, where: Path) -> None:
    """What a user does first."""
    run(python, "-c", IMPORT_ALL, where=where)
    run(python.with_name("zprime"), "--help", where=where)
    run(python.with_name("zprime"), "doctor", where=where)


def own(wheel: Path, scratch: Path) -> None:
    """The wheel beside what it imports, then beside the tests' packages."""
    python = scratch / "own" / "bin" / "python"
    run(sys.executable, "-m", "venv", scratch / "own", where=scratch)
    run(python, ROOT / "tools" / "install.py", "run", where=scratch)
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel, where=scratch)
    run(python, "-m", "pip", "check", where=scratch)
    try_commands(python, scratch)
    run(python, ROOT / "tools" / "install.py", "tests", where=scratch)
    away = scratch / "away"
    shutil.copytree(ROOT / "tests", away / "tests")
    run(python, "-c", IMPORT_ALL, where=away)
    run(python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(f"tests/{t}" for t in TESTS), where=away)


def other(version: str, sdist: Path, scratch: Path) -> None:
    """The same sdist on another Python, with whatever versions PyPI has for it today."""
    found = interpreter(version)
    if found is None:
        print(f"no python{version} on this machine: skipped")
        return
    folder = scratch / version
    python = folder / "bin" / "python"
    run(found, "-m", "venv", folder, where=scratch)
    run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, sdist, where=scratch)
    try_commands(python, scratch)
    shutil.rmtree(folder)


def main(arguments: list[str]) -> None:
    only = [a for a in arguments if a[0].isdigit()]
    with tempfile.TemporaryDirectory(prefix="zprime-wheels-") as name:
        scratch = Path(name)
        sdist, wheel = build(scratch)
        if not only or "3.11" in only:
            own(wheel, scratch)
        for version in OTHERS:
            if not only or version in only:
                other(version, sdist, scratch)
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        print(f"zprime {version}: {sdist.name} and {wheel.name} are in dist/")


if __name__ == "__main__":
    main(sys.argv[1:])
