"""The figures of a run of the harness, in Markdown."""

from collections import Counter

from failures import Tally
from memory import RAN_OUT


def _n(value: int) -> str:
    return f"{value:,}"


def table(calls: Tally, other: Tally, *, seed: int, seconds: float, kinds: Counter[str], form: str) -> str:
    """The figures of one run of the harness.

    Args:
        calls: of the calls that failed one by one, and of operations without memory.
        other: of everything else.
        seed: of all that was drawn by chance.
        seconds: that it took.
        kinds: call of the system -> how often the commands, undisturbed, made it.
        form: the command that this is of.
    """
    modes: Counter[str] = Counter()
    verbs: dict[str, Counter[str]] = {}
    for name, n in calls.injected.items():
        verb, _, mode = name.rpartition("/")
        if mode in ("error", "kill", "full", "read"):
            modes[mode] += n
            verbs.setdefault(verb, Counter())[mode] += n
    memory = calls.injected["operation of torch without memory"]
    ends, done = calls.ended, other.ended
    lines = [
        f"By `{form}`, seed {seed}, {seconds / 60:.0f} minutes. Faults found: {len(calls.faults) + len(other.faults)}.",
        "",
        "| what was done | how often | what came of it |",
        "|---|---:|---|",
        f"| one call that changes something fails (EIO, ENOSPC) | {_n(modes['error'])} | {_same(calls, 'error')} |",
        f"| one read or open for reading fails (EIO) | {_n(modes['read'])} | {_same(calls, 'read')} |",
        f"| the process ends at a call, half of a write written | {_n(modes['kill'])} | {_same(calls, 'kill')} |",
        f"| the disk is full from a call on, then has room again | {_n(modes['full'])} | {_same(calls, 'full')} |",
        f"| an operation of torch finds no memory | {_n(memory)} | "
        f"{_n(ends['no memory: same bits by the same command'])} times the same bits by the same command; "
        f"{_n(ends[f'no memory: exit {RAN_OUT}'])} ended with a message and exit code {RAN_OUT} |",
        f"| readers (`sample`, `explain`, `report`) after these | {_n(sum(calls.readers.values()))} | "
        f"{_n(calls.readers['older or newer, whole'])} from the older or the newer run, whole; "
        f"{_n(calls.readers['refused'])} refused |",
        f"| a whole `zprime run` killed, at a random moment or call | {_n(other.injected['whole run killed'])} | "
        f"{_n(done['run: killed'])} killed before the end; {_n(done['run: same bits by the same command'])} times the "
        "same bits by the same command |",
        f"| the same command twice at once | {_n(other.injected['two processes'])} | "
        f"{_n(done['two processes: same bits'])} times the same bits; "
        f"{_n(done['two processes: one is told who writes'])} times one was told who writes |",
        f"| reads while another process replaces the run | {_n(other.injected['read while a run is replaced'])} | "
        f"{_n(other.readers['older or newer, whole'])} from the older or the newer run, whole; "
        f"{_n(other.readers['refused'])} refused |",
    ]
    for what in (
        "byte flipped in a manifest",
        "byte flipped in another file",
        "byte flipped in measured.json",
        "file cut short",
        "file made longer",
        "file missing",
        "file of another artefact",
        "artefact of another run",
    ):
        refused, harmless = done[f"{what}: refused"], done[f"{what}: harmless"]
        also = f"; {_n(harmless)} of `measured.json`, harmless" if harmless and refused else ""
        outcome = f"{_n(refused)} refused{also}" if refused else f"{_n(harmless)} harmless"
        lines.append(f"| {what} | {_n(other.injected[what])} | {outcome} |")
    lines += ["", "| command | calls that failed | reads | killed at | full from |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {v} | {_n(c['error'])} | {_n(c['read'])} | {_n(c['kill'])} | {_n(c['full'])} |" for v, c in verbs.items()
    ]
    made = ", ".join(f"{name} {_n(n)}" for name, n in kinds.most_common())
    return "\n".join([*lines, "", f"Calls of the undisturbed commands: {made}.", ""])


def _same(calls: Tally, mode: str) -> str:
    ends = calls.ended
    parts = [f"{_n(ends[f'{mode}: same bits by the same command'])} times the same bits by the same command"]
    if mode != "kill":
        refused = sum(n for name, n in ends.items() if name.startswith(f"{mode}: exit "))
        parts.append(
            f"{_n(refused)} ended with a message and an exit code, {_n(ends[f'{mode}: done all the same'])} did without"
        )
    return "; ".join(parts)
