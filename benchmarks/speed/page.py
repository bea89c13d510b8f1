"""The page of figures: tables and a plot, put into docs/performance.md."""

import sys

from densities import AS_CALLED, SCIKIT, TORCH, TORCH_32
from dimensions import D as MANY
from dimensions import N as ROWS
from matplotlib.figure import Figure
from mixtures import N
from timing import DOCS, HERE, Row


def short(x: float) -> str:
    """Three digits, and thousands in full."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def page(found: dict[str, object], rows: list[Row]) -> str:
    sys.path.insert(0, str(HERE.parent / "examples"))
    from pages import table

    lines = []
    for r in rows:
        low, high = min(r.ratios), max(r.ratios)
        spread = f"{short(low)} to {short(high)}" if len(r.ratios) > 1 else "one run"
        verdict = "" if r.least is None else ("reached" if r.ratio >= r.least else "**not reached**")
        goals = [f"{r.least:,g}"] if r.least is not None else []
        goals += [f"(stretch {r.stretch:.2g})"] if r.stretch is not None else []
        lines.append(
            [
                r.job,
                r.against,
                f"{short(r.ratio)} {r.unit}",
                spread,
                " ".join(goals),
                verdict,
                f"{r.ours:.3g}",
                f"{r.peer:.3g}",
            ]
        )
    head = ["job", "against", "ratio", "range", "at least", "", "ours, CPU s", "theirs, CPU s"]
    growing = [
        [
            name,
            f"{float(c['exponent']):.2f}",
            ", ".join(f"{s:,}" for s in c["size"]),
            ", ".join(f"{t:.2g}" for t in c["seconds"]),
        ]
        for name, c in found["growth"].items()
    ]
    errors = [[f"{e['d']}", f"{e['scale']:g}", f"{e['error']:.1e}", f"{e['torch']:.1e}"] for e in found["accuracy"]]
    held = ", ".join(f"{k} {v:.2f}" for k, v in found["heldout"].items())
    used = ", ".join(f"{k}: {v:.0f} MB" for k, v in found["memory"].items())
    wide = [[what, f"{seconds:.0f}", f"{most:,.0f}"] for what, (seconds, most) in found.get("dimensions", {}).items()]
    took = f", {found['minutes']:.0f} minutes in all" if "minutes" in found else ""
    return "\n\n".join(
        [
            table(head, lines),
            "![Times faster than the peers, by dimension; CPU seconds by components](images/speed.png)",
            f"Held-out log r of the reduction, nats: {held}.",
            f"Peak memory of log-densities under {N:,} components, d = 16, beyond what the process had before: {used}.",
            table(["cost in", "exponent", "sizes", "CPU s"], growing),
            *([table([f"{MANY:,} dimensions, {ROWS:,} rows", "CPU s", "MB until then"], wide)] if wide else []),
            table(["d", "scale", "largest error, nats", "MixtureSameFamily in float32"], errors),
            f"*{found['machine']}; `make bench`, seed 0{took}.*",
        ]
    )


def plots(found: dict[str, object], rows: list[Row]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [r for r in rows if r.job.startswith(AS_CALLED)]
    for against, marker in ((TORCH_32, "^"), (TORCH, "o"), (SCIKIT, "s")):
        some = [r for r in shown if r.against == against]
        x = [int(r.job.split("= ")[1]) for r in some]
        low = [r.ratio - min(r.ratios) for r in some]
        high = [max(r.ratios) - r.ratio for r in some]
        left.errorbar(x, [r.ratio for r in some], yerr=[low, high], marker=marker, capsize=3, label=against)
    left.set(
        xscale="log", yscale="log", xlabel="dimension d", ylabel="times faster", title="log-density, 60,000 components"
    )
    left.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
    left.minorticks_off()
    left.legend()
    for name in ("every pair, components N", "pruned, components N"):
        c = found["growth"][name]
        right.plot(c["size"], c["seconds"], marker="o", label=f"{name.split(',')[0]}: N^{float(c['exponent']):.2f}")
    right.set(xscale="log", yscale="log", xlabel="components N", ylabel="CPU s", title="2,000 points, d = 16")
    right.minorticks_off()
    right.set_xticks(c["size"], [f"{n // 1000},000" for n in c["size"]])
    right.legend()
    figure.savefig(DOCS / "images" / "speed.png", dpi=110)
