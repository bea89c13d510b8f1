"""Dataclasses to JSON and back."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zprime.serialise import from_jsonable, outline, to_jsonable


@dataclass(frozen=True)
class Leaf:
    value: float
    stderr: float | None
    name: str = ""


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    maybe: Leaf | None
    table: dict[str, dict[str, Leaf]]
    curve: list[float]
    widths: tuple[int, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)


leaves = st.builds(Leaf, st.floats(allow_nan=False), st.none() | st.floats(allow_nan=False), st.text())
trees = st.builds(
    Tree,
    leaves,
    st.none() | leaves,
    st.dictionaries(st.text(), st.dictionaries(st.text(), leaves)),
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.integers()).map(tuple),
    st.dictionaries(st.text(), st.integers() | st.text()),
)


@given(trees)
def test_what_is_written_is_read_back(tree: Tree) -> None:
    text = json.dumps(to_jsonable(tree), allow_nan=False)
    assert from_jsonable(Tree, json.loads(text)) == tree


def test_nan_comes_back_as_nan() -> None:
    again = from_jsonable(Leaf, json.loads(json.dumps(to_jsonable(Leaf(math.nan, None)), allow_nan=False)))
    assert math.isnan(again.value)
    assert again.stderr is None


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ({"value": 1.0}, TypeError),
        ({"value": "x", "stderr": None}, TypeError),
        ({"new": 1}, TypeError),
        ("a word, where another version has fields", TypeError),
        (["value", "stderr"], TypeError),
    ],
)
def test_what_does_not_fit_is_refused(raw: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        from_jsonable(Leaf, raw)


@dataclass(frozen=True)
class Named:
    by_name: dict[str, float]


@pytest.mark.parametrize("raw", ["word", ["a", 1.0], None, 3])
def test_what_is_no_dictionary_is_refused(raw: Any) -> None:
    with pytest.raises(TypeError, match="expected names and values"):
        from_jsonable(Named, {"by_name": raw})


def test_an_outline_changes_with_any_field_inside() -> None:
    @dataclass
    class Small:
        leaf: Leaf

    @dataclass
    class Inner:
        trees: list[dict[str, Small | None]]

    found = outline(Inner)
    assert found == {"trees": [[[], [{"leaf": {"name": [], "stderr": [[], []], "value": []}}, []]]]}
    Small.__annotations__["more"] = int
    assert outline(Inner) != found
