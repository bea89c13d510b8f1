"""What is installed: locks that agree with pyproject.toml, and an installer that never gives up hashes in silence."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import install  # noqa: E402
import lock  # noqa: E402

META = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLATFORMS = sorted(p for p in (ROOT / "requirements").iterdir())
LOCKS = [p for folder in PLATFORMS for p in sorted(folder.iterdir())]


def entries(text: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of every package of a lock."""
    joined = text.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    out = {}
    for line in lines:
        pin, *hashes = line.split()
        name, version = pin.split("==")
        out[canonicalize_name(name)] = (version, hashes)
    return out


def wanted(group: str) -> list[Requirement]:
    return [Requirement(line) for line in lock.asked(group, META, lock.torch_here())]


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_package_of_a_lock_has_a_version_and_hashes(path: Path) -> None:
    found = entries(path.read_text())
    assert len(found) > 10
    for name, (version, hashes) in found.items():
        assert Version(version), name
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), name
    assert "://" not in path.read_text()  # no address of the machine that made it


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_lock_has_what_pyproject_asks_for(path: Path) -> None:
    found = entries(path.read_text())
    for need in wanted(path.stem):
        assert canonicalize_name(need.name) in found, f"{need}: run `make lock`"
        version = found[canonicalize_name(need.name)][0]
        assert need.specifier.contains(version, prereleases=True), f"{need}, got {version}: run `make lock`"


@pytest.mark.parametrize("folder", PLATFORMS, ids=lambda p: p.name)
def test_locks_agree_with_each_other_and_with_the_constraints(folder: Path) -> None:
    assert {p.stem for p in folder.iterdir()} == set(install.GROUPS)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    seen = entries((folder / "dev.txt").read_text())
    for group in set(install.GROUPS) - {"dev", "minimum"}:
        for name, (version, hashes) in entries((folder / f"{group}.txt").read_text()).items():
            assert seen.get(name, (version, hashes)) == (version, hashes), (group, name)
            assert Version(pins.get(name, version)).base_version == Version(version).base_version, (group, name)


@pytest.mark.parametrize("folder", PLATFORMS, ids=lambda p: p.name)
def test_the_minimum_lock_has_the_lower_bounds(folder: Path) -> None:
    found = entries((folder / "minimum.txt").read_text())
    for need in map(Requirement, META["project"]["dependencies"]):
        (least,) = [s.version for s in need.specifier if s.operator == ">="]
        assert Version(found[canonicalize_name(need.name)][0]) == Version(least), f"{need}: run `make lock`"


def test_packages_that_move_have_an_upper_bound() -> None:
    needs = [Requirement(n) for n in (*META["project"]["dependencies"], *META["build-system"]["requires"])]
    bounded = {n.name for n in needs if any(s.operator == "<" for s in n.specifier)}
    assert {n.name for n in needs} - bounded == {"rich", "jinja2", "pillow"}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for need in needs:
        for part in need.specifier:
            assert need.name not in bounded or part.operator != "<" or f"`{need.name}{part}`" in page, need


class FakePip:
    """Pip's exit codes, one a call; what it was asked is kept."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.asked = list(codes), list[list[str]]()

    def __call__(self, arguments: list[str]) -> int:
        self.asked.append(arguments)
        return self.codes.pop(0)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    folder = tmp_path / "requirements" / "there"
    folder.mkdir(parents=True)
    for group in install.GROUPS:
        (folder / f"{group}.txt").write_text("torch==2.13.0+cpu \\\n    --hash=sha256:00\n")
    return tmp_path


def test_with_a_lock_only_hashed_files_are_installed(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pip = FakePip(0, 0, 0)
    assert install.install("dev", root=locked, name="there", call=pip) == 0
    _, third_party, own = pip.asked
    assert {"--require-hashes", ":all:", str(locked / "requirements" / "there" / "dev.txt")} <= set(third_party)
    assert {"--no-deps", "--no-build-isolation", "-e"} <= set(own)
    assert capsys.readouterr().out == ""


def test_a_hash_that_differs_ends_the_installation(locked: Path) -> None:
    pip = FakePip(0, 1)  # torch is there, then pip refuses the lock
    assert install.install("dev", root=locked, name="there", call=pip) == 1
    assert pip.codes == []
    assert not any("constraints.txt" in arguments for arguments in pip.asked)


NO_LOCK = ("elsewhere", (0,), "no lock for elsewhere")
NO_TORCH = ("there", (1, 0), "no CPU build of torch")


@pytest.mark.parametrize(("name", "codes", "text"), [NO_LOCK, NO_TORCH])
def test_without_a_lock_the_constraints_hold_and_it_says_so(
    locked: Path, name: str, codes: tuple[int, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = FakePip(*codes)
    assert install.install("dev", root=locked, name=name, call=pip) == 0
    assert pip.asked[-1] == ["install", "-q", "-c", "constraints.txt", "-e", ".[dev]"]
    said = capsys.readouterr().out
    assert "without hashes" in said
    assert text in said


def test_the_lowest_versions_are_never_installed_without_their_lock(locked: Path) -> None:
    assert install.install("minimum", root=locked, name="elsewhere", call=FakePip()) == 1


def test_pip_refuses_a_file_of_another_hash(tmp_path: Path) -> None:
    """The whole way, with a wheel made here."""
    import hashlib
    import zipfile

    wheel = tmp_path / "nothing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("nothing.py", "")
        z.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        z.writestr("nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("nothing-1.0.dist-info/RECORD", "")
    folder = tmp_path / "requirements" / "there"
    folder.mkdir(parents=True)

    def call(arguments: list[str]) -> int:
        more = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "site")]
        return install.pip([*arguments, *more])

    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for digest, code in ((right, 0), ("0" * 64, 1)):
        (folder / "run.txt").write_text(f"nothing==1.0 --hash=sha256:{digest}\n")
        assert install.install("run", root=tmp_path, name="there", call=call) == code


def test_who_cites_is_told_what_the_package_says_of_itself() -> None:
    told = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    said = META["project"]
    assert (told["title"], told["abstract"], told["license"]) == (said["name"], said["description"], said["license"])
    assert told["cff-version"] == "1.2.0"
    assert "version" not in told, "no release would change it"
