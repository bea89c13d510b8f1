"""The part of docs/tests.md that tells the score and the mutants that survive."""

import tomllib
from pathlib import Path

from places import Mutant

MARKERS = ("<!-- make mutants -->", "<!-- /make mutants -->")
EXPLAINED = Path(__file__).resolve().parent / "explained.toml"
NOTICED = {"failed", "crashed", "too slow"}
UNEXPLAINED = {"not run": "no test runs it", "survived": "not explained yet"}


def write(root: Path, mutants: list[Mutant], outcomes: dict[str, dict[str, str]], sample: str) -> None:
    """Put it between the markers."""
    page = root / "docs" / "tests.md"
    text = page.read_text()
    before, after = text.partition(MARKERS[0])[0], text.partition(MARKERS[1])[2]
    page.write_text(f"{before}{MARKERS[0]}\n{part(mutants, outcomes, sample)}\n{MARKERS[1]}{after}")


def part(mutants: list[Mutant], outcomes: dict[str, dict[str, str]], sample: str) -> str:
    """Score by module, then the survivors, each with its reason from explained.toml."""
    reasons = tomllib.loads(EXPLAINED.read_text())
    noticed = {m.key for m in mutants if outcomes[m.key]["outcome"] in NOTICED}
    rooms: dict[str, list[bool]] = {}
    for m in sorted(mutants, key=lambda m: m.path):
        rooms.setdefault(room(m.path), []).append(m.key in noticed)
    survived = [m for m in sorted(mutants, key=lambda m: (m.path, m.line)) if m.key not in noticed]
    share = len(noticed) / max(len(mutants), 1)
    lines = [
        f"{len(noticed)} of {len(mutants)} mutants are noticed ({share:.2f}); the sample is of {sample}.",
        "",
        "| module | mutants | noticed |",
        "| --- | --- | --- |",
        *(f"| {name} | {len(seen)} | {sum(seen)} |" for name, seen in rooms.items()),
        "",
        *(["Mutants that survive:", ""] if survived else []),
        *(f"- {m} (`{m.key}`): {reasons.get(m.key, UNEXPLAINED[outcomes[m.key]['outcome']])}" for m in survived),
    ]
    return "\n".join(lines).replace("](", "] (")  # or `rows[0](x)` is taken for a link


def room(path: str) -> str:
    """The row of the table that a file belongs to."""
    parts = path.removeprefix("src/zprime/").removesuffix(".py").split("/")
    if parts[0] == "measure":
        return "/".join(parts[:2]) if len(parts) > 2 else "measure"
    if parts[0].endswith(("stage", "stages", "run_folder")):
        return "running"
    return {"atomic": "artifact"}.get(parts[0], parts[0])
