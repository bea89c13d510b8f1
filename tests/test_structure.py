"""The structure of the package: small files, few parameters, no import circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import zprime

PACKAGE = Path(zprime.__file__).parent
LINES = 350
PARAMETERS = 6
FACADES = {
    "auditing.py audit",
    "bring/ctgan_tvae.py tvae",
    "bring/arrays.py arrays",
    "bring/codes.py codes",
    "bring/draws.py draws",
    "bring/diffusers_vae.py diffusers",
    "bring/modules.py modules",
    "encoding.py encode",
    "fitting.py fit",
    "refining.py refine",
    "running.py run",
    "sampling.py export",
    "sampling.py sample",
    "training.py train",
    "verifying.py verify",
}
"""Public functions that take everything which their users may want to say; command-line verbs are the others."""


def test_no_file_is_too_long_to_read_at_once() -> None:
    files = [p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".hpp", ".cpp")]
    assert len(files) > 150
    long = {p.name: n for p in files if (n := len(p.read_text().splitlines())) > LINES}
    assert not long


def test_only_facades_and_verbs_take_many_parameters() -> None:
    many = set()
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([n for n in names if n not in ("self", "cls")]) > PARAMETERS:
                    many.add(f"{place} {node.name}")
    assert {m for m in many if not m.startswith("cli/")} == FACADES


def circle(imports: dict[str, set[str]]) -> object:
    """A circle among imports, or None."""
    try:
        TopologicalSorter(imports).prepare()
    except ValueError as error:
        return error.args[1]
    return None


def test_imports_go_round_in_no_circle() -> None:
    graph = grimp.build_graph("zprime", cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    assert len(imports) > 150
    assert circle(imports) is None


@pytest.mark.parametrize(("imports", "found"), [({"a": {"b"}, "b": {"a"}}, True), ({"a": {"b"}, "b": set()}, False)])
def test_a_circle_would_be_seen(imports: dict[str, set[str]], found: bool) -> None:  # noqa: FBT001
    assert (circle(imports) is not None) is found
