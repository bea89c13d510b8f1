"""Fuzz what reads files, names and arguments: `make fuzz`.

Each target runs in a process of its own, guided by coverage (atheris), with a limit of memory and of time for one case.
What it finds is written to tests/corpus/TARGET, where a test reads it again for ever after.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus"
BUILD = ROOT / "build" / "fuzz"
SECONDS = 10
"""The longest that one case may take."""
MEGABYTES = 6000
"""Of address space; torch alone takes half of it."""


def fuzz(name: str, cases: int, seed: int) -> tuple[int, list[Path]]:
    """Run one target; the number of cases, and the inputs that were a fault."""
    grown, found = BUILD / name / "grown", BUILD / name / "found"
    for place in (grown, found, CORPUS / name):
        place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--one", name, "--cases", str(cases), "--seed", str(seed)]
    here = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BUILD, env=here)
    (BUILD / f"{name}.log").write_text(done.stdout + done.stderr)
    counted = re.findall(r"(?:Done (\d+) runs|stat::number_of_executed_units: (\d+))", done.stdout + done.stderr)
    ran = max((int(a or b) for a, b in counted), default=0)
    faults = []
    for file in sorted(found.iterdir()):
        kept = CORPUS / name / file.name.removeprefix("crash-")[:16]
        kept.write_bytes(file.read_bytes())
        file.unlink()
        faults.append(kept)
    if done.returncode and not faults:
        raise SystemExit(f"{name}: the fuzzer itself failed with {done.returncode}; see {BUILD / name}.log")
    return ran, faults


def one(name: str, cases: int, seed: int) -> None:
    """Fuzz one target in this process; it ends with the process."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    with atheris.instrument_imports(include=["zprime.artifact", "zprime.data", "zprime.results", "zprime.latent"]):
        import targets
    targets.prepare()
    target = targets.TARGETS[name]
    grown = BUILD / name / "grown"
    for i, content in enumerate(target.seeds()):
        (grown / f"seed{i}").write_bytes(content)
    flags = [f"-runs={cases}", f"-seed={seed + 1}", f"-timeout={SECONDS}", "-rss_limit_mb=0", "-print_final_stats=1"]
    flags += [f"-artifact_prefix={BUILD / name / 'found'}/", "-max_len=4096", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *flags, str(grown), str(CORPUS / name)], target.run)
    atheris.Fuzz()


def table(found: dict[str, tuple[int, int, float]]) -> str:
    """Cases, faults and seconds of each target."""
    lines = ["| what | cases | faults | seconds |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {cases:,} | {faults} | {seconds:.0f} |" for name, (cases, faults, seconds) in found.items()]
    total, faults = (sum(f[i] for f in found.values()) for i in (0, 1))
    return "\n".join([*lines, f"| all | {total:,.0f} | {faults:.0f} | {sum(f[2] for f in found.values()):.0f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "examples")]
    if args.one:
        one(args.one, args.cases, args.seed)
        return
    import pages
    import targets

    shares = {n: t.share for n, t in targets.TARGETS.items() if not args.only or n in args.only}
    found: dict[str, tuple[int, int, float]] = {}
    for name, share in shares.items():
        start = time.monotonic()
        cases, faults = fuzz(name, args.cases * share // sum(shares.values()), args.seed)
        found[name] = cases, len(faults), time.monotonic() - start
        print(f"{name}: {cases:,} cases, {len(faults)} faults{''.join(f', {f}' for f in faults)}", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "found.json").write_text(json.dumps(found))
    text = f"By `make fuzz CASES={args.cases}`, seed {args.seed}.\n\n{table(found)}"
    print(text)
    if not args.only:
        pages.put(pages.DOCS / "reliability.md", "fuzz", text)
    sys.exit(any(f[1] for f in found.values()))


if __name__ == "__main__":
    main()
