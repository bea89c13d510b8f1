"""Write dist/zprime-VERSION.cdx.json, a CycloneDX list of what is installed with zprime: python tools/sbom.py.

The list is of an environment that holds the wheel of `make wheels` and what it imports, by the lock of this platform.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    out = ROOT / "dist" / f"zprime-{version}.cdx.json"
    wheels = sorted(out.parent.glob(f"zprime-{version}-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"dist: expected one wheel of zprime {version}, found {len(wheels)}; run `make wheels` first")
    with tempfile.TemporaryDirectory(prefix="zprime-sbom-") as name:
        python = Path(name) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, ROOT / "tools" / "install.py", "run"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheels[0]], check=True)
        # It came with the environment. What imports setuptools has it in the lock.
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "pip"], check=True)
        command = [sys.executable, "-m", "cyclonedx_py", "environment", python, "--pyproject", ROOT / "pyproject.toml"]
        command += ["--mc-type", "library", "--output-reproducible", "--of", "JSON", "-o", out]
        subprocess.run(command, check=True)
    print(f"{out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
