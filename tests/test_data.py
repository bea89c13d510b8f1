"""Reading rows from every source, refusing what cannot be used by name, and splitting them."""

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zprime.data import (
    READERS,
    SPLITS,
    Dataset,
    DataSettings,
    Reader,
    Source,
    duplicates,
    load,
    new_rows,
    read_source,
    readers,
)
from zprime.data.duplicates import duplicates_of, near_duplicates
from zprime.data.source import file_named
from zprime.data.splitting import split_rows
from zprime.errors import ArrayError, UsageError
from zprime.results.facts import Duplicates

RNG = np.random.default_rng(0)


def table(n: int = 60, d: int = 4, **changes) -> Source:
    return Source(**{"name": "table", "x": np.random.default_rng(1).normal(3, 2, (n, d)), **changes})


def idx(array: np.ndarray, magic: bytes = b"\0\0\x08") -> bytes:
    return magic + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def mnist(folder: Path, *, n: int = 20, test: int = 6, zipped: bool = True) -> dict[str, np.ndarray]:
    """The four files of an MNIST-like set, and what is in them."""
    parts = {
        "train-images-idx3": RNG.integers(0, 256, (n, 5, 4)),
        "train-labels-idx1": RNG.integers(0, 10, n),
        "t10k-images-idx3": RNG.integers(0, 256, (test, 5, 4)),
        "t10k-labels-idx1": RNG.integers(0, 10, test),
    }
    for name, array in parts.items():
        content = idx(array)
        (folder / f"{name}-ubyte{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)
    return parts


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(array).save(path)
    return str(path)


# Splits


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(20, 300),
    test=st.integers(0, 50),
    selection=st.floats(0.01, 0.45),
    heldout=st.floats(0.01, 0.45),
    seed=st.integers(0, 1000),
)
def test_splits_are_disjoint_sorted_seeded_and_cover_every_row(
    n: int, test: int, selection: float, heldout: float, seed: int
) -> None:
    source = Source("rows", np.random.default_rng(seed).normal(size=(n + test, 2)), test=test)
    data, again, *others = (
        Dataset(source, DataSettings("rows", selection, heldout), seed=s)
        for s in (seed, seed, *range(seed + 1, seed + 6))
    )
    ids = [data.ids[s] for s in SPLITS]
    assert sorted(torch.cat(ids).tolist()) == list(range(n + test))
    assert all(torch.equal(i, i.sort().values) and len(i) for i in ids)
    if test:
        assert data.ids["heldout"].tolist() == list(range(n, n + test))
    else:
        assert len(data.ids["heldout"]) == max(1, round(n * heldout))
    assert len(data.ids["selection"]) == max(1, round(n * selection))
    assert all(torch.equal(again.ids[s], data.ids[s]) for s in SPLITS)
    assert any(not torch.equal(o.ids["selection"], data.ids["selection"]) for o in others)


def test_limit_keeps_training_rows_of_the_unlimited_split_and_leaves_the_others_alone() -> None:
    full, some = (Dataset(table(), DataSettings("t", limit=k), seed=1) for k in (0, 10))
    assert len(some.ids["train"]) == 10
    assert set(some.ids["train"].tolist()) < set(full.ids["train"].tolist())
    assert all(torch.equal(some.ids[s], full.ids[s]) for s in ("selection", "heldout"))
    assert full.hash == some.hash


def test_what_a_manifest_records_is_enough_to_find_every_row_again() -> None:
    data = Dataset(table(y=np.arange(60) % 3), DataSettings("t"), seed=5)
    record, tensors = data.describe(), data.tensors()
    assert record["sizes"] == {"train": 40, "selection": 10, "heldout": 10}
    assert (record["seed"], record["shape"], record["dtype"], record["settings"]["data"]) == (5, [4], "float64", "t")
    for split in SPLITS:
        rows = data.rows(split)
        assert torch.equal(rows.ids, tensors[f"ids.{split}"])
        torch.testing.assert_close(
            rows.x * tensors["scale"] + tensors["shift"], data.raw[rows.ids], rtol=1e-5, atol=1e-5
        )
        assert torch.equal(rows.labels, rows.ids % 3)
        head = rows.head(3)
        assert len(head) == 3
        assert torch.equal(head.x, rows.x[:3])
        assert torch.equal(head.labels, rows.labels[:3])


def test_the_hash_changes_with_any_value_or_label() -> None:
    x = table().x
    other = x.copy()
    other[30, 2] += 1e-3
    swapped = x[::-1].copy()
    hashes = [
        Dataset(table(x=a, y=y), DataSettings("t")).hash
        for a in (x, other, swapped)
        for y in (None, np.zeros(60, int), np.ones(60, int))
    ]
    assert len(set(hashes)) == 9


# Scaling


def test_columns_are_standardised_by_the_training_rows_alone() -> None:
    x = table(300).x
    x[:, 2] = 7.0  # a constant column among others
    data = Dataset(Source("t", x), DataSettings("t"))
    train = data.rows("train").x
    torch.testing.assert_close(train.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(train.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-5)
    x[data.ids["heldout"]] += 100.0
    moved = Dataset(Source("t", x), DataSettings("t"))
    assert torch.equal(moved.shift, data.shift)
    assert torch.equal(moved.scale, data.scale)


@pytest.mark.parametrize(
    ("x", "top", "low", "high"),
    [
        (RNG.integers(0, 256, (30, 1, 4, 4)).astype(np.uint8), 255.0, 0.0, 1.0),
        (RNG.uniform(0.2, 0.7, (30, 1, 4, 4)), None, 0.2, 0.7),  # within [0, 1] already: left alone
        (RNG.uniform(-5, 12, (30, 3, 4, 4)), None, 0.0, 1.0),
    ],
    ids=["bytes", "unit", "other"],
)
def test_images_end_up_between_black_and_white(x: np.ndarray, top: float | None, low: float, high: float) -> None:
    rows = Dataset(Source("images", x, top=top), DataSettings("images")).rows("train").x
    assert rows.dtype == torch.float32
    assert float(rows.min()) == pytest.approx(low, abs=0.02)
    assert float(rows.max()) == pytest.approx(high, abs=0.02)


def test_binarised_pixels_are_drawn_with_their_grey_value_once_per_seed() -> None:
    x = np.broadcast_to(np.linspace(0, 1, 16).reshape(1, 1, 4, 4), (3000, 1, 4, 4)).copy()
    x[::2] = 1 - x[::2]  # not all rows are the same
    data = Dataset(Source("grey", x, top=1.0), DataSettings("grey", binarise=True, keep_duplicates=True), seed=3)
    rows = data.rows("train")
    assert set(rows.x.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(rows.x.mean(0), rows.grey.mean(0), rtol=0, atol=5 * 0.5 / len(rows) ** 0.5)
    assert torch.equal(rows.x, data.rows("train").x)
    assert torch.equal(rows.head(4).grey, rows.grey[:4])
    assert not torch.equal(
        Dataset(Source("grey", x, top=1.0), DataSettings("grey", binarise=True, keep_duplicates=True), seed=4)
        .rows("heldout")
        .x,
        data.rows("heldout").x,
    )
    plain = Dataset(Source("grey", x, top=1.0), DataSettings("grey", keep_duplicates=True))
    assert plain.rows("train").grey is None


# Sources


def test_digits_are_as_scikit_learn_ships_them() -> None:
    from sklearn.datasets import load_digits

    data = load(DataSettings("digits"))
    found = load_digits()
    rows = data.rows("heldout")
    assert (data.name, data.shape) == ("digits", (1, 8, 8))
    np.testing.assert_allclose(rows.x[:, 0].numpy(), found.images[rows.ids] / 16, atol=1e-7)
    assert rows.labels.tolist() == found.target[rows.ids].tolist()
    assert data.bytes == 4 * 64 * len(data.ids["train"])


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", ">f4", ">i2", "u1", "u2", "i8", "?", "g"])
def test_npy_of_any_number_type(tmp_path: Path, dtype: str) -> None:
    x = RNG.integers(0, 2, (30, 3)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    data = load(DataSettings(str(tmp_path / "x.npy"), keep_duplicates=True))
    assert (data.name, data.shape) == ("x", (3,))
    torch.testing.assert_close(data.rows("train").x, torch.from_numpy(x.astype("f4"))[data.ids["train"]])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 5), (5,)),
        ((9, 6, 5), (1, 6, 5)),
        ((9, 6, 5, 3), (3, 6, 5)),
        ((9, 6, 5, 1), (1, 6, 5)),
        ((9, 3, 6, 5), (3, 6, 5)),
        ((9, 2, 2, 2, 2), (2, 2, 2, 2)),
    ],
)
def test_arrays_become_rows_or_images_with_the_channel_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = RNG.integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    source = read_source(str(tmp_path / "x.npy"))
    assert source.x.shape[1:] == expected
    assert source.top == (255.0 if len(expected) == 3 else None)
    if shape == (9, 6, 5, 3):
        assert np.array_equal(source.x[4, 2], x[4, :, :, 2])


def test_npz_with_its_own_test_part_holds_that_out(tmp_path: Path) -> None:
    parts = {
        "x_train": RNG.normal(size=(40, 3)),
        "y_train": np.arange(40),
        "x_test": RNG.normal(size=(7, 3)),
        "y_test": 100 + np.arange(7),
    }
    np.savez(tmp_path / "set.npz", **parts)
    data = load(DataSettings(str(tmp_path / "set.npz"), heldout=0.5))
    assert data.ids["heldout"].tolist() == list(range(40, 47))
    assert data.rows("heldout").labels.tolist() == list(range(100, 107))
    np.testing.assert_allclose(data.raw[40:].numpy(), parts["x_test"], rtol=1e-6)
    assert len(data.ids["selection"]) == round(40 / 6)


@pytest.mark.parametrize("name", ["x", "x_train", "anything"])
def test_npz_finds_its_rows_by_name_or_by_being_alone(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "set.npz", **{name: np.arange(30.0).reshape(10, 3)})
    assert read_source(str(tmp_path / "set.npz")).x.tolist() == np.arange(30.0).reshape(10, 3).tolist()


def test_labels_may_be_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=RNG.normal(size=(6, 2)), y=np.array(["shoe", "bag", "coat", "bag", "shoe", "bag"]))
    assert load(DataSettings(str(tmp_path / "set.npz"))).labels.tolist() == [2, 0, 1, 0, 2, 0]


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_folder_is_read_with_its_test_part_held_out(tmp_path: Path, *, zipped: bool) -> None:
    parts = mnist(tmp_path, zipped=zipped)
    data = load(DataSettings(str(tmp_path)))
    assert (data.shape, data.raw.dtype) == ((1, 5, 4), torch.uint8)
    assert data.ids["heldout"].tolist() == list(range(20, 26))
    everything = np.concatenate([parts["train-images-idx3"], parts["t10k-images-idx3"]])
    labels = np.concatenate([parts["train-labels-idx1"], parts["t10k-labels-idx1"]])
    for split in SPLITS:
        rows = data.rows(split)
        np.testing.assert_allclose(rows.x[:, 0].numpy(), everything[rows.ids] / 255, atol=1e-6)
        assert rows.labels.tolist() == labels[rows.ids].tolist()


def test_idx_without_labels_or_test_part_is_split_like_any_other(tmp_path: Path) -> None:
    mnist(tmp_path)
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").unlink()
    data = load(DataSettings(str(tmp_path)))
    assert data.labels is None
    assert {s: len(i) for s, i in data.ids.items()} == {"train": 14, "selection": 3, "heldout": 3}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda c: gzip.compress(c)[:-20],
            r"train-images-idx3-ubyte.gz: truncated or not gzip \(.*\); fetch the file again",
        ),
        (lambda c: c, r"train-images-idx3-ubyte.gz: truncated or not gzip \(Not a gzipped file"),
        (lambda c: gzip.compress(c[:-1]), r"expected 400 bytes for shape \[20, 5, 4\], got 399; fetch the file again"),
        (lambda c: gzip.compress(c + b"\0\0"), r"expected 400 bytes for shape \[20, 5, 4\], got 402"),
        (lambda c: gzip.compress(c[:6]), r"truncated in its header; fetch the file again"),
        (
            lambda c: gzip.compress(b"\0\0\x0d\x03" + c[4:]),
            r"expected an IDX file of unsigned bytes \(magic 0x0000_08xx\), got 00000d03",
        ),
        (lambda c: gzip.compress(b"PK"), r"expected an IDX file of unsigned bytes \(magic 0x0000_08xx\), got 504b"),
    ],
    ids=["truncated gzip", "no gzip", "a byte short", "too long", "short header", "floats", "another format"],
)
def test_damaged_idx_files_are_refused_by_name(tmp_path: Path, damage, text: str) -> None:
    parts = mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(damage(idx(parts["train-images-idx3"])))
    with pytest.raises(ArrayError, match=text):
        load(DataSettings(str(tmp_path)))


def test_idx_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(5))))
    with pytest.raises(ArrayError, match="expected 26 labels, got 25"):
        load(DataSettings(str(tmp_path)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((6, 4, 5)))))
    with pytest.raises(ArrayError, match=r"t10k-images-idx3-ubyte.gz: expected images of \[5, 4\], got \[4, 5\]"):
        load(DataSettings(str(tmp_path)))
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UsageError, match="expected a file named train-images-idx3-ubyte or train-images-idx3-ubyte.gz"):
        load(DataSettings(str(tmp_path)))


def test_image_folder_in_the_order_of_names_with_subfolders_as_labels(tmp_path: Path) -> None:
    pixels = {
        f"{label}/{i}.png": RNG.integers(0, 256, (4, 3)).astype(np.uint8) for label in ("cat", "ant") for i in range(5)
    }
    for name, array in pixels.items():
        save(tmp_path / name, array)
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("not an image either")
    data = load(DataSettings(str(tmp_path)))
    assert data.shape == (1, 4, 3)
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(data.raw[5:, 0].numpy(), np.stack([pixels[f"cat/{i}.png"] for i in range(5)]))


def test_grey_and_coloured_images_of_any_depth_are_brought_together(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (4, 4)).astype(np.uint8)
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", np.stack([grey, grey * 0, grey * 0], 2))
    save(tmp_path / "c.png", grey.astype(np.uint16) * 256 + 7)  # 16 bits a pixel: the upper eight
    save(tmp_path / "d.png", np.stack([grey, np.full_like(grey, 128)], 2))  # with alpha
    data = load(DataSettings(str(tmp_path), keep_duplicates=True))
    assert data.shape == (3, 4, 4)
    for row, channels in ((0, [grey] * 3), (1, [grey, 0 * grey, 0 * grey]), (2, [grey] * 3), (3, [grey] * 3)):
        assert np.array_equal(data.raw[row].numpy(), np.stack(channels)), row


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", RNG.integers(0, 256, (4, 6)).astype(np.uint8))
    save(tmp_path / "9.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(
        ArrayError, match=r"9.png: expected images of one size, 6 x 4 as 0.png, got 4 x 6; resize them first"
    ):
        load(DataSettings(str(tmp_path)))
    (tmp_path / "9.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    with pytest.raises(ArrayError, match=r"9.png: not a readable image"):
        load(DataSettings(str(tmp_path)))
    (tmp_path / "9.png").write_bytes(b"GIF")
    with pytest.raises(ArrayError, match=r"9.png: not a readable image"):
        load(DataSettings(str(tmp_path)))


@pytest.mark.parametrize("first", ["", "height,y2019,width\n", "0,1,2\n"], ids=["rows", "names", "pandas"])
def test_a_csv_file_gives_its_numbers_with_and_without_a_header(tmp_path: Path, first: str) -> None:
    x = RNG.normal(size=(20, 3)) * [1e-8, 1, 1e8]
    lines = "".join(",".join(map(repr, row)) + "\r\n" for row in x.tolist())
    file = tmp_path / "people.CSV"
    file.write_bytes(b"\xef\xbb\xbf" + (first + lines + "\n").encode())
    found = read_source(str(file))
    assert (found.name, found.y, found.x.tolist()) == ("people", None, x.tolist())
    assert found.names == (("height", "y2019", "width") if first.startswith("height") else ())
    assert Dataset(found, DataSettings("t")).hash == Dataset(Source("t", x), DataSettings("t")).hash  # as .npy has it


@pytest.mark.parametrize(
    ("written", "labels"),
    [(["3", "10", "3", "7"], [3, 10, 3, 7]), (["shoe", "bag, red", "7", "shoe"], [2, 1, 0, 2])],
    ids=["numbers", "text"],
)
def test_a_csv_column_named_label_becomes_the_labels(tmp_path: Path, written: list[str], labels: list[int]) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,label,b\n" + "".join(f'{i},"{label}",{i + 0.5}\n' for i, label in enumerate(written)))
    data = load(DataSettings(str(file)))
    assert data.raw.tolist() == [[i, i + 0.5] for i in range(4)]
    assert data.labels.tolist() == labels
    assert data.describe()["columns"] == ["a", "b"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="or .parquet, .npy or .tar files, found none"):
        load(DataSettings(str(tmp_path)))


def npz(path: Path, **arrays: object) -> str:
    np.savez(path / "set.npz", **arrays)
    return str(path / "set.npz")


def raw(path: Path, name: str, content: bytes) -> str:
    (path / name).write_bytes(content)
    return str(path / name)


def npy(path: Path, array: np.ndarray) -> str:
    np.save(path / "x.npy", array)
    return str(path / "x.npy")


NAN = np.zeros((9, 2))
NAN[[3, 7], 1] = np.nan


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda p: "nothing-here",
            UsageError,
            "data: expected digits, .* or a folder of images, got 'nothing-here', which does not exist",
        ),
        (
            lambda p: raw(p, "x.tsv", b"1\t2"),
            UsageError,
            r"expected digits, a .npy file, .*, got x.tsv; .*as .csv$",
        ),
        (lambda p: raw(p, "x.pdf", b"1,2"), UsageError, r"or a folder of images, got x.pdf$"),
        (lambda p: raw(p, "x.csv", b""), ArrayError, r"x.csv: expected rows of numbers, got an empty file"),
        (lambda p: raw(p, "x.csv", b"a,b\n\n"), ArrayError, r"x.csv: expected rows of numbers, got only a header"),
        (
            lambda p: raw(p, "x.csv", b"a,b\n1,2\n\n3,red\n"),
            ArrayError,
            r"x.csv, line 4, column 2: expected a number, got 'red'; leave the column out, name it label",
        ),
        (
            lambda p: raw(p, "x.csv", b"1,2\n3, \n"),
            ArrayError,
            r"x.csv, line 2, column 2: expected a number, got an empty cell; fill it in, or leave the line out",
        ),
        (
            lambda p: raw(p, "x.csv", b"a,b\n1,2\n\n3,NaN\n5,6"),
            ArrayError,
            r"x.csv, line 4, column 2: expected a finite number, got nan",
        ),
        (
            lambda p: raw(p, "x.csv", b"1,2\n-inf,4"),
            ArrayError,
            r"line 2, column 1: expected a finite number, got -inf",
        ),
        (
            lambda p: raw(p, "x.csv", b"1,2\n3,4,5\n"),
            ArrayError,
            r"x.csv, line 2: expected 2 cells, as in the first line, got 3",
        ),
        (
            lambda p: raw(p, "x.csv", b"1;2\n3;4\n"),
            ArrayError,
            r"line 2, column 1: expected a number, got '3;4'; put commas between the columns",
        ),
        (
            lambda p: raw(p, "x.csv", b",a,b\n0,1,2\n"),
            ArrayError,
            r"x.csv, line 1, column 1: expected a name, .* got an empty cell; .*to_csv\(index=False\)",
        ),
        (
            lambda p: raw(p, "x.csv", b"a,label\n1,red\n2,\n"),
            ArrayError,
            r"x.csv, line 3, column 2: expected a label, got ''",
        ),
        (
            lambda p: raw(p, "x.csv", b"label\n1\n"),
            ArrayError,
            r"line 1: expected one column named label beside others, got label$",
        ),
        (lambda p: raw(p, "x.csv", b"a,b\n1,\xff\n"), ArrayError, r"x.csv: not a readable .csv file in UTF-8 \("),
        (lambda p: raw(p, "x.npy", b"\x93NUMPY"), ArrayError, r"x.npy: not a readable .npy file of numbers \("),
        (lambda p: raw(p, "x.npy", b""), ArrayError, r"x.npy: not a readable .npy file of numbers \("),
        (
            lambda p: npy(p, np.array([{}, 1], dtype=object)),
            ArrayError,
            r"x.npy: not a readable .npy file of numbers \(.*allow_pickle=False",
        ),
        (
            lambda p: npy(p, np.zeros(5)),
            ArrayError,
            r"x.npy: expected numbers of shape \[n, ...\], got float64 of shape \[5\]",
        ),
        (
            lambda p: npy(p, np.full((5, 2), "a")),
            ArrayError,
            r"expected numbers of shape \[n, ...\], got <U1 of shape \[5, 2\]",
        ),
        (lambda p: npy(p, np.zeros((5, 2), complex)), ArrayError, r"got complex128 of shape \[5, 2\]"),
        (lambda p: raw(p, "x.npz", b"PK\x03\x04 no zip"), ArrayError, r"x.npz: not a readable .npz file of numbers \("),
        (
            lambda p: npz(p, x=np.array([{}, 1], dtype=object)),
            ArrayError,
            r"set.npz: not a readable .npz file of numbers \(.*allow_pickle=False",
        ),
        (
            lambda p: npz(p, images=np.zeros((5, 2)), more=np.zeros(5)),
            ArrayError,
            r"set.npz: expected an array named x or x_train, got images, more",
        ),
        (
            lambda p: npz(p, x=np.zeros((5, 2)), y=np.zeros(4)),
            ArrayError,
            r"set.npz: expected 5 labels, one a row, got shape \[4\]",
        ),
        (
            lambda p: npz(p, x_train=np.zeros((5, 2)), x_test=np.zeros((5, 3))),
            ArrayError,
            r"expected x_test rows of shape \[2\], got \[3\]",
        ),
        (
            lambda p: npy(p, NAN),
            ArrayError,
            r"data: expected finite numbers, got nan in 2 of 9 rows \(row 3, 7\); drop or impute these rows",
        ),
        (lambda p: npy(p, np.where(np.isnan(NAN), -np.inf, NAN)), ArrayError, r"got -inf in 2 of 9 rows \(row 3, 7\)"),
        (lambda p: npy(p, np.zeros((1, 2))), ArrayError, "data: expected at least 3 rows, one for each split, got 1"),
        (
            lambda p: npy(p, np.full((12, 2), 4.5)),
            ArrayError,
            "data: all 8 training rows are the same; nothing can be learned from constant data",
        ),
        (
            lambda p: npz(p, x_train=np.arange(4.0).reshape(2, 2)[:1], x_test=np.zeros((5, 2))),
            ArrayError,
            "data: 1 rows leave none to train on; give more rows, or a smaller selection or held-out split",
        ),
    ],
)
def test_what_cannot_be_read_or_used_is_said(tmp_path: Path, make, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load(DataSettings(make(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"selection": 0.0}, "selection: expected a proportion between 0 and 1, got 0"),
        ({"heldout": 1.5}, "heldout: expected a proportion between 0 and 1, got 1.5"),
        ({"selection": float("nan")}, "selection: expected a proportion between 0 and 1, got nan"),
        ({"selection": 0.6, "heldout": 0.5}, r"selection \+ heldout: expected less than 1, got 1.1"),
        ({"limit": -1}, r"limit: expected 0 \(all rows\) or more, got -1"),
        ({"limit": 1199}, "limit: expected at most 1197 training rows, got 1199"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        load(DataSettings(**{"data": "digits", **changes}))


def test_binarising_what_is_no_grey_value_is_refused() -> None:
    for x in (table().x, np.concatenate([np.random.default_rng(0).uniform(0, 1, (59, 4)), np.full((1, 4), 1.5)])):
        with pytest.raises(
            UsageError, match="binarise: expected grey values between black and white; these data are no images"
        ):
            Dataset(table(x=x, test=1), DataSettings("t", binarise=True))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="split: expected one of train, selection, heldout, got 'test'"):
        Dataset(table(), DataSettings("t")).rows("test")


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
@pytest.mark.parametrize("keep", [False, True])
def test_duplicates_of_training_rows_are_left_out_unless_they_are_to_be_kept(
    keep: bool, dtype: type[np.generic], caplog: pytest.LogCaptureFixture
) -> None:
    """0.5 % of the held-out rows: counted, named, left out of `ids`, and warned of; all else is as it was."""
    x = np.stack(np.divmod(np.arange(1200), 256), 1).astype(dtype)
    clean = Dataset(Source("t", x.copy(), test=400), DataSettings("t"))
    x[[900, 1100]] = x[clean.ids["train"][:2].numpy()]
    with caplog.at_level(logging.WARNING, "zprime"):
        data = Dataset(Source("t", x, test=400), DataSettings("t", keep_duplicates=keep))
    assert data.duplicates == {"heldout": Duplicates(2, 400, [900, 1100], keep)}
    assert torch.equal(data.ids["train"], clean.ids["train"])
    assert torch.equal(data.ids["selection"], clean.ids["selection"])
    expected = [i for i in range(800, 1200) if keep or i not in (900, 1100)]
    assert data.ids["heldout"].tolist() == expected
    assert data.rows("heldout").ids.tolist() == expected
    assert "2 of 400 held-out rows equal a training row exactly" in caplog.text
    assert ("gains on them flatter" in caplog.text) is keep
    assert ("left out (rows 900, 1100)" in caplog.text) is not keep
    assert data.info().duplicates == data.duplicates
    assert clean.duplicates == {}


def test_rows_that_differ_as_stored_and_not_in_float32_are_duplicates() -> None:
    x = np.arange(2 * 1200, dtype=np.float64).reshape(1200, 2)
    train = Dataset(Source("t", x.copy(), test=400), DataSettings("t")).ids["train"]
    x[900] = x[int(train[0])] * (1 + 1e-12)
    assert Dataset(Source("t", x, test=400), DataSettings("t")).duplicates["heldout"].ids == [900]


@pytest.mark.parametrize("count", [4, 5])
def test_more_than_one_per_cent_of_duplicates_is_refused(count: int) -> None:
    """Of 400 held-out rows 4 are 1 %, and 5 are more."""
    x = np.arange(2 * 1200, dtype=np.float64).reshape(1200, 2)
    train = Dataset(Source("t", x.copy(), test=400), DataSettings("t")).ids["train"]
    x[-count:] = x[train[:count].numpy()]
    source = Source("t", x, test=400)
    if count == 4:
        assert len(Dataset(source, DataSettings("t")).ids["heldout"]) == 396
        return
    with pytest.raises(ArrayError, match=r"5 of 400 held-out rows equal .* \(rows 1195, .*--keep-duplicates"):
        Dataset(source, DataSettings("t"))
    assert len(Dataset(source, DataSettings("t", keep_duplicates=True)).ids["heldout"]) == 400


def test_digits_of_which_many_are_there_twice_are_refused(tmp_path: Path) -> None:
    digits = read_source("digits").x
    np.savez(tmp_path / "twice.npz", x=np.concatenate([digits, digits[: int(0.3 * len(digits))]]))
    with pytest.raises(ArrayError, match="selection rows equal a training row .* Remove the duplicates from the data"):
        load(DataSettings(str(tmp_path / "twice.npz")))


def test_held_out_rows_that_all_were_trained_on_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3))
    ids = Dataset(Source("t", np.concatenate([x, x[:800] + 9]), test=800), DataSettings("t")).ids["train"].numpy()
    np.savez(tmp_path / "all.npz", x_train=x, x_test=x[ids[:800]])
    with pytest.raises(ArrayError, match="800 of 800 held-out rows equal a training row"):
        load(DataSettings(str(tmp_path / "all.npz")))


def test_selection_rows_are_looked_at_too() -> None:
    x = np.arange(600, dtype=np.float64).reshape(300, 2)
    ids = Dataset(Source("t", x.copy(), test=100), DataSettings("t")).ids
    x[ids["selection"][0]] = x[ids["train"][0]]
    with pytest.raises(ArrayError, match="1 of 33 selection rows equal a training row"):
        Dataset(Source("t", x, test=100), DataSettings("t"))


def test_equal_draws_of_different_grey_rows_are_no_duplicates() -> None:
    """Binarised rows of four pixels are often equal by chance: the grey rows are compared."""
    x = np.random.default_rng(1).uniform(size=(300, 4))
    data = Dataset(Source("t", x, test=50), DataSettings("t", binarise=True))
    assert data.duplicates == {}
    train, heldout = (set(map(tuple, data.rows(s).x.tolist())) for s in ("train", "heldout"))
    assert train & heldout


def test_zero_and_minus_zero_are_equal() -> None:
    train, x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[-0.0, 1.0], [2.0, 3.1]])
    assert duplicates_of([train], {"heldout": x})["heldout"].tolist() == [True, False]


def test_only_rows_that_may_be_equal_are_hashed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    real = duplicates._digest

    def digest(row: memoryview) -> bytes:
        hashed.append(bytes(row))
        return real(row)

    monkeypatch.setattr(duplicates, "_digest", digest)
    data = Dataset(table(300), DataSettings("t"))
    assert (hashed, data.duplicates) == ([], {})
    x = torch.arange(12.0).reshape(6, 2)
    found = duplicates_of([x[:2], x[2:4]], {"selection": x[3:5], "heldout": x[4:], "none": x[:0]})
    assert {split: which.tolist() for split, which in found.items()} == {"selection": [True, False]}
    assert hashed == [x[3].numpy().tobytes()] * 2


def test_rows_that_share_a_number_of_64_bits_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_keys", lambda x: torch.zeros(len(x), dtype=torch.int64))
    x = torch.arange(12.0).reshape(6, 2)
    found = duplicates_of([x[:2], x[2:4]], {"selection": x[3:5], "heldout": x[4:]})
    assert {split: which.tolist() for split, which in found.items()} == {"selection": [True, False]}


@given(st.data())
def test_equal_rows_are_found_whatever_their_type_and_parts(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int16, torch.uint8]))
    numbers = st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12)
    train, x = (torch.tensor(data.draw(numbers)).to(kind) for _ in range(2))
    cut = data.draw(st.integers(0, len(train)))
    found = duplicates_of([train[:cut], train[cut:]], {"heldout": x})
    known = set(map(tuple, train.tolist()))
    truth = [tuple(row) in known for row in x.tolist()]
    assert ("heldout" in found) == any(truth)
    if any(truth):
        assert found["heldout"].tolist() == truth


def test_near_duplicates_are_one_per_cent_of_rows_of_the_same_distribution() -> None:
    """And 30 % where that proportion of the held-out rows was trained on, with a little noise."""
    rng = torch.Generator().manual_seed(0)
    train, x = torch.randn(3000, 4, generator=rng), torch.randn(1000, 4, generator=rng)
    near = near_duplicates(train, x, seed=0)
    assert near is not None
    assert near.share.low < 0.01 < near.share.high
    assert near.share.value < 0.025
    among = torch.cdist(train.double(), train.double()).fill_diagonal_(torch.inf).min(1).values
    assert near.distance == pytest.approx(float(among.quantile(0.01)), rel=0.2)
    x[:300] = train[:300] + 1e-4 * torch.randn(300, 4, generator=rng)
    planted = near_duplicates(torch.cat([train, train[:50]]), x, seed=0)  # rows that are there twice set no scale
    assert planted is not None
    assert planted.share.low < 0.3 < planted.share.high
    assert planted.share.value == pytest.approx(0.3, abs=0.03)
    assert near_duplicates(train[:99], x) is None
    few = near_duplicates(train, x, seed=0, most=300)
    assert few is not None
    assert few.share.n == 500
    assert few.share.low > 0.2
    assert near_duplicates(train, train, most=10_000) == near_duplicates(train, train, most=2000)


# Groups


def grouped(sizes: list[int], *, order: np.ndarray | None = None, **changes) -> Source:
    """A table whose rows come in groups of these sizes."""
    names = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    x = np.random.default_rng(3).normal(size=(len(names), 3))
    if order is not None:
        names, x = names[order], x[order]
    return Source("t", x, columns={"who": names}, **changes)


@given(st.lists(st.integers(1, 12), min_size=3, max_size=40), st.integers(0, 5))
def test_groups_are_whole_in_every_split_and_proportions_are_near(sizes: list[int], seed: int) -> None:
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    ids = split_rows(sum(sizes), 0, DataSettings("t"), seed, groups)
    names = {s: set(groups[i].tolist()) for s, i in ids.items()}
    assert not names["train"] & names["selection"]
    assert not names["train"] & names["heldout"]
    assert not names["selection"] & names["heldout"]
    assert sorted(torch.cat(list(ids.values())).tolist()) == list(range(sum(sizes)))
    for split in ("selection", "heldout"):
        assert abs(len(ids[split]) - sum(sizes) / 6) <= max(sizes)
    assert all(len(i) for i in ids.values())


def test_rows_know_their_groups() -> None:
    data = Dataset(grouped([5] * 20), DataSettings("t", group="who"))
    for split, ids in data.ids.items():
        assert torch.equal(data.rows(split).groups, data.groups[ids])
    rows = data.rows("train")
    assert torch.equal(rows.take(torch.tensor([3, 1])).groups, rows.groups[[3, 1]])


def test_which_groups_are_held_out_depends_on_the_seed_and_on_no_order_of_rows() -> None:
    sizes = [3] * 40
    order = np.random.default_rng(0).permutation(120)

    def heldout(source: Source, seed: int) -> set[str]:
        ids = Dataset(source, DataSettings("t", group="who"), seed=seed).ids["heldout"]
        return set(source.columns["who"][ids.numpy()])

    assert heldout(grouped(sizes), 0) == heldout(grouped(sizes, order=order), 0)
    assert heldout(grouped(sizes), 0) != heldout(grouped(sizes), 1)


def test_groups_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ArrayError, match="group: expected at least 3 groups, one for each split, got 2"):
        Dataset(grouped([5, 5]), DataSettings("t", group="who"))
    with pytest.raises(ArrayError, match="got 1 groups in the test part and the other rows"):
        Dataset(grouped([5, 5, 6], test=4), DataSettings("t", group="who"))
    whole = Dataset(grouped([5, 5, 6], test=6), DataSettings("t", group="who"))
    assert whole.ids["heldout"].tolist() == list(range(10, 16))
    with pytest.raises(UsageError, match=r"group: expected a column of table beside the rows \(none; .*got 'who'"):
        Dataset(table(), DataSettings("t", group="who"))
    source = grouped([5, 5, 5])
    source.columns["who"][3] = " "
    with pytest.raises(ArrayError, match="t, column who: expected the name of a group in every row, got none in row 3"):
        Dataset(source, DataSettings("t", group="who"))


def test_a_limit_holds_for_rows_in_groups_too() -> None:
    data = Dataset(grouped([4] * 20), DataSettings("t", group="who", limit=7))
    assert len(data.ids["train"]) == 7


@pytest.mark.parametrize("names", [["ann", "bob", "eve", "kim"], ["4", "3", "2", "1"]])
def test_a_column_of_groups_in_a_csv_file_is_no_part_of_the_rows(tmp_path: Path, names: list[str]) -> None:
    lines = [f"{i},{names[i % 4]},{i * i},{i % 2}" for i in range(40)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,who,b,label", *lines]))
    data = load(DataSettings(str(path), group="who"))
    assert (data.names, data.shape) == (("a", "b"), (2,))
    assert torch.equal(data.raw, torch.tensor([[i, i * i] for i in range(40)], dtype=torch.float64))
    assert data.labels.tolist() == [i % 2 for i in range(40)]
    expected = np.unique([names[i % 4] for i in range(40)], return_inverse=True)[1]
    assert data.groups.tolist() == expected.tolist()
    described = data.describe()
    assert new_rows(str(path), described, data.tensors())[0].x.shape == (40, 2)
    if names[0] == "4":
        assert read_source(str(path)).x.shape == (40, 3)
        with pytest.raises(UsageError, match="group: expected a column of t beside the rows"):
            load(DataSettings(str(path), group="whom"))
    path.write_text("\n".join(["a,who,b,label", *lines, "1,,2,1"]))
    with pytest.raises(ArrayError, match="line 42, column 2: expected a value of who, got ''"):
        load(DataSettings(str(path), group="who"))
    path.write_text("a,who,who\n1,2,3\n")
    with pytest.raises(ArrayError, match="expected one column named who beside others, got a, who, who"):
        load(DataSettings(str(path), group="who"))


def test_a_column_of_groups_in_an_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(60, 2)), who=np.arange(60) // 5)
    data = load(DataSettings(str(tmp_path / "t.npz"), group="who"))
    assert data.groups.tolist() == [i // 5 for i in range(60)]


def test_a_new_format_is_one_line_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader alone says what it reads, when, and what help and errors tell of it."""
    reader = Reader("a .pair file", "two columns", file_named(".pair"), lambda p: Source(p.stem, np.loadtxt(p)))
    monkeypatch.setattr(readers, "READERS", (*readers.READERS, reader))
    file = tmp_path / "x.pair"
    file.write_text("1 2\n3 4\n5 6\n")
    assert read_source(str(file)).x.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert readers.formats(details=True).endswith(" or a .pair file (two columns)")
    with pytest.raises(UsageError, match=r"or a .pair file, got x.txt"):
        read_source(str(raw(tmp_path, "x.txt", b"1")))


def test_help_names_every_format() -> None:
    """`--data` and its error are written from the registry."""
    assert DataSettings.__doc__ is not None
    for reader in READERS:
        assert f"{reader.what} ({reader.help})" in DataSettings.__doc__
    assert "READERS" not in DataSettings.__doc__
