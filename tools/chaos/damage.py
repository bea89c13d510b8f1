"""Files of a finished run, damaged: flipped bytes, cut and longer files, swapped and missing ones. Each is refused."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from failures import Tally

from zprime import artifact, loading, vae
from zprime.errors import ArtifactError
from zprime.fitting import load_fit
from zprime.posteriors import ShardedPosteriors
from zprime.results.audit import load as load_audit
from zprime.run_folder import RunFolder

WHOLE = 4096
"""Bytes of a file up to which every one is flipped, and how many are in a larger one; manifests have no limit."""
Read = Callable[[], object]


def readers(run: Path, name: str) -> list[Read]:
    """What reads the artefact called `name` of a run, as the verbs do."""
    if name == ".":
        return [lambda: RunFolder.open(run).audit, lambda: load_audit(run), lambda: loading.load(run / "generator")]
    first = name.split("/")[0]
    return [
        {
            "data": lambda: RunFolder.open(run).data.tensors(),
            "model": lambda: vae.load(run / name),
            "posteriors": lambda: ShardedPosteriors(run / name).gather(),
            "latent": lambda: load_fit(run / name),
            "audit": lambda: load_audit(run),
            "generator": lambda: loading.load(run / name),
        }[first]
    ]


def artefacts(run: Path) -> list[str]:
    """Names of the artefacts of a run; the run itself is `.`."""
    return sorted(p.parent.relative_to(run).as_posix() for p in run.rglob(artifact.MANIFEST))


def files(run: Path) -> list[tuple[str, Path]]:
    """Artefact and file of each file that one has."""
    return [
        (name, p)
        for name in artefacts(run)
        for p in sorted((run / name).iterdir())
        if p.is_file() and p.suffix != ".html"
    ]


def check(tally: Tally, what: str, where: str, reads: list[Read], *, harmless: bool) -> None:
    """Read, and see that it is refused, or harmless where it has to be."""
    tally.injected[what] += 1
    before = len(tally.faults)
    for read in reads:
        try:
            read()
        except ArtifactError:
            if harmless:
                tally.faults.append(f"{where}: refused, and it is harmless")
        except Exception as error:
            tally.faults.append(f"{where}: {type(error).__name__}: {str(error)[:200]}")
        else:
            if not harmless:
                tally.faults.append(f"{where}: passed")
    if len(tally.faults) == before:
        tally.ended[f"{what}: {'harmless' if harmless else 'refused'}"] += 1


def flips(run: Path, seed: int, share: tuple[int, int], *, few: int = 0) -> Tally:
    """Flip bytes, one at a time, each in a way drawn by chance: all of small files, some of large ones."""
    tally, rng = Tally(), random.Random(seed)
    for name, file in files(run):
        whole, reads = file.read_bytes(), readers(run, name)
        size = len(whole)
        every = size <= WHOLE or file.name == artifact.MANIFEST
        places = range(size) if every else sorted(rng.sample(range(size), WHOLE))
        if few:
            places = sorted(rng.sample(range(size), min(few, size)))
        for i, at in enumerate(places):
            mask = rng.randrange(1, 256)
            if i % share[1] != share[0]:
                continue
            file.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            kind = "byte flipped in a manifest" if file.name == artifact.MANIFEST else "byte flipped in another file"
            beside = file.name == artifact.MEASURED
            kind = "byte flipped in measured.json" if beside else kind
            check(tally, kind, f"{file.relative_to(run)}, byte {at} ^ {mask}", reads, harmless=beside)
        file.write_bytes(whole)
    return tally


def cuts(run: Path, seed: int, *, each: int) -> Tally:
    """Cut files at lengths drawn by chance, and make them longer; take them away."""
    tally, rng = Tally(), random.Random(seed)
    for name, file in files(run):
        whole, reads, beside = file.read_bytes(), readers(run, name), file.name == artifact.MEASURED
        lengths = {0, len(whole) - 1, *rng.sample(range(len(whole)), min(each, len(whole)))}
        for n in sorted(lengths):
            file.write_bytes(whole[:n])
            check(tally, "file cut short", f"{file.relative_to(run)} cut to {n}", reads, harmless=beside)
        for more in (b"\x00", b"\n", whole):
            file.write_bytes(whole + more)
            check(tally, "file made longer", f"{file.relative_to(run)} longer", reads, harmless=beside)
        file.unlink()
        # without its manifest a folder is no run: what lies in it is then read by itself
        alone = [reads[0]] if name == "." else reads
        check(tally, "file missing", f"{file.relative_to(run)} missing", alone, harmless=beside)
        file.write_bytes(whole)
    return tally


def swaps(run: Path, other: Path) -> Tally:
    """Put files in the place of others of the same name, of this run and of another; and whole artefacts of another."""
    tally = Tally()
    for name, file in files(run):
        whole, reads = file.read_bytes(), readers(run, name)
        sources = [p for n, p in files(run) if p.name == file.name and p != file]
        sources += [p for _, p in files(other) if p.name == file.name]
        beside = file.name == artifact.MEASURED
        for source in sources:
            content = source.read_bytes()
            if content == whole:
                continue
            file.write_bytes(content)
            check(tally, "file of another artefact", f"{file} from {source}", reads, harmless=beside)
        file.write_bytes(whole)
    for name in artefacts(run):
        if name == ".":
            continue
        aside = run.parent / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(run / name, aside)
        for source in artefacts(other):
            if source == "." or artifact.read(other / source).sha256 == artifact.read(aside).sha256:
                continue
            shutil.copytree(other / source, run / name)
            check(
                tally,
                "artefact of another run",
                f"{run / name} from {other / source}",
                readers(run, name),
                harmless=False,
            )
            if name not in ("audit", "generator"):  # what stands on it
                what = f"audit over {run / name} from {other / source}"
                check(tally, "artefact of another run", what, [lambda: load_audit(run)], harmless=False)
            shutil.rmtree(run / name)
        shutil.move(aside, run / name)
    return tally
