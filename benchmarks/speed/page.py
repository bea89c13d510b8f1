"""The page of figures: tables and a plot, put into docs/performance.md."""

import sys
from typing import Any

from densities import AS_CALLED, SCIKIT, SCIKIT_WHOLE, TORCH, TORCH_32
from dimensions import D as MANY
from dimensions import N as ROWS
from matplotlib.figure import Figure
from mixtures import N
from runs import EPOCHS
from store import CHANGED, Results
from timing import DOCS, HERE, Row

sys.path.insert(0, str(HERE.parent / "examples"))

from pages import table

HEAD = ["job", "against", "ratio", "range", "at least", "", "ours, CPU s", "theirs, CPU s"]
APART = ("gpu",)
"""Groups of rows that have a table of their own."""


def short(x: float) -> str:
    """Three digits, and thousands in full."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def rows_of(results: Results, name: str) -> list[Row]:
    """The comparisons of a group; none if it has none, or was not measured."""
    found = results.found(name)
    rows = found[0] if name == "reduction" and found else found
    return [Row(**r) for r in rows] if isinstance(rows, list) and rows and "job" in rows[0] else []


def cells(r: Row) -> list[str]:
    """A row of the table."""
    low, high = min(r.ratios), max(r.ratios)
    spread = f"{short(low)} to {short(high)}" if len(r.ratios) > 1 else "one run"
    verdict = "" if r.least is None else ("reached" if r.ratio >= r.least else "**not reached**")
    goals = [f"{r.least:,g}"] if r.least is not None else []
    goals += [f"(stretch {r.stretch:.2g})"] if r.stretch is not None else []
    goal = " ".join(goals)
    return [r.job, r.against, f"{short(r.ratio)} {r.unit}", spread, goal, verdict, f"{r.ours:.3g}", f"{r.peer:.3g}"]


def page(results: Results, names: list[str]) -> str:
    """All of the page that is measured, of the groups in this order."""
    rows = [cells(r) for name in names if name not in APART for r in rows_of(results, name)]
    parts = [
        origin(results, names),
        table(HEAD, rows),
        "![Times faster than the peers, by dimension; CPU seconds by components](images/speed.png)",
        *(PARTS[name](results.found(name)) for name in PARTS if results.found(name)),
        on_gpu(results),
    ]
    return "\n\n".join(parts)


def origin(results: Results, names: list[str]) -> str:
    """Which commit, machine and day the figures are of, and what is not among them."""
    dates = sorted({g["date"] for g in results.groups.values()})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    of = results.now["commit"].removesuffix(CHANGED)
    clean = "with changes that are not committed" if results.now["commit"].endswith(CHANGED) else "without changes"
    said = [
        f"*All figures between here and the next heading: `make bench` at commit {of} {clean}, {days}, seed 0, "
        f"{results.minutes:.0f} CPU minutes; {results.now['machine']}.*"
    ]
    for name in names:
        group = results.groups.get(name, {"failed": "it was not run"})
        if "missing" in group and name not in APART:
            said.append(f"*{name}*: **not measured**: {group['missing']}.")
        elif "failed" in group:
            said.append(f"*{name}*: **failed**: {group['failed']}.")
    return "\n\n".join(said)


def on_gpu(results: Results) -> str:
    """The table of ratios, or why there is none."""
    rows = rows_of(results, "gpu")
    if not rows:
        why = results.groups.get("gpu", {}).get("missing", "see above")
        return f"On a GPU: **not measured** ({why})."
    heads = ["on a GPU", "times faster than one thread of the CPU", "range", "GPU, s", "CPU, s"]
    each = [[r.job, short(r.ratio), f"{short(min(r.ratios))} to {short(max(r.ratios))}"] for r in rows]
    return table(heads, [[*c, f"{r.ours:.3g}", f"{r.peer:.3g}"] for c, r in zip(each, rows, strict=True)])


def steps(found: dict[str, float]) -> str:
    heads = [f"a run on Fashion-MNIST, dense network, {EPOCHS} epochs of training", "CPU s"]
    return table(heads, [[f"`{name}`", f"{spent:.1f}"] for name, spent in found.items()])


def held(found: list[Any]) -> str:
    said = ", ".join(f"{name} {value:.2f}" for name, value in found[1].items())
    return f"Held-out log r of the reduction, nats: {said}."


def used(found: dict[str, float]) -> str:
    said = ", ".join(f"{name}: {megabytes:.0f} MB" for name, megabytes in found.items())
    return f"Peak memory of log-densities under {N:,} components, d = 16, beyond what the process had before: {said}."


def growing(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            f"{float(c['exponent']):.2f}",
            ", ".join(f"{s:,}" for s in c["size"]),
            ", ".join(f"{t:.2g}" for t in c["seconds"]),
        ]
        for name, c in found.items()
    ]
    return table(["cost in", "exponent", "sizes", "CPU s"], rows)


def wide(found: dict[str, list[float]]) -> str:
    rows = [[what, f"{seconds:.0f}", f"{most:,.0f}"] for what, (seconds, most) in found.items()]
    return table([f"{MANY:,} dimensions, {ROWS:,} rows", "CPU s", "MB until then"], rows)


def errors(found: list[dict[str, float]]) -> str:
    rows = [[f"{e['d']}", f"{e['scale']:g}", f"{e['error']:.1e}", f"{e['torch']:.1e}"] for e in found]
    return table(["d", "scale", "largest error, nats", "MixtureSameFamily in float32"], rows)


PARTS = {"run": steps, "reduction": held, "memory": used, "growth": growing, "dimensions": wide, "accuracy": errors}
"""What is shown of a group beside its comparisons."""


def plots(results: Results) -> None:
    """Of what there is."""
    figure = Figure(figsize=(9, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [r for r in rows_of(results, "densities") if r.job.startswith(AS_CALLED)]
    for against, marker in ((TORCH_32, "^"), (TORCH, "o"), (SCIKIT_WHOLE, "v"), (SCIKIT, "s")):
        some = [r for r in shown if r.against == against]
        x = [int(r.job.split("= ")[1]) for r in some]
        low = [r.ratio - min(r.ratios) for r in some]
        high = [max(r.ratios) - r.ratio for r in some]
        if some:
            left.errorbar(x, [r.ratio for r in some], yerr=[low, high], marker=marker, capsize=3, label=against)
    left.set(
        xscale="log", yscale="log", xlabel="dimension d", ylabel="times faster", title="log-density, 60,000 components"
    )
    left.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
    left.minorticks_off()
    if shown:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize="small")
    sizes: list[int] = []
    for name in ("every pair, components N", "pruned, components N"):
        c = (results.found("growth") or {}).get(name)
        if c:
            sizes = c["size"]
            right.plot(sizes, c["seconds"], marker="o", label=f"{name.split(',')[0]}: N^{float(c['exponent']):.2f}")
    right.set(xscale="log", yscale="log", xlabel="components N", ylabel="CPU s", title="2,000 points, d = 16")
    right.minorticks_off()
    right.set_xticks(sizes, [f"{n // 1000},000" for n in sizes])
    if sizes:
        right.legend()
    figure.savefig(DOCS / "images" / "speed.png", dpi=110)
