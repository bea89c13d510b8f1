"""Numbers that come in: nothing of a column is lost before it is scaled, and files that declare too much are refused.

Oracles: `fractions.Fraction` for means and deviations; headers written by hand for files that declare what they do not
hold.
"""

import gzip
import io
import logging
import math
import os
import struct
import tracemalloc
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from test_cli import call
from zprime import memory
from zprime.data import SPLITS, Dataset, DataSettings, Source, load, new_rows, numpy_files, read_source
from zprime.data.blocks import Chosen
from zprime.data.limits import check_unpacked
from zprime.data.scaling import scaled, scaling, standard
from zprime.errors import ArrayError, UsageError
from zprime.latent import Prior
from zprime.sampling import GenerativeModel

TINY = ["--latents", "1", "--hidden", "4", "--epochs", "1", "--batch", "32", "--keep-duplicates", "--quiet"]


def rows_of(data: Dataset) -> torch.Tensor:
    """The scaled rows of all splits in the order of the source."""
    parts = [data.rows(s) for s in SPLITS]
    order = torch.cat([p.ids for p in parts]).argsort()
    return torch.cat([p.x for p in parts])[order]


# Scaling


UNIX = 1_764_382_286 + 5 * np.arange(60)
NEAR = 1e9 + np.where(np.arange(60) % 2, 1.0, -1.0)


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.uint64, np.uint32])
def test_a_unix_time_column_keeps_60_of_60_values(kind: type) -> None:
    x = np.stack([UNIX, UNIX[::-1]], 1).astype(kind)
    assert len(np.unique(x[:, 0].astype(np.float32))) == 3  # what float32 would have left
    data = Dataset(Source("t", x), DataSettings("t"))
    found = rows_of(data)
    assert found.dtype == torch.float32
    assert [len(found[:, j].unique()) for j in (0, 1)] == [60, 60]
    train = [Fraction(int(v)) for v in x[data.ids["train"].numpy(), 0]]
    mean = sum(train) / len(train)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in train) / len(train))
    expected = [float(Fraction(int(v)) - mean) / deviation for v in x[:, 0]]
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=0, atol=1e-6)
    restored = GenerativeModel(Prior(1), _Decoder(), data.shift, data.scale).restore(found)
    assert restored.dtype == torch.float64
    np.testing.assert_allclose(restored.numpy(), x.astype(np.float64), rtol=0, atol=1e-5)


class _Decoder:
    def decode(self, z: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(z, 1.0)


def test_a_billion_plus_minus_one_is_not_the_same_number() -> None:
    data = Dataset(Source("t", NEAR[:, None].copy()), DataSettings("t", keep_duplicates=True))
    train = NEAR[data.ids["train"].numpy()]
    mean, deviation = train.mean(), train.std()
    np.testing.assert_allclose(rows_of(data)[:, 0].numpy(), (NEAR - mean) / deviation, rtol=1e-6)


def test_new_rows_are_scaled_in_float64_too(tmp_path: Path) -> None:
    """Drift is measured on rows that keep as much as those of the run did."""
    np.save(tmp_path / "a.npy", np.stack([UNIX, NEAR], 1).astype(np.float64))
    np.save(tmp_path / "b.npy", np.stack([UNIX + 0.25, NEAR], 1).astype(np.float64))
    data = load(DataSettings(str(tmp_path / "a.npy"), keep_duplicates=True))
    again = new_rows(str(tmp_path / "a.npy"), data.describe(), data.tensors())[0]
    assert torch.equal(again.x, rows_of(data))
    other = new_rows(str(tmp_path / "b.npy"), data.describe(), data.tensors())[0]
    np.testing.assert_allclose((other.x - again.x)[:, 0].numpy(), 0.25 / float(data.scale[0]), rtol=1e-4)


def test_the_hash_covers_what_float32_would_lose() -> None:
    x = np.stack([UNIX, NEAR], 1).astype(np.float64)
    other = x.copy()
    other[17, 0] += 1
    assert np.array_equal(x.astype(np.float32), other.astype(np.float32))
    hashes = [Dataset(Source("t", a), DataSettings("t")).hash for a in (x, other)]
    assert hashes[0] != hashes[1]


def test_float32_rows_and_pixels_are_scaled_as_before() -> None:
    """Bit for bit what was written in float32 before: a trained model does not change."""
    rng = np.random.default_rng(0)
    table = rng.normal(3, 2, (60, 4)).astype(np.float32)
    data = Dataset(Source("t", table), DataSettings("t"))
    train = torch.from_numpy(table)[data.ids["train"]]
    mean, deviation = train.mean(0), train.std(0, correction=0)
    assert torch.equal(rows_of(data), (torch.from_numpy(table) - mean) / deviation)
    assert (data.shift.dtype, data.scale.dtype) == (torch.float32, torch.float32)
    digits = load(DataSettings("digits"))
    assert torch.equal(rows_of(digits), digits.raw / 16)
    assert digits.hash.startswith("7483060bff0d9abe")
    unit = rng.uniform(size=(60, 3))  # in [0, 1], float64: stays
    assert torch.equal(rows_of(Dataset(Source("t", unit), DataSettings("t"))), torch.from_numpy(unit).float())
    counts = rng.integers(0, 900, (60, 3))  # whole numbers that float32 holds
    data = Dataset(Source("t", counts), DataSettings("t"))
    assert data.shift.dtype == torch.float32


def test_values_between_0_and_1_that_float32_cannot_tell_apart_are_standardised() -> None:
    x = np.stack([0.5 + 1e-9 * np.arange(60), np.linspace(0, 1, 60)], 1)
    found = rows_of(Dataset(Source("t", x), DataSettings("t")))
    assert len(found[:, 0].unique()) == 60
    assert float(found.std(0)[0]) == pytest.approx(1, abs=0.1)


@settings(deadline=None, max_examples=200)
@given(
    centre=st.floats(-1e15, 1e15),
    spread=st.sampled_from([1e-300, 1e-30, 1e-3, 1.0, 1e12, 1e150, 1e290]),
    seed=st.integers(0, 100),
    narrow=st.booleans(),
)
def test_mean_and_deviation_are_those_of_exact_fractions(
    centre: float, spread: float, seed: int, *, narrow: bool
) -> None:
    """At any size, also where squares over- or underflow; no value is lost that float64 (or float32) has."""
    x = np.random.default_rng(seed).normal(size=(12, 1)) * spread + centre
    if narrow:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            return
    shift, scale = standard(torch.from_numpy(x))
    exact = [Fraction(float(v)) for v in x[:, 0]]
    mean = sum(exact) / 12
    squares = sum((v - mean) ** 2 for v in exact) / 12
    ulp = 2.0 ** (-24 if shift.dtype == torch.float32 else -52)
    largest = max(map(abs, exact))
    assert abs(Fraction(float(shift[0])) - mean) <= Fraction(8 * ulp) * largest
    if squares == 0:
        assert float(scale[0]) == 1
        return
    off = Fraction(float(scale[0])) ** 2 / squares - 1
    if shift.dtype == torch.float64:
        assert abs(off) < 1e-9
    elif squares > Fraction(1, 10**6) * largest**2:  # else the rounding of a float32 mean is much of it
        assert abs(off) < 1e-4


def test_rows_that_float32_cannot_hold_when_scaled_are_refused() -> None:
    x = np.stack([1e-30 * np.arange(60), np.arange(60.0)], 1)
    data = Dataset(Source("t", x.copy(), test=10), DataSettings("t"))
    assert bool(torch.isfinite(rows_of(data)).all())
    x[55, 0] = 1e30
    says = r"in standard deviations of the training rows, got 1 of 10 rows that lie farther away \(row 5\); see whether"
    with pytest.raises(ArrayError, match=says):
        Dataset(Source("t", x, test=10), DataSettings("t"))
    known = scaling(Chosen.all_of(torch.tensor([[1e-3], [5.0]], dtype=torch.float64)), None)
    with pytest.raises(ArrayError, match=r"got 2 of 2 rows that lie farther away \(row 0, 1\)"):
        scaled(torch.tensor([[1e308], [-1e308]], dtype=torch.float64), *known)


@pytest.mark.parametrize("entries", [(-1.7e308, 1.7e308), (0.0, -1.5e308, 1.5e308)], ids=["two", "first between"])
def test_finite_columns_that_span_more_than_float64_holds_are_refused(entries: tuple[float, ...]) -> None:
    x = np.stack([np.arange(60.0), np.resize(entries, 60)], 1)
    with pytest.raises(
        ArrayError, match=r"data: column 1 \(counted from 0\) spans more than float64 holds .*; give it in another unit"
    ):
        Dataset(Source("t", x), DataSettings("t"))
    pixels = np.linspace(-1, 1, 240).reshape(60, 1, 2, 2) * 0.1e308  # each of them spans little, but not all together
    pixels[:, 0, 0, 0] += 1e308
    pixels[:, 0, 1, 1] -= 1e308
    with pytest.raises(ArrayError, match="data: the pixels span more than float64 holds"):
        Dataset(Source("t", pixels), DataSettings("t"))
    with pytest.raises(ArrayError, match=r"data: entry \[0, 1, 0\] of the rows spans more than float64 holds"):
        Dataset(Source("t", np.resize([0, 0, -1.7e308, 0, 0, 0, 1.7e308, 0], (60, 1, 2, 2))), DataSettings("t"))


def test_float32_columns_whose_squares_overflow_or_vanish_are_standardised() -> None:
    rng = np.random.default_rng(0)
    for unit in (1e30, 1e-30):
        x = (rng.normal(size=(60, 2)) * unit).astype(np.float32)
        found = rows_of(Dataset(Source("t", x), DataSettings("t")))
        assert 0.5 < float(found.std()) < 2


def test_rows_without_columns_are_refused() -> None:
    with pytest.raises(ArrayError, match=r"at least one number in a row, got rows of shape \[0\]"):
        Dataset(Source("t", np.zeros((9, 0))), DataSettings("t"))


def test_whole_numbers_beyond_63_bits_are_refused() -> None:
    x = np.full((9, 1), 2**63, dtype=np.uint64) + np.arange(9, dtype=np.uint64)[:, None]
    with pytest.raises(ArrayError, match="expected whole numbers below 2.63, got 9223372036854775816"):
        Dataset(Source("t", x), DataSettings("t"))


@pytest.mark.parametrize(("column", "kept"), [(UNIX, 60), (NEAR, 2)], ids=["UNIX time", "1e9 +- 1"])
def test_samples_of_such_a_column_are_written_in_float64(column: np.ndarray, kept: int, tmp_path: Path) -> None:
    """From a .csv file through training to samples, by the commands."""
    file = tmp_path / "t.csv"
    file.write_text("time,x\n" + "".join(f"{t!r},{math.sin(i)!r}\n" for i, t in enumerate(column.tolist())))
    assert call("train", "--data", file, "--out", tmp_path / "run", *TINY) == 0
    assert call("sample", tmp_path / "run", "--from", "prior", "-n", "20", "--noise", "draw", "--quiet") == 0
    x = np.load(next((tmp_path / "run" / "samples").glob("*.npz")))["x"]
    assert x.dtype == np.float64
    assert len(np.unique(x[:, 0])) == 20
    assert abs(x[:, 0].mean() - column.mean()) < 3 * column.std()
    assert 0.2 * column.std() < x[:, 0].std() < 5 * column.std()
    assert len(np.unique(column)) == kept


# Tables


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NA,1,2\n3,4,5\n", "line 1, column 1: expected numbers alone, or names alone, got 'NA'"),
        ("1,null,2\n3,4,5\n", "line 1, column 2: expected numbers alone, or names alone, got 'null'"),
        ("1,,2\n3,4,5\n", "line 1, column 2: expected numbers alone, or names alone, got ''"),
        ("NA,NaN\n3,4\n", "line 1, column 1: expected numbers alone, or names alone, got 'NA'"),
        ("1,1.2.3\n3,4\n", "line 1, column 2: .* got '1.2.3' beside others; if this line is a row, correct that cell"),
        ("1.2.3\n3\n", "line 1: expected a number or a name, got '1.2.3'; correct it"),
        ("1,3O\n3,4\n", "line 1, column 2: expected numbers alone"),
        ("height,2019\n3,4\n", r"got 'height' beside others; .* none may be a number \('2019'\)"),
        ("a,inf,3\n3,4,5\n", r"line 1, column 1: .* got 'a' beside others; .* none may be a number \('3'\)$"),
        ("Na,1,b\n3,4,5\n", r"line 1, column 1: .* got 'Na' beside others; .* none may be a number \('1'\)$"),
        ("inf,2,Mg\n3,4,5\n", "line 1, column 1: expected numbers alone, or names alone, got 'inf'"),
        ("1,-\n3,4\n", "line 1, column 2: expected numbers alone, or names alone, got '-'"),
        ("?,n/a\n3,4\n", r"line 1, column 1: .* got '\?' .*; if it holds .* not all may be words for missing values$"),
        ("NA\n3\n", "line 1: expected a number or a name, got 'NA'; fill it in, or leave the line out"),
        ("Na,,b\n1,2,3\n", "line 1, column 2: expected a name"),
        ("nan,2\n3,4\n", "line 1, column 1: expected a finite number, got nan"),
        ("a,b,a\n1,2,3\n", "line 1: expected a different name for each column, got 'a' in columns 1 and 3"),
        (" a,a \n1,2\n", "line 1: expected a different name for each column, got 'a' in columns 1 and 2"),
        ("a,,b\n1,2,3\n", "line 1, column 2: expected a name"),
        ("a,b\x07\n1,2\n", "line 1, column 2: expected a name that can be printed"),
        ("a,b\n1,2\n3\n", "line 3: expected 2 cells, as in the first line, got 1$"),
        ("a,b\n1,5,2,5\n", "line 2: expected 2 cells, .* got 4; decimals need a point, not a comma"),
        ('a,b\n"1,5",2\n', r"line 2, column 1: expected a number, got '1,5'; write decimals with a point \(1.5\)"),
        ("1,5;2,5\n3,5;4,5\n", "put commas between the columns, and points before decimals"),
        ("a,b\n1,NULL\n", "line 2, column 2: expected a number, got 'NULL'; fill it in, or leave the line out"),
        ("a,b\n1,2020-01-31\n", "line 2, column 2: expected a number, got '2020-01-31'"),
        ('a,b\n"1,2\n3,4\n', r"not a readable .csv file \(unexpected end of data\); look for a quote"),
        ("a,b\n" + "1" * 200_000 + ",2\n", r"line 2: not a readable .csv file \(field larger than field limit"),
        ("a_1,b_2\n1,2\n3,4_5\n", "line 3, column 2: expected a number, got '4_5'; correct it, or leave the line out"),
        ("1_000,2\n3,4\n", "line 1, column 1: expected numbers alone, or names alone, got '1_000'"),
        ("4_5,5_6\n3,4\n", r"line 1, column 1: .* none may be a number \('4_5'\)"),
        ("1,2\n3,٣\n", "line 2, column 2: expected a number, got '٣'; correct it, or leave the line out"),
        ('a,b\n1,"\n4_5"\n', r"column 2: expected a number, got '\\n4_5'"),
        ("größe,b\n1,2\n".encode("latin-1"), r"not a readable .csv file in UTF-8 .* save it with the encoding UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"not a readable .csv file in UTF-8 .* save it with the encoding UTF-8"),
    ],
)
def test_a_first_line_is_a_header_or_a_row_and_never_guessed(text: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ArrayError, match=says):
        read_source(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("header", ["RI,Na,Mg,Al", "inf,Na,-,Al", "None,b,NaN,?", "NA,n/a,null,d"])
def test_a_word_for_a_missing_number_is_a_name_among_names(header: str, tmp_path: Path) -> None:
    """Sodium (`Na`) is a column of a well-known table of kinds of glass."""
    (tmp_path / "t.csv").write_text(f"{header}\n1,2,3,4\n5,6,7,8\n")
    found = read_source(str(tmp_path / "t.csv"))
    assert found.names == tuple(header.split(","))
    assert found.x.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_names_in_quotes_over_two_lines_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbf"body\nheight","e1"\r\n1,"2"\r\n3,4\r\n')
    found = read_source(str(tmp_path / "t.csv"))
    assert (found.names, found.x.tolist()) == (("body height", "e1"), [[1, 2], [3, 4]])


def test_no_row_of_a_table_is_taken_for_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a first row with NA was the header before, 59 of 60 rows were trained on and nothing was said."""
    lines = [f"{i},{i * i}" for i in range(60)]
    lines[0] = "NA,7"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert call("train", "--data", tmp_path / "t.csv", "--out", tmp_path / "run", *TINY) == 5
    assert "line 1, column 1: expected numbers alone" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "model").exists()


# Labels


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0.0, np.nan, 1.0, np.nan], r"expected a label in every row, got nan in row 1 \(2 of 4 rows\)"),
        ([0.0, 1.0, np.inf, 1.0], r"got inf in row 2"),
        (["a", "", "b", "c"], r"got '' in row 1"),
        (["a", "b", "NaN", "c"], r"got 'NaN' in row 2"),
        (["a", "b", "n/a", "?"], r"got 'n/a' in row 2 \(2 of 4 rows\)"),
        (["01", "2", "1", "2"], "expected one spelling of each label, got '01' and '1'"),
        (np.array(["2020-01-31", "NaT", "2020-02-01", "NaT"], "M8[D]"), r"got NaT in row 1 \(2 of 4 rows\)"),
        (np.array([5, 6, "NaT", 7], "m8[s]"), r"got NaT in row 2"),
    ],
)
def test_labels_that_are_missing_are_named(labels: list[object], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.arange(8.0).reshape(4, 2), y=np.array(labels))
    with pytest.raises(ArrayError, match=says):
        load(DataSettings(str(tmp_path / "t.npz")))


def test_whole_labels_in_floats_mean_what_they_say(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    for labels, expected in (([3.0, 9, 3, 7, 7, 9], [3, 9, 3, 7, 7, 9]), ([0.5, 2, 0.5, 1, 1, 2], [0, 2, 0, 1, 1, 2])):
        np.savez(tmp_path / "t.npz", x=x, y=np.array(labels))
        assert load(DataSettings(str(tmp_path / "t.npz"))).labels.tolist() == expected


def labelled(path: Path, labels: list[str], name: str = "label") -> DataSettings:
    """A table of 12 rows with these labels in turn."""
    rows = [f"{i},{i * i},{labels[i % len(labels)]}" for i in range(12)]
    path.write_text("\n".join([f"a,b,{name}", *rows]))
    return DataSettings(str(path), group=name if name != "label" else "")


@pytest.mark.parametrize("word", ["NA", "N/A", "null", "None", "nan", "?", "-", "", " na "])
def test_words_for_nothing_are_no_labels_and_no_groups(word: str, tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="line 4, column 3: expected a label, got "):
        load(labelled(tmp_path / "t.csv", ["1", "2", word]))
    with pytest.raises(ArrayError, match="line 4, column 3: expected a value of who, got "):
        load(labelled(tmp_path / "t.csv", ["1", "2", word], "who"))


def test_spellings_of_a_label_are_never_merged(tmp_path: Path) -> None:
    for same in (["01", "1", "001"], ["+1", "1"], ["0", "-0"]):
        with pytest.raises(ArrayError, match="expected one spelling of each label, got '.*1?' and"):
            load(labelled(tmp_path / "t.csv", same))
        with pytest.raises(ArrayError, match="column who: expected one spelling of each group, got"):
            load(labelled(tmp_path / "t.csv", same, "who"))
    for written, expected in (
        (["3", "-7", "3"], [3, -7, 3]),
        (["01", "02", "03"], [1, 2, 3]),
        (["10", "1_0", "3"], [0, 1, 2]),  # names, sorted
        (["9" * 5000, "1", "a"], [1, 0, 2]),
    ):
        assert load(labelled(tmp_path / "t.csv", written)).labels.tolist() == 4 * expected


def test_lines_that_are_read_together_hide_no_number_that_is_none(tmp_path: Path) -> None:
    """The first line of a row in quotes may have been read before those of its end."""
    plain = "1.25,2.5\n" * 20_000
    (tmp_path / "t.csv").write_text(plain + '3,"4_5\n"\n' + plain)
    with pytest.raises(ArrayError, match=r"line 2000., column 2: expected a number, got '4_5"):
        read_source(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text(plain + '3," 4.5"\n' + plain)
    assert read_source(str(tmp_path / "t.csv")).x[19_999:20_001].tolist() == [[1.25, 2.5], [3, 4.5]]


# Files that declare more than they hold


def header(shape: str, kind: str = "'<f8'") -> bytes:
    """The header of a .npy file that says whatever it is told to."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (10 + len(text)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def refused(path: Path, says: str) -> None:
    """It is refused with these words, and without 64 MB of anything."""
    tracemalloc.start()
    try:
        with pytest.raises(ArrayError, match=says):
            read_source(str(path))
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", ["(1000000000000, 8)", "(9, 3)", "(2, 1)", "(99999999999999999999, 99999999999)"])
def test_arrays_that_declare_another_size_than_they_have_are_refused(shape: str, tmp_path: Path) -> None:
    content = header(shape) + bytes(8 * 8)
    (tmp_path / "x.npy").write_bytes(content)
    refused(tmp_path / "x.npy", "x.npy: its header declares .* and 64 follow; the file is damaged or incomplete")
    refused(zipped(tmp_path / "x.npz", x=content), "x.npz, x.npy: its header declares .* and 64 follow")


@pytest.mark.parametrize("shape", ["(-1, 8)", "(True, 8)", "'no'", "(2,"])
def test_arrays_whose_shape_is_none_are_refused(shape: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(header(shape) + bytes(64))
    refused(tmp_path / "x.npy", "x.npy: (not a readable .npy file|its header declares)")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """320 MB of zeros in 2 MB: the size that the archive declares is enough to know."""
    path, rows = tmp_path / "x.npz", 5_000_000
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(header(f"({rows}, 8)"))
        for _ in range(40):
            file.write(bytes(rows * 8 // 5))
    assert path.stat().st_size < 2e6
    refused(path, r"x.npz: unpacks from .* to 320.0 MB, \d+ times as much; data that hold something do not")


def test_who_wants_a_zip_bomb_is_told_how_to_unpack_it() -> None:
    """An IDX file that was unpacked is still an IDX file, and no .npy file."""
    with pytest.raises(ArrayError, match=r"unpack it yourself \(.gz: gunzip; .npz: save the arrays as .npy\)$"):
        check_unpacked("train-images-idx3-ubyte.gz", 300_000_000, 1_000_000)


def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 4 MB free, 8 MB are too much in every format, and 0.8 MB are not."""
    rng = np.random.default_rng(0)
    for n, fits in ((1000, True), (10_000, False)):
        x = rng.integers(0, 256, (n, 10, 10)).astype(np.float64)
        np.save(tmp_path / "x.npy", x)
        np.savez_compressed(tmp_path / "x.npz", x=x)
        folder = tmp_path / f"idx{n}"
        folder.mkdir()
        pixels = np.repeat(x, 8, axis=0).astype(np.uint8)
        content = struct.pack(">HBB3I", 0, 8, 3, *pixels.shape) + pixels.tobytes()
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        monkeypatch.setattr(memory, "available", lambda: 4_000_000)
        for path in (tmp_path / "x.npy", tmp_path / "x.npz", folder):
            if fits:
                assert len(read_source(str(path)).x) in (n, 8 * n)
            else:
                refused(path, r"8.0 MB when unpacked, and 4.0 MB of memory are free")


def test_archives_that_hide_or_repeat_arrays_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.arange(12.0).reshape(6, 2))
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", content.getvalue())
    with pytest.raises(ArrayError, match="got two named x; write the file again"):
        read_source(str(path))
    with zipfile.ZipFile(path, "w") as archive:  # numpy calls both `x`
        archive.writestr("x.npy", content.getvalue())
        archive.writestr("x", content.getvalue())
    with pytest.raises(ArrayError, match="got two named x; write the file again"):
        read_source(str(path))
    for file in ("x.npy", "x.npz"):
        (tmp_path / file).write_bytes(header("(2, 1)", "'|O'") + bytes(16))
        with pytest.raises(ArrayError, match=r"not a readable .np[yz] file of numbers \("):
            read_source(str(tmp_path / file))
    zipped(tmp_path / "z.npz", x=header("(2, 1)", "'|O'") + bytes(16))
    (tmp_path / "z.npy").write_bytes((tmp_path / "z.npz").read_bytes())
    for file in ("z.npy", "z.npz"):
        with pytest.raises(ArrayError, match=r"not a readable .np[yz] file of numbers \("):
            read_source(str(tmp_path / file))


def test_an_archive_of_many_members_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name was compared with each other before, and free memory asked for each: 30,000 members took 30 s."""
    looked, asked = [], []
    monkeypatch.setattr(memory, "available", lambda: asked.append(0) or 1 << 30)
    real = numpy_files._name
    monkeypatch.setattr(numpy_files, "_name", lambda member: looked.append(member) or real(member))
    content = io.BytesIO()
    np.save(content, np.arange(12.0).reshape(6, 2))
    path = zipped(tmp_path / "x.npz", **{f"x{i}": content.getvalue() for i in range(200)}, x=content.getvalue())
    assert read_source(str(path)).x.shape == (6, 2)
    assert (len(looked), len(asked)) == (2 * 201, 1)
    zipped(path, **{f"x{i}": content.getvalue() for i in range(200)})
    with pytest.raises(ArrayError, match=r"expected an array named x or x_train, got x0, .*, x9, \.\.\.$"):
        read_source(str(path))


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_order_of_bytes_changes_no_number(order: str, tmp_path: Path) -> None:
    """2^63 + 5 became negative where bytes stood in the other order, before it could be refused."""
    np.save(tmp_path / "x.npy", np.array([[1, 2], [2**63 + 5, 3], [4, 5]], f"{order}u8"))
    with pytest.raises(ArrayError, match="expected whole numbers below 2.63, got 9223372036854775813"):
        load(DataSettings(str(tmp_path / "x.npy")))
    for kind in ("f2", "f4", "f8", "i2", "i8", "u2", "u4", "u8"):
        np.save(tmp_path / "x.npy", np.array([[1, 2], [7, 3], [4, 5]], order + kind))
        found = read_source(str(tmp_path / "x.npy")).x
        assert found.dtype == np.dtype(kind)
        assert found.tolist() == [[1, 2], [7, 3], [4, 5]]


def test_idx_files_that_declare_what_they_cannot_hold_are_refused(tmp_path: Path) -> None:
    def write(shape: tuple[int, ...], content: bytes, *, packed: bool) -> None:
        for old in tmp_path.glob("train*"):
            old.unlink()
        whole = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + content
        name = tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
        name.write_bytes(gzip.compress(whole) if packed else whole)

    huge = (2**32 - 1, 2**32 - 1, 2)  # a product beyond 64 bits
    write(huge, bytes(9), packed=False)
    refused(tmp_path, r"expected 36893488130239234050 bytes for shape \[4294967295, 4294967295, 2\], got 9")
    write(huge, bytes(9), packed=True)
    refused(tmp_path, "declares .* more than .* on disk can hold")
    write((2, 2, 2), bytes(100_000), packed=True)
    refused(tmp_path, r"expected 8 bytes for shape \[2, 2, 2\], got at least 65544")
    none = r"expected labels of shape \[n\] or images of shape \[n, height, width\], none of these 0, got "
    write((), b"1", packed=False)
    refused(tmp_path, none + r"\[\] \(0 sizes\)")
    for packed in (False, True):
        write((1,) * 65, b"1", packed=packed)
        refused(tmp_path, none + r"\[1, 1, 1, 1, 1, ...\] \(65 sizes\); fetch the file again")
        write((0, 2**32 - 1, 2**32 - 1, 2**32 - 1), b"", packed=packed)
        refused(tmp_path, none + r"\[0, 4294967295, 4294967295, 4294967295\] \(4 sizes\)")
        write((0, 2**32 - 1, 2**32 - 1), b"", packed=packed)
        refused(tmp_path, none + r"\[0, 4294967295, 4294967295\] \(3 sizes\)")
    write((9,), bytes(9), packed=False)
    refused(tmp_path, r"expected images of shape \[n, height, width\], got \[9\]")


def png(width: int, height: int) -> bytes:
    """A grey PNG that says it is so large, with next to nothing in it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_images_are_measured_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(60_000, 60_000))
    refused(tmp_path, r"a.png: not a readable image in PNG or JPEG \(Image size \(3600000000 pixels\) exceeds limit")
    (tmp_path / "a.png").write_bytes(png(10_000, 10_000))  # of which PIL only warns
    refused(tmp_path, r"a.png: not a readable image in PNG or JPEG \(Image size \(100000000 pixels\) exceeds limit")
    monkeypatch.setattr(memory, "available", lambda: 100_000_000)
    for i in range(3):
        (tmp_path / f"{'abc'[i]}.png").write_bytes(png(2000, 2000))
    refused(tmp_path, "3 images of 2000 x 2000: 36.0 MB when unpacked, and 100.0 MB of memory are free")
    (tmp_path / "a.png").write_bytes(png(6000, 6000))  # of many that are large one alone is in memory
    refused(tmp_path, "a.png: 6000 x 6000: 108.0 MB when unpacked, and 100.0 MB of memory are free")
    monkeypatch.setattr(memory, "available", lambda: 1_000_000_000)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.png")
    refused(tmp_path, "a.png: expected images of one size, 4 x 4 as 0.png, got 6000 x 6000")


def test_hidden_images_are_left_out_with_a_warning_that_counts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    names = ["cat/1.png", "ant/1.png", "cat/2.png", ".hidden.png", ".git/1.png", "cat/.ipynb_checkpoints/1.png"]
    for name in [*names, "__MACOSX/cat/1.png", "__MACOSX/cat/._2.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4)).astype(np.uint8)).save(tmp_path / name)
    with caplog.at_level(logging.WARNING, "zprime"):
        found = read_source(str(tmp_path))
    assert (len(found.x), found.y.tolist()) == (3, [0, 1, 1])
    assert "left out 5 hidden images, in .git, __MACOSX/cat, cat/.ipynb_checkpoints" in caplog.text
    (tmp_path / "d.png").mkdir()  # a folder is none, whatever it is called
    (tmp_path / "e.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(ArrayError, match=r"e.png: expected an image file, got none"):
        read_source(str(tmp_path))
    (tmp_path / "e.png").unlink()
    os.mkfifo(tmp_path / "e.png")  # it would be waited for, forever
    with pytest.raises(ArrayError, match=r"e.png: expected an image file, got none"):
        read_source(str(tmp_path))
    only = tmp_path / "only"
    (only / ".git").mkdir(parents=True)
    (tmp_path / "cat" / "1.png").rename(only / ".git" / "1.png")
    with pytest.raises(UsageError, match="or .parquet, .npy or .tar files, found none"):
        read_source(str(only))
