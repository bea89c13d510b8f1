"""Rows from Parquet and from folders of files: the same whatever the files are, and refused by name."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zprime.data import DataSettings, Source, load, parquet_files, read_source, weighed_by
from zprime.errors import ArrayError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, **options)
    return path


def lists(x: np.ndarray) -> Any:
    """Rows as a column of lists of one size, as deep as the array is."""
    values = pa.array(x.ravel())
    for size in reversed(x.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, int(size))
    return values


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=5),
    groups=st.integers(1, 50),
    kind=st.sampled_from(["float32", "float64", "int16", "uint8", "float16", "bool"]),
    whole=st.booleans(),
)
def test_rows_are_the_same_whatever_the_files_and_row_groups(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], groups: int, kind: str, whole: bool
) -> None:
    path = tmp_path_factory.mktemp("shards")
    x = RNG.integers(0, 2 if kind == "bool" else 9, (40, 3)).astype(kind)
    names, y = ["a", "b", "c"], RNG.integers(0, 3, 40)
    for i, (start, stop) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True)):
        part = slice(start, stop)
        columns = {"x": lists(x[part])} if whole else {name: x[part, j] for j, name in enumerate(names)}
        write(path / f"part-{i:02}.parquet", {**columns, "label": y[part]}, row_group_size=groups)
    source = read_source(str(path))
    assert (source.x.dtype, source.top) == (x.dtype, None)
    assert np.array_equal(source.x, x)
    assert source.y is not None
    assert np.array_equal(source.y, y)
    assert source.names == (() if whole else tuple(names))


def test_a_table_gives_the_rows_that_a_csv_gives(tmp_path: Path) -> None:
    """Also its labels, groups and weights."""
    x, y, w, g = RNG.normal(3, 2, (60, 2)), RNG.integers(0, 3, 60), RNG.integers(1, 5, 60), np.arange(60) // 2
    csv = tmp_path / "t.csv"
    lines = [f"{a!r},{b!r},{c},{d},s{e}" for (a, b), c, d, e in zip(x.tolist(), y, w, g, strict=True)]
    csv.write_text("\n".join(["a,b,label,w,who", *lines]))
    table = {"a": x[:, 0], "b": x[:, 1], "label": y, "w": w, "who": pa.array([f"s{e}" for e in g]).dictionary_encode()}
    file = write(tmp_path / "p" / "t.parquet", table)
    one, other, folder = (
        load(weighed_by(DataSettings(str(p), group="who"), "w"), seed=1) for p in (csv, file, file.parent)
    )
    for found in (other, folder):
        assert found.hash == one.hash
        assert found.names == ("a", "b")
        assert torch.equal(found.shift, one.shift)
        assert torch.equal(found.rows("train").x, one.rows("train").x)
        assert torch.equal(found.weights("w", "heldout"), one.weights("w", "heldout"))
        assert found.groups is not None
        assert one.groups is not None
        assert torch.equal(found.groups, one.groups)


def test_lists_of_any_sort_hold_rows_and_other_columns_are_none(tmp_path: Path) -> None:
    x = RNG.normal(size=(7, 2, 3)).astype(np.float32)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    for i, column in enumerate((lists(x), x.tolist(), tensors)):
        file = write(tmp_path / f"{i}.parquet", {"x": column, "id": [f"r{j}" for j in range(7)]})
        source = read_source(str(file))
        assert np.allclose(source.x, x[:, None])  # [n, h, w] are images of one channel, as in a .npy file
        assert (source.names, source.columns, source.y) == ((), {}, None)
        assert read_source(str(file), {"id"}).columns["id"].tolist() == [f"r{j}" for j in range(7)]
    pixels = RNG.integers(0, 255, (5, 4, 4, 3)).astype(np.uint8)
    source = read_source(str(write(tmp_path / "images.parquet", {"x": lists(pixels)})))
    assert (source.x.shape, source.top) == ((5, 3, 4, 4), 255.0)
    assert np.array_equal(source.x, pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a": [1.0, 2.0], "name": ["u", "v"]}, r"t.parquet: expected numbers in column name, got string; leave"),
        ({"a": [1.0, None]}, r"t.parquet, column a: expected a value in every row, got none in row 1"),
        ({"a": [1.0, np.inf]}, r"t.parquet, column a: expected a finite number in every row, got inf in row 1"),
        ({"x": [[1.0, 2.0], [3.0]]}, r"column x: expected lists of one length, 2 as in row 0, got 1 in row 1"),
        ({"x": [[1.0, 2.0], [3.0, np.nan]]}, r"column x: expected a finite number in every row, got nan in row 1"),
        ({"x": [[1.0, 2.0], None]}, r"column x: expected a value in every row, got none in row 1"),
        ({"x": [[1.0, 2.0], [3.0, None]]}, r"column x: expected a value in every row, got none in row 1"),
        (
            {"x": pa.array([[], []], pa.list_(pa.float32()))},
            "expected numbers in every list, got an empty one in row 0",
        ),
        ({"x": [["u"], ["v"]]}, r"expected numbers in column x, got list<"),
        ({"a": [1.0], "label": [[1]]}, r"expected numbers or text in column label, got list<"),
        ({"label": [1.0]}, "expected columns of numbers, got label"),
        ({"a": pa.array([], pa.float64())}, "expected rows, got none"),
        ({}, "expected columns of numbers, got none"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_by_name(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    file = write(tmp_path / "t.parquet", columns)
    with pytest.raises(ArrayError, match=says):
        read_source(str(file))


def test_rows_are_numbered_by_file_whatever_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "MOST", 2)
    write(tmp_path / "1.parquet", {"a": [0.0] * 4})
    write(tmp_path / "2.parquet", {"a": [0.0] * 5 + [np.nan]})
    with pytest.raises(
        ArrayError, match=r"2.parquet, column a: expected a finite number in every row, got nan in row 5"
    ):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"a": [1.0]}, r"2.parquet: expected the columns of 1.parquet, but it has no column b; write all files with"),
        ({"a": [1.0], "b": [1.0], "c": [1.0]}, r"2.parquet: .* but it also has a column c"),
        ({"a": [1.0], "b": [1]}, r"2.parquet: expected double in column b, as 1.parquet has, got int64"),
        ({"a": [1.0], "b": [None]}, r"2.parquet: expected double in column b, as 1.parquet has, got null"),
    ],
)
def test_files_with_other_columns_are_refused(tmp_path: Path, second: dict[str, Any], says: str) -> None:
    write(tmp_path / "1.parquet", {"a": [1.0, 2.0], "b": [3.0, 4.0]})
    write(tmp_path / "2.parquet", second)
    with pytest.raises(ArrayError, match=says):
        read_source(str(tmp_path))


def test_rows_of_another_length_in_a_later_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"x": [[1.0, 2.0]]})
    write(tmp_path / "2.parquet", {"x": [[1.0, 2.0, 3.0]]})
    with pytest.raises(
        ArrayError, match=r"2.parquet, column x: expected 2 numbers in each row, as the first row has, g"
    ):
        read_source(str(tmp_path))


@pytest.mark.parametrize("at", [4, -8, 0.5])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, at: float) -> None:
    write(tmp_path / "1.parquet", {"a": RNG.normal(size=500)})
    content = bytearray(write(tmp_path / "2.parquet", {"a": RNG.normal(size=500)}).read_bytes())
    where = int(len(content) * at) if isinstance(at, float) else at
    if at == 0.5:
        content = content[:where]
    else:
        content[where : where + 4 or None] = b"\xff" * 4
    (tmp_path / "2.parquet").write_bytes(content)
    with pytest.raises(ArrayError, match=r"2.parquet: not a readable .parquet file"):
        read_source(str(tmp_path))


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.parquet", {"a": [1.0]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"expected pyarrow to be installed, .*; run: pip install 'zprime\[parquet\]'"):
        read_source(str(file))


def test_a_folder_of_arrays_is_one_array(tmp_path: Path) -> None:
    x = RNG.normal(size=(9, 2, 3))
    for i, part in enumerate((x[:4], x[4:4], x[4:])):
        np.save(tmp_path / f"{i}.npy", part)
    (tmp_path / ".3.npy").write_bytes(b"no array")  # hidden
    source = read_source(str(tmp_path))
    assert isinstance(source, Source)
    assert np.array_equal(source.x, x[:, None])
    np.save(tmp_path / "4.npy", x.astype(np.float32))
    with pytest.raises(ArrayError, match=r"4.npy: expected float64 of shape \[n, 2, 3\], as 0.npy has, got float32 of"):
        read_source(str(tmp_path))
    (tmp_path / "4.npy").write_bytes((tmp_path / "0.npy").read_bytes()[:-1])
    with pytest.raises(ArrayError, match=r"4.npy: its header declares"):
        read_source(str(tmp_path))


def test_a_folder_of_images_with_an_array_beside_its_folders_stays_one_of_images(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "cat").mkdir()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "cat" / "1.png")
    np.save(tmp_path / "labels.npy", np.zeros(1))
    assert read_source(str(tmp_path)).x.shape == (1, 1, 3, 3)


def test_a_folder_of_nothing_says_what_could_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected PNG or JPEG images, IDX files, a Zarr array, or .parquet, .npy or .tar f"
    ):
        read_source(str(tmp_path))
