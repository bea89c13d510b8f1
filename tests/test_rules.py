"""Rules that every class of the package keeps. `make mutants` runs this file for each change of what runs at import."""

import ast
from pathlib import Path

import zprime

PACKAGE = Path(zprime.__file__).parent
MUTABLE = {
    "cli/console.py Options",
    "data/tar_files.py _Seen",
    "measure/likelihood/gains.py RowGains",
    "measure/likelihood/row_draws.py Sampled",
    "peers.py Group",
    "training.py Trained",
    "checkpoints.py State",
}


def dataclasses() -> dict[str, dict[str, object]]:
    """Settings of the decorator, of every dataclass of the package."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else []:
                call = decorator if isinstance(decorator, ast.Call) else None
                if getattr(call.func if call else decorator, "id", "") == "dataclass":
                    settings = {k.arg or "": ast.literal_eval(k.value) for k in (call.keywords if call else [])}
                    found[f"{file.relative_to(PACKAGE).as_posix()} {node.name}"] = settings
    return found


def test_dataclasses_are_frozen() -> None:
    """A result that changes after it was checked or hashed would make both worthless."""
    found = dataclasses()
    assert len(found) > 100
    assert {name for name, settings in found.items() if settings.get("frozen") is not True} <= MUTABLE


def test_no_parameter_is_by_position_only() -> None:
    """Callers name what they pass; `*` in a signature says from where on they must."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert not node.args.posonlyargs, f"{file.relative_to(PACKAGE).as_posix()}:{node.lineno} {node.name}"
