"""Where the CPU time of `zprime run` goes: python benchmarks/run.py RUN [options of `zprime run` but --out].

Stages that are done are used as they are: to see them all, RUN must not exist. Writes the table of docs/performance.md.
"""

import cProfile
import pstats
import sys
import time
from pathlib import Path

from trees import commit

from zprime.cli import main as zprime

HERE = Path(__file__).parent
STAGES = {
    "reading and splitting the data": ("data/dataset.py", "load"),
    "training": ("training.py", "train"),
    "encoding": ("encoding.py", "encode"),
    "fits": ("fitting.py", "fit"),
    "audit": ("auditing.py", "audit"),
    "report": ("reporting/page.py", "report"),
}
WITHIN = {
    "decoding": ("vae.py", "decode"),
    "nearest neighbours": ("kernels/neighbours_compiled.py", "nearest"),
    "log-density of diagonal mixtures": ("kernels/mixture.py", "_evaluate"),
    "log-density of full mixtures": ("kernels/dense.py", "log_prob"),
    "exact-posterior gain, closed form": ("kernels/mixture.py", "diagonal_log_ratio"),
    "classifier whose features are compared": ("measure/samples/features.py", "train_classifier"),
    "TSTR classifiers": ("measure/samples/utility.py", "hits"),
}


def main() -> None:
    out, options = sys.argv[1], sys.argv[2:]
    sys.argv = ["zprime", "--quiet", "--threads", "1", "run", "--out", out, *options]
    profile = cProfile.Profile(time.process_time)
    start = time.process_time()
    try:
        profile.runcall(zprime)
    except SystemExit as end:
        if end.code:
            raise
    whole = time.process_time() - start
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]

    def spent(where: tuple[str, str]) -> float:
        return sum(s[3] for (file, _, name), s in stats.items() if file.endswith(where[0]) and name == where[1])

    sys.path.insert(0, str(HERE.parent / "examples"))
    from pages import put, table

    rows = [[name, f"{spent(w):.1f}", f"{spent(w) / whole:.0%}"] for name, w in STAGES.items()]
    rows += [[f"... {name}", f"{spent(w):.1f}", f"{spent(w) / whole:.0%}"] for name, w in WITHIN.items()]
    rows.append(["all", f"{whole:.1f}", "100%"])
    text = table(["stage, or ... function within stages", "CPU s", "share"], rows)
    of = f"commit {commit(HERE.parent)}, {time.strftime('%Y-%m-%d')}"
    text += f"\n\n*`python benchmarks/run.py {out} {' '.join(options)}` at {of}, one thread, under Python's profiler.*"
    print(text)
    put(HERE.parent / "docs" / "performance.md", "run", text)


if __name__ == "__main__":
    main()
