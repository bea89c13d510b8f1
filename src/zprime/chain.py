"""What lies in the folder of a run belongs together: the run lists its artefacts, and each names what it was made from.

The manifest of a run names the SHA-256 of the manifest of every artefact in it. An artefact that is not listed, or is
another one, is none of the run's. To put one in place takes three steps: the run lists the new one beside the old, the
new one is moved there, the run lists the new one alone. Whenever the process is killed, what lies there is listed.

Every artefact names the hashes of what it was made from, by the paths that these have in the run. Whoever reads one
checks the whole chain.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from zprime import artifact, atomic, locks
from zprime.artifact import MANIFEST, Artifact, Manifest
from zprime.errors import ArtifactError
from zprime.schema.kinds import check_settings

RUN = "run"
EXPORT = "export"
"""A folder that was exported: it names the hash of the artefact in it."""
STAGED = ".staged"
"""Where artefacts of a run are made, before they are moved into place."""
PAGES = ("report.html", "public.html", "codes.parquet", "card.md")
"""Files that are made from a run's artefacts, and go with them."""
SAMPLES = "samples"
"""Folder of a run for what was drawn from it."""
DRAWN = r"(\+p[\d.e+-]+)?(-[+-]?\d+)?\.(npz|png|csv)"
"""What follows the name of what was drawn from, in the name of a file of samples: a share of the prior, a label."""
DEPTH = 2
"""How many folders an artefact may lie below that of its run."""

Listed = dict[str, list[str]]


def start(run: Path) -> None:
    """Make `run` the folder of a run without artefacts."""
    _write(run, {}, {})


def listed(run: Path) -> Listed:
    """Path of an artefact in the run -> SHA-256 of the manifests that may lie there.

    Raises:
        ArtifactError: no run, or its manifest was altered.
    """
    return _part(artifact.read(run, RUN), "artifacts")


def has(run: Path, name: str) -> bool:
    """Whether the run lists an artefact at `name`, and there is one."""
    return name in listed(run) and atomic.is_artifact(run / name)


def read(path: str | Path, kind: str | None = None) -> Artifact:
    """Read an artefact; where it lies in the folder of a run, check that it belongs there, with all it was made from.

    Raises:
        ArtifactError: as for `artifact.read`; or it is not the run's, or made from something that the run has not.
    """
    path = Path(path)
    found = artifact.read(path, kind)
    if found.kind == RUN:
        return found
    whole = path.absolute()
    for up in range(DEPTH):
        run = path.parents[up] if up < len(path.parents) else whole.parents[up]
        name = Path(*whole.parts[-up - 1 :]).as_posix()
        if name.startswith("."):  # still in the making
            break
        if not up and _in_export(run, found, name):
            break
        if _is_run(run):
            return check(run, name, kind)
    return found


def _in_export(folder: Path, found: Artifact, name: str) -> bool:
    """Whether an artefact lies in an exported folder; raise `ArtifactError` if it is another than was exported."""
    if not atomic.is_artifact(folder) or (export := artifact.read(folder)).kind != EXPORT:
        return False
    if export.inputs.get(name) != found.hash:
        raise ArtifactError(f"{found.path}: another artefact than the one that was exported; export it again")
    return True


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run.

    Raises:
        ArtifactError: its manifest cannot be read, is damaged, or is of something else than a run, in which no artefact
            lies. What is there may then not belong together. (A manifest that another program wrote is valid JSON, and
            names none of what ours does.)
    """
    try:
        content = json.loads(atomic.read_regular(folder / MANIFEST, atomic.LARGEST))
        if content.get("format") != "zprime" and "artifacts" not in content.get("config", {}):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        pass  # told in words by what reads it
    artifact.read(folder, RUN)
    return True


def check(run: Path, name: str, kind: str | None = None) -> Artifact:
    """The artefact called `name` of a run.

    Raises:
        ArtifactError: it is not there, unreadable, not the run's, or made from something that the run has not.
    """
    return _check(run, name, kind, {})


def _check(run: Path, name: str, kind: str | None, seen: dict[str, Artifact]) -> Artifact:
    if name in seen:
        return seen[name]
    seen[name] = found = _own(run, name, kind)
    for source, wanted in found.inputs.items():
        if not atomic.has_manifest(run / source):
            raise ArtifactError(
                f"{found.path}: made from {source}, which is not in {run} any more; {remedy(run, name)}"
            )
        if _check(run, source, None, seen).hash != wanted:
            raise ArtifactError(
                f"{found.path}: made from another {source} than {run} has now (SHA-256 {wanted[:12]}, now "
                f"{seen[source].hash[:12]}); {remedy(run, name)}"
            )
    return found


def _own(run: Path, name: str, kind: str | None) -> Artifact:
    """An artefact that the run lists."""
    for _ in range(3):  # a writer may put another one in place between the two reads
        found, allowed = artifact.read(run / name, kind), listed(run)
        if found.sha256 in allowed.get(name, []):
            return found
    if name not in allowed:
        raise ArtifactError(
            f"{found.path}: {run} does not list it, so it was not made in this run; move it elsewhere to read it by "
            f"itself, or {remedy(run, name)}"
        )
    raise ArtifactError(
        f"{found.path}: not the one that {run} made there (its {MANIFEST} has SHA-256 {found.sha256[:12]}, the run "
        f"lists {allowed[name][-1][:12]}); put the right one back, or delete the folder and {remedy(run, name)}"
    )


def remedy(run: Path, name: str) -> str:
    """What to do where an artefact is missing or does not belong."""
    first, _, rest = name.partition("/")
    command = {
        "data": f"train --out {run}",
        "model": f"train --out {run}",
        "posteriors": f"encode {run}",
        "latent": f"fit {run} --name {rest}",
    }.get(first, f"audit {run}")
    return f"run `zprime {command}` again"


def place(run: Path, name: str, staged: Path, *, without: Iterable[str] = ()) -> Artifact:
    """Move an artefact that was made beside into its place in the run, in one step for whoever reads.

    Args:
        run: the folder.
        name: path in it.
        staged: the artefact.
        without: names of artefacts that leave the run in the same step.

    Raises:
        UsageError: it cannot be moved there, or this process lost the lock of the run.
    """
    locks.check_kept(run)
    new = artifact.read(staged).sha256
    _remove(run, {n: hashes for n, hashes in _dropped(run).items() if n == name})
    check_free(run, name)
    atomic.make_folder((run / name).parent)
    with atomic.in_turn(run):
        locks.check_kept(run)
        there, dropped = listed(run), _dropped(run)
        leaving = {n: there.pop(n) for n in without if n in there and n != name}
        older = [h for h in there.get(name, []) if h != new]
        _write(run, {**there, name: [*older, new]}, {**dropped, **leaving})
    if older:
        _discard(run, [name])
    atomic.move_into_place(staged, run / name)
    with atomic.in_turn(run):
        _write(run, {**listed(run), name: [new]}, _dropped(run))
    _remove(run, leaving)
    return artifact.read(run / name)


def check_free(run: Path, name: str) -> None:
    """Raise `ArtifactError` where something lies at `name` that this run did not make, or not so: it would be lost."""
    path = run / name
    ours = name in listed(run)
    if atomic.is_artifact(path) and not ours and name not in _dropped(run):
        raise ArtifactError(f"{path}: {run} does not list it, so it was not made in this run; move it elsewhere")
    if ours and atomic.has_manifest(path) and not atomic.is_artifact(path):
        raise ArtifactError(
            f"{path / MANIFEST}: not a readable zprime manifest; move {path} elsewhere and run the same command again"
        )
    atomic.check_no_link(path)
    atomic.check_replaceable(path)


def check_folders(run: Path, names: Iterable[str]) -> None:
    """Refuse what is no folder in the place of an artefact, of a folder above it, or of where it is made.

    To be called before work that would be lost, or written or deleted through a link.

    Args:
        run: the folder, which need not be there yet.
        names: paths in it.

    Raises:
        UsageError: something else than a folder lies in one of these places, also where it is a link to a folder.
    """
    for name in names:
        for place in (Path(name), Path(STAGED, name)):
            for path in (*reversed(place.parents[:-1]), place):
                atomic.check_folder(run / path)


def drop(run: Path, names: Iterable[str]) -> None:
    """Take artefacts out of a run, all in one step, then delete them and the pages and samples made from them."""
    with atomic.in_turn(run):
        locks.check_kept(run)
        there, dropped = listed(run), _dropped(run)
        leaving = {n: there.pop(n) for n in names if n in there}
        if leaving:
            _discard(run, leaving)
            _write(run, there, {**dropped, **leaving})
    _remove(run, leaving)


def tidy(run: Path) -> None:
    """Finish what a killed process had begun: what it put in place is listed alone, what it took out is deleted."""
    with atomic.in_turn(run):
        there = listed(run)
        alone = {n: _alone(run / n, hashes) for n, hashes in there.items()}
        if alone != there:
            _write(run, alone, _dropped(run))
    _remove(run, _dropped(run))


def _alone(path: Path, hashes: list[str]) -> list[str]:
    """Of the manifests that may lie at `path`, the one that does, where there are several."""
    if len(hashes) < 2:
        return hashes
    with contextlib.suppress(ArtifactError):
        found = artifact.read(path).sha256
        return [found] if found in hashes else hashes
    return hashes


def below(run: Path, name: str) -> list[str]:
    """Names of the artefacts of a run that were made from `name`, directly or not; without those that are damaged.

    Raises:
        ArtifactError: one of them cannot be read now: it would be left behind.
    """
    found = {name}
    sources = {}
    for n in listed(run):
        try:
            sources[n] = artifact.read(run / n).inputs
        except ArtifactError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno not in atomic.NONE:
                raise
    while more := {n for n, inputs in sources.items() if n not in found and found & inputs.keys()}:
        found |= more
    return [n for n in sources if n in found and n != name]


def _remove(run: Path, leaving: Mapping[str, list[str]]) -> None:
    """Delete artefacts that left, if they still lie there, and forget those that are gone."""
    if not leaving:
        return
    _discard(run, leaving)
    gone = [name for name, hashes in leaving.items() if _gone(run, name, hashes)]
    with atomic.in_turn(run):
        _write(run, listed(run), {n: h for n, h in _dropped(run).items() if n not in gone})


def _gone(run: Path, name: str, hashes: list[str]) -> bool:
    """Delete an artefact that left the run; False where that failed, so that the next command tries it again."""
    path = run / name
    try:
        # without a manifest it is what a process left that was killed while it deleted this
        ours = not atomic.is_artifact(path) or artifact.read(path).sha256 in hashes
        if ours and name not in listed(run):
            if path.is_dir() and not path.is_symlink():  # else it is none of ours
                shutil.rmtree(path)
            if path.parent != run and path.parent.exists() and not any(path.parent.iterdir()):
                path.parent.rmdir()
    except (ArtifactError, OSError):
        return False
    return True


def outputs(run: Path, names: Iterable[str]) -> list[str]:
    """Paths in the run of the files that were made from these of its artefacts: its pages, and samples.

    Samples are known by the names that `zprime sample` gives them. Files that are called otherwise are the user's.
    """
    leaving = {n for name in names if (n := _drawn_as(name))}
    known = leaving | {n for name in listed(run) if (n := _drawn_as(name))}
    folder = run / SAMPLES
    files = [] if folder.is_symlink() else atomic.inside(folder)
    samples = [f"{SAMPLES}/{f.name}" for f in files if _drawn_from(f.name, known) in leaving]
    return [file for file in (*PAGES, *samples) if (run / file).is_file()]


def _drawn_as(name: str) -> str:
    """How files of samples are called that were drawn from an artefact; empty where nothing is drawn from it."""
    first, _, rest = name.partition("/")
    return {"model": "prior", "generator": "generator", "latent": rest}.get(first, "")


def _drawn_from(file: str, names: Iterable[str]) -> str:
    """The one of these names that a file of samples is called by; of `a` and `a-1` it may be either: the longer one."""
    return max((n for n in names if re.fullmatch(re.escape(n) + DRAWN, file)), key=len, default="")


def _discard(run: Path, names: Iterable[str]) -> None:
    """Delete what was made from artefacts that leave."""
    for file in outputs(run, names):
        (run / file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        (run / SAMPLES).rmdir()


def _dropped(run: Path) -> Listed:
    return _part(artifact.read(run, RUN), "dropped")


def _write(run: Path, artifacts: Mapping[str, list[str]], dropped: Mapping[str, list[str]]) -> None:
    config = {"artifacts": dict(artifacts), "dropped": dict(dropped)}
    artifact.seal(run, Manifest(RUN, config), files={})


def _part(run: Artifact, name: str) -> Listed:
    check_settings(run.path, RUN, run.config)
    return {str(n): [str(h) for h in hashes] for n, hashes in run.config[name].items()}
