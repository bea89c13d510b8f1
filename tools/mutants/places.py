"""Which mutants there are: cosmic-ray's operators at every place of the measured files, one change a place.

Left out are changes that no run can show: annotations, type aliases, first arguments of `cast`, what stands under
`if TYPE_CHECKING`, removal of `final`, `override` and `overload`, `strict=` of `zip` (lengths agree by construction).
A change that does not compile is left out too, and so are operators of another family (a shift of two floats raises
TypeError at once and would flatter the score) and `==` for `is`.
"""

import ast
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

FILES = (
    "statistics/**/*.py",
    "measure/**/*.py",
    "latent/**/*.py",
    "components.py",
    "posteriors*.py",
    "artifact*.py",
    "atomic.py",
    "running.py",
    "run_folder.py",
    "stages.py",
    "*_stage.py",
    "reporting/numbers.py",
    "statistics/format.py",
    "reporting/gains.py",
)
FAMILIES = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
    {"BitOr", "BitAnd", "BitXor"},
    {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"},
    {"Is", "IsNot"},
    {"USub", "UAdd", "Delete"},
    {"Not", "Invert", "Delete"},
)
UNSEEN_DECORATORS = {"final", "override", "overload"}
Span = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Mutant:
    """One change of one file. `first` to `last` are the lines of which one must run for a test to notice it."""

    key: str
    path: str
    where: str
    before: str
    after: str
    code: str
    line: int
    first: int
    last: int
    name: str
    """What a statement that runs at import only defines (constant, field, class): tests run users of the name."""
    imported: bool

    def __str__(self) -> str:
        return f"{self.path.removeprefix('src/zprime/')}, {self.where}: `{self.before}` -> `{self.after}`"


def sample(root: Path, count: int, seed: int) -> tuple[list[Mutant], int]:
    """The first `count` mutants in the order of a hash of seed, file, definition and line; and how many there are.

    The hash does not depend on other lines, so that a change elsewhere leaves the sample as it is.
    """
    files = sorted({p for pattern in FILES for p in (root / "src" / "zprime").glob(pattern)})
    places = sorted(
        (place for f in files for place in _places(f, f.relative_to(root).as_posix(), seed)), key=lambda p: p[0]
    )
    chosen: list[Mutant] = []
    for key, path, changes in places:
        if len(chosen) == count:
            break
        mutant = _mutant(key, root, path, changes)
        chosen += [mutant] if mutant else []
    return chosen, len(places)


@dataclass(frozen=True, order=True)
class _Change:
    rank: str
    operator: str
    occurrence: int
    start: tuple[int, int]


def _places(file: Path, path: str, seed: int) -> Iterator[tuple[str, str, list[_Change]]]:
    """(key, path, changes in the order of their hashes) of every place."""
    source = file.read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    nodes, unseen = list(ast_nodes(get_ast(source))), list(_unseen(tree, lines))
    where = functools.cache(lambda line: _where(tree, line))
    found: dict[Span, list[tuple[str, int]]] = {}
    for name in sorted(cosmic_ray.plugins.operator_names()):
        make = cosmic_ray.plugins.get_operator(name)
        if make.arguments() or not _same_family(name):
            continue
        operator = make()
        spans = (span for node in nodes for span in operator.mutation_positions(node))
        for occurrence, span in enumerate(spans):
            if not any(a <= span[0] and span[1] <= b for a, b in unseen):
                found.setdefault(span, []).append((name, occurrence))
    seen: Counter[str] = Counter()
    for (start, end), changes in sorted(found.items()):
        text = f"{seed} {path} {where(start[0])} {lines[start[0] - 1].strip()} {end[1] - start[1]}"
        seen[text] += 1
        text = f"{text} {seen[text]}"
        ranked = sorted(_Change(_hash(f"{text} {n} {i}"), n, o, start) for i, (n, o) in enumerate(changes))
        yield _hash(text), path, ranked


def _mutant(key: str, root: Path, path: str, changes: list[_Change]) -> Mutant | None:
    """The first change that compiles and changes something."""
    source = (root / path).read_text()
    tree = ast.parse(source)
    for change in changes:
        code = mutate_code(source, cosmic_ray.plugins.get_operator(change.operator)(), change.occurrence)
        try:
            if code is None or ast.dump(ast.parse(code)) == ast.dump(tree):
                continue
        except SyntaxError:
            continue
        line = change.start[0]
        old, new = source.splitlines(), code.splitlines()
        after = new[line - 1].strip() if len(old) == len(new) else "(removed)"
        first, last, name, imported = _run_by(tree, line)
        where = _where(tree, line)
        return Mutant(key[:8], path, where, old[line - 1].strip(), after, code, line, first, last, name, imported)
    return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same_family(operator: str) -> bool:
    """Whether a replacement stays among operators that take the same operands."""
    parts = operator.split("_")
    return len(parts) < 3 or any({parts[1], parts[2]} <= family for family in FAMILIES)


def _span(node: ast.AST, lines: list[str]) -> Span:
    """Start and end of a node with columns in characters, as cosmic-ray counts them (Python counts bytes)."""

    def at(line: int, column: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _unseen(tree: ast.AST, lines: list[str]) -> Iterator[Span]:
    """Spans in which no change can be seen at run time."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                parts.append(annotation)
            case ast.FunctionDef() | ast.ClassDef():
                parts.append(getattr(node, "returns", None))
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Name) and decorator.id in UNSEEN_DECORATORS:
                        (line, column), end = _span(decorator, lines)
                        yield (line, column - 1), (end[0] + 1, 0)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                parts += node.body
            case ast.Call(func=ast.Name(id="cast")):
                parts.append(node.args[0])
            case ast.Call(func=ast.Name(id="zip")):
                parts += [k for k in node.keywords if k.arg == "strict"]
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.BinOp(op=ast.BitOr())) if name[0].isupper():
                parts.append(node.value)
        yield from (_span(part, lines) for part in parts if part is not None)


def _enclosing(tree: ast.AST, line: int) -> list[ast.AST]:
    """Nodes around a line, outermost first; a decorator belongs to its function."""
    around: list[ast.AST] = []
    for node in ast.walk(tree):
        first = min([getattr(node, "lineno", 0), *(d.lineno for d in getattr(node, "decorator_list", []))])
        if isinstance(node, ast.stmt) and first <= line <= (node.end_lineno or 0):
            around.append(node)
    return around  # ast.walk is breadth first


def _where(tree: ast.AST, line: int) -> str:
    names = [n.name for n in _enclosing(tree, line) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return ".".join(names) or "module"


def _run_by(tree: ast.AST, line: int) -> tuple[int, int, str, bool]:
    """Lines that a test must run; the name that a statement defines, and True, where it runs at import only."""
    around = _enclosing(tree, line)
    functions = [n for n in around if isinstance(n, ast.FunctionDef)]
    inner = around[-1]
    if functions and inner is not functions[0] and functions[0].body[0].lineno <= line:
        body = getattr(inner, "body", None)
        last = inner.end_lineno if not body else max(body[0].lineno - 1, inner.lineno)
        return inner.lineno, last or line, "", False
    if functions:  # its defaults and decorators
        return functions[0].body[0].lineno, functions[0].end_lineno or line, "", True
    name = ""
    match inner:
        case (
            ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) | ast.ClassDef(name=name)
        ):
            pass
    whole = around[0] if isinstance(inner, ast.ClassDef) else tree
    return getattr(whole, "lineno", 1), getattr(whole, "end_lineno", 10**6), name, True
