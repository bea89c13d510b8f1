"""Count the places that each kind, measure, format, section and adapter touches; write docs/changing.md's table.

python tools/places.py. A place is a file that has to name the thing, or to be written for it: found by the imports and
the text constants of the code (docstrings do not count), and by the names of pages and tests.
"""

import ast
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "changing.md"
SRC = ROOT / "src" / "zprime"
ROOMS = ("latents", "likelihood", "samples")
INNER = {
    "__init__",
    "side",
    "study",
    "sampler",
    "contender",
    "proposal",
    "simulation",
    "density_error",
    "scores",
    "pictures",
    "features",
}
"""Modules of `measure/` that measures are made with; none of them is a measure."""


@dataclass(frozen=True)
class Thing:
    """Something that can be added: what it is called, and the files that it touches."""

    name: str
    places: tuple[str, ...]


def short(path: Path) -> str:
    """A path from the root of the repository."""
    return str(path.relative_to(ROOT))


def modules() -> dict[Path, ast.Module]:
    """All files of the library."""
    return {p: ast.parse(p.read_text()) for p in sorted(SRC.rglob("*.py"))}


def dotted(path: Path) -> str:
    """The module that a file is."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file imports by `from`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def constants(tree: ast.AST) -> set[str]:
    """Its texts, without docstrings."""
    told = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    return {
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in told
    }


def users(code: dict[Path, ast.Module], own: Path, names: set[str]) -> list[str]:
    """Files that import the module, or one of these names from it."""
    module = dotted(own)
    package, _, last = module.rpartition(".")
    wanted = {(module, n) for n in names} | {(package, last)}
    return [short(p) for p, tree in code.items() if p != own and wanted & set(imported(tree))]


def classes(tree: ast.Module) -> dict[str, str]:
    """Public classes -> the kind that they say they are, or nothing."""
    out: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            out[node.name] = kind_of(node, out)
    return out


def kind_of(node: ast.ClassDef, before: dict[str, str]) -> str:
    """The value of a class attribute `kind`: a text, or the kind of a class before it."""
    for a in node.body:
        if isinstance(a, ast.AnnAssign) and getattr(a.target, "id", "") == "kind":
            if isinstance(a.value, ast.Constant):
                return str(a.value.value)
            if isinstance(a.value, ast.Attribute) and isinstance(a.value.value, ast.Name):
                return before.get(a.value.value.id, "")
    return ""


def functions(tree: ast.Module) -> set[str]:
    """Public functions."""
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}


def made_by(tree: ast.Module, name: str) -> list[str]:
    """Constants of a module that are made by calling a class of this name."""
    calls = (n for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call))
    mine = (n for n in calls if getattr(n.value, "func", None) and getattr(n.value.func, "id", "") == name)  # type: ignore[attr-defined]
    return [t.id for n in mine for t in n.targets if isinstance(t, ast.Name)]


def kinds(code: dict[Path, ast.Module]) -> list[Thing]:
    """Kinds of latent distribution: those with settings."""
    out = []
    for own, tree in code.items():
        said = classes(tree)
        settings = next((k for k in said if k.endswith("Settings") and said[k]), None)
        if own.parent != SRC / "latent" or settings is None:
            continue
        kind = said[settings]
        names = {c for c, k in said.items() if k == kind}
        places = [short(own), *users(code, own, names)]
        places += [short(p) for p, t in code.items() if kind in constants(t)]
        places += [short(ROOT / "tests" / "zoo.py"), short(ROOT / "docs" / "kinds" / f"{kind}.md")]
        out.append(Thing(kind, tuple(dict.fromkeys(places))))
    return out


def results(code: dict[Path, ast.Module], tree: ast.Module) -> list[str]:
    """Files of `results/` with the classes that the public functions of a measure return."""
    returned = {
        n.id
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_") and f.returns
        for n in ast.walk(f.returns)
        if isinstance(n, ast.Name)
    }
    return [short(p) for p, t in code.items() if p.parent.name == "results" and returned & set(classes(t))]


def measures(code: dict[Path, ast.Module]) -> list[Thing]:
    """Measures of the three rooms."""
    out = []
    for own, tree in code.items():
        if own.parent.parent == SRC / "measure" and own.parent.name in ROOMS and own.stem not in INNER:
            callers = [
                p
                for p in users(code, own, functions(tree) | set(classes(tree)))
                if "/measure/" in p or p.endswith("auditing.py")
            ]
            out.append(Thing(own.stem, tuple(dict.fromkeys([short(own), *results(code, tree), *callers]))))
    return out


def formats(code: dict[Path, ast.Module]) -> list[Thing]:
    """Data formats: constants that are a `Reader`."""
    return [
        Thing(name, (short(own), *users(code, own, {name})))
        for own, tree in code.items()
        for name in made_by(tree, "Reader")
    ]


def sections(code: dict[Path, ast.Module]) -> list[Thing]:
    """Sections of the report: constants that are a `Section`, and those that are written in the registry itself."""
    registry = SRC / "reporting" / "sections.py"
    found = [(own, n) for own, tree in code.items() for n in made_by(tree, "Section")]
    own_files = [Thing(f"{own.stem}.{n}", (short(own), short(registry))) for own, n in found if own != registry]
    calls = [n for n in ast.walk(code[registry]) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Section"]
    return own_files + [Thing(str(ast.literal_eval(c.args[0])), (short(registry),)) for c in calls]


def adapters(code: dict[Path, ast.Module]) -> list[Thing]:
    """Adapters of other libraries: those with a page."""
    out = []
    for page in sorted((ROOT / "docs" / "bring").glob("*.md")):
        name = page.stem
        own = next(p for p in code if p.parent.name == "bring" and name in functions(code[p]))
        files = [own, page, ROOT / "tests" / f"test_bring_{name}.py", ROOT / "examples" / f"bring_{name}.py"]
        lists = [SRC / "bring" / "__init__.py", ROOT / "docs" / "bring.md", ROOT / "docs" / "api.md"]
        lists += [ROOT / "pyproject.toml", ROOT / "Makefile"]
        out.append(Thing(name, tuple(short(p) for p in (*files, *lists) if name in p.read_text())))
    return out


def table() -> str:
    """Fewest, median and most places of each sort of thing."""
    code = modules()
    sorts = {"kind": kinds, "measure": measures, "data format": formats, "section": sections, "adapter": adapters}
    lines = ["| what | there are | places: fewest | median | most |", "| --- | --- | --- | --- | --- |"]
    for what, find in sorts.items():
        found = sorted(find(code), key=lambda t: len(t.places))
        counts = [len(t.places) for t in found]
        if found:
            ends = [f"{len(t.places)} ({t.name})" for t in (found[0], found[-1])]
            lines.append(f"| {what} | {len(found)} | {ends[0]} | {statistics.median_low(counts)} | {ends[1]} |")
    return "\n".join(lines)


def text() -> str:
    """The page with the table."""
    place = re.compile(r"(<!-- places -->\n).*?(<!-- /places -->)", re.S)
    return place.sub(lambda m: f"{m[1]}{table()}\n{m[2]}", PAGE.read_text())


if __name__ == "__main__":
    for made in (kinds, measures, formats, sections, adapters):
        for thing in made(modules()):
            print(f"{made.__name__}: {thing.name}: {len(thing.places)}: {', '.join(thing.places)}")
    PAGE.write_text(text())
