"""Images, tar files, Zarr and tables that do not fit in memory: the same rows as in memory, and refused by name."""

import io
import os
import subprocess
import sys
import tarfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zprime import memory
from zprime.data import DataSettings, Source, blocks, load, read_source
from zprime.data.blocks import gathered, stacked
from zprime.data.csv_file import read_csv
from zprime.errors import ArrayError, UsageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 4, 5)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large."""
    for name in ("LARGE", "BLOCK", "AT_ONCE"):
        monkeypatch.setattr(blocks, name, 50)


def encoded(content: Any, ending: str) -> bytes:
    """What a file of this ending holds."""
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    if ending == "npy":
        np.save(file, content)
    else:
        Image.fromarray(content).save(file, "jpeg" if ending.startswith("jp") else ending)
    return file.getvalue()


def tar(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            data = encoded(content, name.rpartition(".")[2].lower())
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def same(a: Source, b: Source) -> None:
    """The same rows, labels and columns, wherever they lie."""
    assert (a.x.dtype, a.top, a.names, a.classes, a.name) == (b.x.dtype, b.top, b.names, b.classes, b.name)
    assert np.array_equal(a.x, b.x)
    assert (a.y is None) == (b.y is None)
    assert a.y is None or (b.y is not None and a.y.dtype == b.y.dtype and np.array_equal(a.y, b.y))
    assert {k: v.tolist() for k, v in a.columns.items()} == {k: v.tolist() for k, v in b.columns.items()}


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch, aside: tuple[str, ...] = ()) -> Source:
    """Rows as they are read in memory, after they were read into a file too."""
    found = read_source(str(path), aside)
    assert not isinstance(found.x, np.memmap)
    with monkeypatch.context() as changed:
        for name in ("LARGE", "BLOCK", "AT_ONCE"):
            changed.setattr(blocks, name, 50)
        large = read_source(str(path), aside)
    assert isinstance(large.x, np.memmap)
    same(found, large)
    return found


# Rows of which nobody knows how many there are


@pytest.mark.parametrize("sizes", [[3], [1, 20, 1], [30, 30], [0, 7, 0], [0, 50]])
def test_parts_are_gathered_in_memory_or_in_a_file(sizes: list[int], small: None) -> None:
    parts = [RNG.normal(size=(n, 2)) for n in sizes]
    found = gathered(iter(parts))
    assert found is not None
    assert np.array_equal(found, np.concatenate(parts))
    assert isinstance(found, np.memmap) == (2 * sum(sizes) > blocks.LARGE)
    assert gathered([]) is None


def test_parts_that_are_written_are_kept_no_longer(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most: list[int] = []

    def parts() -> Iterator[np.ndarray]:
        for i in range(12):
            if i > 6:  # 60 numbers: what came before is in the file
                most.append(sum(part() is not None for part in alive))
            made = np.full((5, 2), float(i))
            alive.append(weakref.ref(made))
            yield made
            del made

    found = gathered(parts())
    assert found is not None
    assert found[:, 0].tolist() == [float(i) for i in range(12) for _ in range(5)]
    assert max(most) <= 1  # the one that was written last


def test_a_disk_that_is_full_is_said(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(blocks, "_place", lambda: tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"nowhere: cannot write the rows to a temporary file \(No such file"):
        gathered(iter([np.zeros((60, 1))]))


def test_rows_are_stacked_block_by_block(small: None) -> None:
    assert [len(b) for b in stacked(iter(np.zeros((12, 10))), (10,))] == [5, 5, 2]


# Folders of images


def test_images_are_decoded_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, image in enumerate(GREY):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    Image.fromarray(COLOURS[0]).save(tmp_path / "b" / "z.png")
    found = both_ways(tmp_path, monkeypatch)
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7]
    assert found.classes == ("a", "b")
    assert found.y is not None
    assert found.y.tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(found.x[:9], np.repeat(GREY[order][:, None], 3, 1))
    assert np.array_equal(found.x[9], COLOURS[0].transpose(2, 0, 1))
    data = load(DataSettings(str(tmp_path)))
    assert float(data.rows("train").x.max()) <= 1


def test_an_image_is_called_by_its_name_wherever_it_is_damaged(tmp_path: Path, small: None) -> None:
    for i, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "7.png").read_bytes()
    (tmp_path / "7.png").write_bytes(whole[:60])  # its header is whole
    with pytest.raises(ArrayError, match=r"7.png: not a readable image"):
        read_source(str(tmp_path))


@pytest.mark.parametrize("kind", ["eps", "bmp", "gif"])
def test_another_format_is_not_opened_whatever_it_is_called(kind: str, tmp_path: Path) -> None:
    """For EPS Pillow would start Ghostscript."""
    Image.fromarray(GREY[0]).save(tmp_path / "0.png", kind)
    with pytest.raises(ArrayError, match=r"0.png: not a readable image in PNG or JPEG \(cannot identify"):
        read_source(str(tmp_path))
    with pytest.raises(ArrayError, match=r"t.tar, 0.png: not a readable image in PNG or JPEG \(cannot identify"):
        read_source(str(tar(tmp_path / "t.tar", {"0.png": (tmp_path / "0.png").read_bytes()})))


# Tar files


@pytest.mark.parametrize("ending", ["png", "PNG", "npy"])
@pytest.mark.parametrize("images", [GREY, COLOURS])
def test_a_tar_file_holds_images_or_arrays_with_their_labels(
    ending: str, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    for start in (0, 5):  # labels before or behind their rows
        files: dict[str, Any] = {"._0.png": b"no image", "__MACOSX/0.png": b"no image"}
        for i in range(start, min(start + 5, 9)):
            pair = [(f"d/{i}.{ending}", images[i]), (f"d/{i}.cls", str(i % 3).encode())]
            files |= dict(pair if i % 2 else pair[::-1])
        tar(tmp_path / "t" / f"{start}.tar", files)
    found = both_ways(tmp_path / "t", monkeypatch)
    assert np.array_equal(found.x, images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))
    assert found.top == 255.0
    assert found.y is not None
    assert found.y.tolist() == [i % 3 for i in range(9)]
    one = read_source(str(tmp_path / "t" / "5.tar"))
    assert (len(one.x), one.name) == (4, "5")


def test_rows_of_numbers_and_labels_of_text_in_a_tar_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = RNG.normal(size=(6, 3))
    files = {f"{i}.{e}": c for i in range(6) for e, c in (("npy", x[i]), ("cls", b" cat\n"), ("json", b"{}"))}
    found = read_source(str(tar(tmp_path / "t.tar", files)))
    assert np.array_equal(found.x, x)
    assert (found.top, None if found.y is None else found.y.tolist()) == (None, ["cat"] * 6)
    assert "t.tar: left out files that are no images, arrays or labels (6 .json)" in caplog.text


NPY = encoded(np.zeros(3), "npy")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, r"t.tar: expected images \(PNG or JPEG\) or arrays \(.npy\), got none"),
        ({"a.txt": b""}, r"t.tar: expected images .* got none"),
        ({"a.png": GREY[0], "b.png": GREY[1].T}, r"t.tar, b.png: expected images of one size, 5 x 4 as a.png, got 4 x"),
        ({"a.png": b"no"}, r"t.tar, a.png: not a readable image"),
        ({"a.png": encoded(GREY[0], "png")[:60]}, r"t.tar, a.png: not a readable image"),
        ({"a.npy": b"no"}, r"t.tar, a.npy: not a readable .npy file of numbers"),
        ({"a.npy": NPY[:-1]}, r"t.tar, a.npy: its header declares 24 bytes .* and 23 follow"),
        ({"a.npy": np.array(["u"])}, r"t.tar, a.npy: expected numbers of shape \[...\], got <U1"),
        ({"a.npy": np.float64(1)}, r"t.tar, a.npy: expected numbers of shape \[...\], got float64 of shape \[\]"),
        (
            {"a.npy": np.zeros(3), "b.npy": np.zeros(4)},
            r"b.npy: expected float64 of shape \[3\], as a.npy, got .*\[4\]",
        ),
        ({"a.npy": np.zeros(3), "b.npy": np.zeros(3, "f4")}, r"b.npy: expected float64 .*, got float32 of shape \[3\]"),
        ({"a.npy": np.zeros(3), "b.png": GREY[0]}, r"b.png: expected an array, as a.npy, got an image"),
        ({"a.png": GREY[0], "b.npy": np.zeros(3)}, r"b.npy: expected an image, as a.png, got float64 of shape \[3\]"),
        ({"a.png": GREY[0], "a.jpg": GREY[0]}, r"a.jpg: expected one row of this name, got a.png too; give each row"),
        ({"a.cls": b"1", "b.png": GREY[0]}, r"a.cls: expected an image or an array of this name beside it, got none"),
        ({"a.png": GREY[0], "b.png": GREY[0], "b.cls": b"1"}, r"b.png: expected a label .* got 1 for the first 2 rows"),
        ({"a.cls": b"1", "a.png": GREY[0], "b.png": GREY[0]}, r"b.png: expected a label .* got 1 for the first 2 rows"),
        ({"a.png": GREY[0], "a.cls": b" "}, r"a.cls: expected a label, got ''"),
        ({"a.png": GREY[0], "a.cls": b"x" * 1001}, r"a.cls: expected a label of at most 1,000 bytes, got more"),
        (
            {"a.png": GREY[0], "a.cls": b"caf\xe9"},
            r"a.cls: expected a label in UTF-8, got b'caf\\xe9'; write it",
        ),
    ],
)
def test_a_tar_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    with pytest.raises(ArrayError, match=says):
        read_source(str(tar(tmp_path / "t.tar", files)))


def test_what_is_no_tar_file_or_a_part_of_one_is_refused(tmp_path: Path) -> None:
    file = tar(tmp_path / "t.tar", {f"{i}.npy": np.zeros(300) for i in range(9)})
    whole = file.read_bytes()
    file.write_bytes(whole[:9000])
    with pytest.raises(ArrayError, match=r"t.tar.*: not a readable .* \(unexpected end of data\)"):
        read_source(str(file))
    file.write_bytes(b"no tar file" * 100)
    with pytest.raises(ArrayError, match=r"t.tar: not a readable .tar file .*; write it again, without compression"):
        read_source(str(file))
    with tarfile.open(file, "w") as out:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    with pytest.raises(ArrayError, match=r"t.tar, a.png: expected a regular file, got a link or a device"):
        read_source(str(file))


@pytest.mark.parametrize("cut", [-1, 0, 1, 300, 511])
def test_a_tar_file_that_is_cut_at_or_in_a_header_is_refused(tmp_path: Path, cut: int) -> None:
    """Also at the last header, or where only the end is lost."""
    file = tar(tmp_path / "t.tar", {f"{i}.npy": np.zeros(300) for i in range(10)})
    whole, each = file.read_bytes(), 512 + 2560  # a header, and 2,528 bytes in blocks of 512
    for rows in (1, 5, 9, 10):
        file.write_bytes(whole[: rows * each + cut])
        with pytest.raises(
            ArrayError, match=r"t.tar: not a readable .tar file \(.*(at byte|unexpected end).*; write it"
        ):
            read_source(str(file))
    file.write_bytes(whole[: 10 * each + 512])  # one block of zeros is an end
    assert len(read_source(str(file)).x) == 10


@pytest.mark.parametrize(("at", "value"), [(0, b"x"), (148, b"9"), (257, b"?"), (0, bytes(512))])
def test_a_tar_file_with_a_damaged_header_is_refused(tmp_path: Path, at: int, value: bytes) -> None:
    file = tar(tmp_path / "t.tar", {f"{i}.npy": np.zeros(300) for i in range(10)})
    data = bytearray(file.read_bytes())
    start = 5 * (512 + 2560) + at
    data[start : start + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(ArrayError, match=r"t.tar: not a readable .tar file \(expected .* at byte 15360, got"):
        read_source(str(file))


def test_a_row_of_a_tar_file_must_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tar(tmp_path / "t.tar", {"0.npy": np.zeros(3000)})
    monkeypatch.setattr(memory, "available", lambda: 40_000)
    with pytest.raises(UsageError, match=r"t.tar, 0.npy, a row: needs at least 48.3 kB .*; write smaller rows"):
        read_source(str(file))


def test_a_sparse_file_in_a_tar_file_is_refused(tmp_path: Path) -> None:
    """A few bytes may declare terabytes."""
    head = encoded(np.zeros(0, np.uint8), "npy")  # its header alone
    info = tarfile.TarInfo("0.npy")
    info.size = len(head)
    info.pax_headers = {"GNU.sparse.map": f"0,{len(head)}", "GNU.sparse.size": str(1 << 40)}
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as out:
        out.addfile(info, io.BytesIO(head))
    with pytest.raises(ArrayError, match=r"t.tar, 0.npy: expected a whole file, got a sparse one; write it without"):
        read_source(str(tmp_path / "t.tar"))


# Tables


class Counted(type(Path())):  # type: ignore[misc]
    """A path that counts how often it is written out."""

    times = 0

    def __str__(self) -> str:
        Counted.times += 1
        return super().__str__()


def test_the_name_of_a_table_is_not_written_out_for_each_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 500)
    assert len(read_csv(Counted(tmp_path / "t.csv")).x) == 500
    assert Counted.times < 50


def test_a_table_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.csv"
    x = RNG.normal(size=(120, 3))
    lines = [f"{a!r},{b!r},n{i % 4},{c!r},{i % 5}" for i, (a, b, c) in enumerate(x.tolist())]
    file.write_text("\n".join(["u,v,label,w,g", *lines[:60], "", *lines[60:]]))
    found = both_ways(file, monkeypatch, ("g",))
    assert np.array_equal(found.x, x)
    assert found.names == ("u", "v", "w")
    assert found.y is not None
    assert found.y.tolist() == [f"n{i % 4}" for i in range(120)]
    assert found.columns["g"].tolist() == [i % 5 for i in range(120)]
    assert (found.where(0), found.where(119)) == ("line 2", "line 122")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("inf", r"t.csv, line 92, column 2: expected a finite number, got inf"),
        ("x", r"t.csv, line 92, column 2: expected a number, got 'x'"),
        ("4_5", r"t.csv, line 92, column 2: expected a number, got '4_5'"),
        ("1,2", r"t.csv, line 92: expected 2 cells, as in the first line, got 3"),
    ],
)
def test_a_cell_of_a_later_block_is_called_by_its_line(tmp_path: Path, cell: str, says: str, small: None) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "1,2\n" * 90 + f"1,{cell}\n" + "1,2\n" * 40)
    with pytest.raises(ArrayError, match=says):
        read_source(str(file))


# Zarr


@pytest.fixture
def zarr() -> Any:
    return pytest.importorskip("zarr")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["float32", ">f8", "uint8", "int16", "bool"])
def test_a_zarr_array_is_read_in_chunks(
    version: int, kind: str, zarr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = RNG.integers(0, 2 if kind == "bool" else 9, (41, 3)).astype(kind)
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(7, 2), zarr_format=version)
    found = both_ways(tmp_path / "x.zarr", monkeypatch)
    assert np.array_equal(found.x, x)
    assert (found.name, found.y, found.x.dtype.isnative) == ("x", None, True)


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_group_holds_rows_labels_and_columns(
    version: int, zarr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=version)
    group.create_array("x", data=COLOURS, chunks=(2, 4, 5, 3))
    group.create_array("y", data=np.arange(9) % 3)
    group.create_array("w", data=np.arange(9.0))
    group.create_array("other", data=np.zeros(4))
    found = both_ways(tmp_path / "g.zarr", monkeypatch)
    assert np.array_equal(found.x, COLOURS.transpose(0, 3, 1, 2))
    assert found.top == 255.0
    assert found.y is not None
    assert found.y.tolist() == [0, 1, 2] * 3
    assert {name: c.tolist() for name, c in found.columns.items()} == {"w": list(range(9))}
    same(read_source(str(tmp_path / "g.zarr" / "x")), Source("x", found.x, top=255.0))


def test_a_shard_of_zarr_is_read_too(zarr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(40, 4))
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(5, 4), shards=(20, 4))
    assert np.array_equal(both_ways(tmp_path / "x.zarr", monkeypatch).x, x)


@pytest.mark.parametrize(("version", "shards"), [(2, None), (3, None), (3, (4, 2))])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_what_is_not_there_is_counted_in_whole_files(
    version: int, shards: tuple[int, int] | None, lost: int, zarr: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the last shard goes beyond the array, or two files lie beside each other."""
    path, x = tmp_path / "x.zarr", RNG.normal(size=(10, 3))
    zarr.create_array(path, data=x, chunks=(2, 2), shards=shards, zarr_format=version)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0].isdigit())
    for file in files[:lost]:
        file.unlink()
    read_source(str(path))
    assert len(files) == (6 if shards else 10)
    what = "shards" if shards else "chunks"
    said = f"{path}: {lost} of {len(files)} {what} are not there, and stand for 0.0"
    assert [r.getMessage() for r in caplog.records] == ([said] if lost else [])


def test_zarr_that_cannot_be_used_is_refused_by_name(
    zarr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "g.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    with pytest.raises(ArrayError, match=r"g.zarr: expected an array, got a group with none"):
        read_source(str(path))
    for name in ("a", "b"):
        group.create_array(name, data=RNG.normal(size=(30, 2)), chunks=(10, 2))
    with pytest.raises(ArrayError, match=r"expected one array, or one named x among others, got a, b; give the folder"):
        read_source(str(path))
    group.create_array("x", data=np.zeros((3, 2)))
    group.create_array("y", data=np.zeros(4))
    with pytest.raises(ArrayError, match=r"y: expected 3 labels, one a row, got shape \[4\]"):
        read_source(str(path))
    (path / "a" / "1.0").write_bytes(b"no chunk")
    with pytest.raises(ArrayError, match=r"a.*: not a readable Zarr array \(.*\); write it again"):
        read_source(str(path / "a"))
    (path / "b" / "1.0").unlink()
    read_source(str(path / "b"))
    assert "b: 1 of 3 chunks are not there, and stand for 0.0" in caplog.text
    (path / "b" / ".zarray").write_text("{}")
    with pytest.raises(ArrayError, match=r"b: not a readable Zarr array"):
        read_source(str(path / "b"))
    monkeypatch.setattr(memory, "available", lambda: 300)
    with pytest.raises(UsageError, match=r"chunks of shape \[10, 2\]: needs at least 320 B .*with smaller chunks"):
        read_source(str(path / "a"))


def test_a_chunk_that_goes_far_beyond_its_array_must_fit_in_memory(
    zarr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns beside the rows too: a chunk of them is unpacked whole."""
    group = zarr.open_group(tmp_path / "g", mode="w")
    group.create_array("x", data=np.ones((4, 2), np.uint8), chunks=(4, 2))
    group.create_array("y", data=np.ones(4, np.uint8), chunks=(40_000,))
    zarr.create_array(tmp_path / "x", data=np.ones((4, 2), np.uint8), chunks=(4, 10_000))
    monkeypatch.setattr(memory, "available", lambda: 39_000)
    with pytest.raises(UsageError, match=r"x, chunks of shape \[4, 10000\]: needs at least 40.0 kB of memory"):
        read_source(str(tmp_path / "x"))
    with pytest.raises(UsageError, match=r"y, chunks of shape \[40000\]: needs at least 40.0 kB of memory"):
        read_source(str(tmp_path / "g"))


def test_numbers_in_zarr_must_be_numbers(zarr: Any, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x", data=np.array(["u", "v"], dtype="U1"), zarr_format=2)
    with pytest.raises(ArrayError, match=r"x: expected numbers of shape \[n, ...\], got <U1 of shape \[2\]"):
        read_source(str(tmp_path / "x"))


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r"expected zarr to be installed, .*; run: pip install 'zprime\[zarr\]'"):
        read_source(str(tmp_path))


# Memory


LIMITED = """
import resource, sys
import numpy
from zprime.data import blocks, read_source
blocks.LARGE = 1 << 16
blocks.BLOCK = 1 << 14
read_source(sys.argv[1])
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + int(sys.argv[3]),) * 2)
print(read_source(sys.argv[2]).x.size)
"""


def write_csv(path: Path, x: np.ndarray) -> Path:
    rows = "\n".join(",".join(map(str, row)) for row in x.tolist())
    path.with_suffix(".csv").write_text(rows)
    return path.with_suffix(".csv")


def write_tar(path: Path, x: np.ndarray) -> Path:
    images = x.reshape(-1, 100, 100)  # few files of many numbers
    return tar(path.with_suffix(".tar"), {f"{i}.png": image for i, image in enumerate(images)})


def write_images(path: Path, x: np.ndarray) -> Path:
    path.mkdir()
    for i, image in enumerate(x.reshape(-1, 100, 100)):
        Image.fromarray(image).save(path / f"{i}.png", compress_level=0)
    return path


def write_zarr(path: Path, x: np.ndarray) -> Path:
    pytest.importorskip("zarr").create_array(path, data=x.reshape(-1, 1000), chunks=(40, 1000))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("write", "n", "room"),
    [
        (write_csv, 60_000, 3_000_000),
        (write_tar, 500_000, 4_000_000),
        (write_images, 500_000, 4_000_000),
        (write_zarr, 4_000_000, 50_000_000),  # its threads alone take 30 MB
    ],
)
def test_reading_holds_no_copy_of_the_rows(
    tmp_path: Path, write: Callable[[Path, np.ndarray], Path], n: int, room: int
) -> None:
    """A .csv file's rows are 4.8 MB of float64, images' 10 MB of bytes, Zarr's 80 MB; less may be taken."""
    x = RNG.integers(0, 256, (n, 10 if n < 100_000 else 20)).astype(np.uint8)
    small, large = write(tmp_path / "small", x[: n // 50]), write(tmp_path / "large", x)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "MALLOC_MMAP_THRESHOLD_": "300000"}
    args = [sys.executable, "-c", LIMITED, str(small), str(large), str(room)]
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{x.size}\n"), done.stderr[-800:]


def test_a_run_of_images_in_files_is_scaled_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tar(tmp_path / "t.tar", {f"{i}.png": image for i, image in enumerate(np.concatenate([GREY] * 3))})
    one = load(DataSettings(str(file), keep_duplicates=True))
    for name in ("LARGE", "BLOCK", "AT_ONCE"):
        monkeypatch.setattr(blocks, name, 50)
    two = load(DataSettings(str(file), keep_duplicates=True))
    assert two.hash == one.hash
    assert torch.equal(two.rows("train").x, one.rows("train").x)


@pytest.mark.parametrize("fails", [True, False])
def test_a_file_of_rows_without_a_known_number_has_no_name(small: None, tmp_path: Path, fails: bool) -> None:
    """So a command that is killed leaves nothing."""
    place = tmp_path / "temporary"
    place.mkdir()
    seen: list[Path] = []

    def parts() -> Iterator[np.ndarray]:
        for _ in range(10):
            seen.extend(place.iterdir())
            yield np.ones((10, 10))
        if fails:
            raise ArrayError("no more")

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(blocks, "_place", lambda: place)
        if fails:
            with pytest.raises(ArrayError, match="no more"):
                gathered(parts())
        else:
            assert gathered(parts()) is not None
    assert (seen, list(place.iterdir())) == ([], [])
