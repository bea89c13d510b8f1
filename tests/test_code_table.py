"""Codes as a table: what each column is, that no training row has a distance, and the file that other tools read."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from zprime import code_table, codes_table
from zprime.cli import main
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.latent import Gaussian, Prior
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

SIZES = {"train": 50, "selection": 20, "heldout": 30}


def made(d: int = 3) -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    posteriors, rows = {}, {}
    for i, (split, n) in enumerate(SIZES.items()):
        mean = torch.randn(n, d, generator=stream(i, "codes")) * torch.tensor([1.0, 5.0, 0.1])[:d]
        ids = 100 * i + torch.arange(n)
        posteriors[split] = MemoryPosteriors(mean, torch.full_like(mean, 0.2), row_ids=ids, labels=ids % 3)
        rows[split] = Rows(split, torch.randn(n, 4, generator=stream(i, "rows")), ids)
    return posteriors, rows


def test_every_column_is_what_it_says() -> None:
    posteriors, rows = made()
    r = Gaussian(torch.ones(3).double(), 2 * torch.ones(3).double())
    table = codes_table(posteriors, r, rows=rows)
    codes = torch.cat([p.mean for p in posteriors.values()]).double()
    assert len(table) == 100
    assert table.columns["split"].tolist() == ["train"] * 50 + ["selection"] * 20 + ["heldout"] * 30
    ids = np.concatenate([p.row_ids.numpy() for p in posteriors.values()])
    np.testing.assert_array_equal(table.columns["row_id"], ids)
    np.testing.assert_array_equal(table.columns["label"], ids % 3)
    right = (codes.square() - ((codes - 1) / 2).square()).sum(1) / 2 - 3 * np.log(2)
    np.testing.assert_allclose(table.columns["log_ratio"], right, rtol=1e-6)
    assert table.says == {"r": r.label, "density": "exact", "prior": "N(0, I)", "unit": "nats"}
    centred = codes - posteriors["train"].mean.double().mean(0)
    for name, axis in (("x", 1), ("y", 0)):  # by planted variance: the second dimension first, and no axis is mixed
        assert abs(np.corrcoef(table.columns[name], centred[:, axis])[0, 1]) > 0.97
    distances = torch.cdist(torch.cat([rows["selection"].x, rows["heldout"].x]), rows["train"].x).min(1).values
    np.testing.assert_allclose(table.columns["distance"][50:], distances, rtol=1e-5)


def test_training_rows_have_no_distance() -> None:
    """Whatever the order of the splits: those that stand out among what the model has seen are not named."""
    posteriors, rows = made()
    backwards = dict(reversed(posteriors.items()))
    for given in (posteriors, backwards):
        columns = codes_table(given, Prior(3), rows=rows).columns
        assert np.isnan(columns["distance"][columns["split"] == "train"]).all()
        assert not np.isnan(columns["distance"][columns["split"] != "train"]).any()


def test_what_is_not_known_is_left_out() -> None:
    class NoDensity(Gaussian):
        density_of_kind = "none"

    posteriors, rows = made()
    bare = {s: MemoryPosteriors(p.mean, p.scale, row_ids=p.row_ids) for s, p in posteriors.items()}
    r = NoDensity(torch.ones(3).double(), torch.ones(3).double())
    assert set(codes_table(bare, r).columns) == {"row_id", "split", "x", "y"}
    flat = codes_table(made(d=1)[0], Prior(1))
    assert not flat.columns["y"].any()
    np.testing.assert_allclose(codes_table(posteriors, Prior(3), prior=Prior(3)).columns["log_ratio"], 0)
    with pytest.raises(UsageError, match="posteriors: expected train among them, got heldout"):
        codes_table({"heldout": posteriors["heldout"]}, Prior(3))
    with pytest.raises(ArrayError, match="rows: expected the train rows in the order of their posteriors"):
        codes_table(posteriors, Prior(3), rows={**rows, "train": rows["heldout"]})


def test_a_row_for_each_draw_is_one_for_each_datum() -> None:
    """As `bring.draws` has them, in whatever order; the distances are those of one row a datum."""
    posteriors, rows = made()
    want = codes_table(posteriors, Prior(3), rows=rows).columns
    for at in (torch.arange(50).repeat(2), torch.arange(50).repeat_interleave(2)):
        drawn, many = dict(posteriors), dict(rows)
        for split, p in posteriors.items():
            some = at[at < p.n]
            drawn[split] = MemoryPosteriors(p.mean[some], None, row_ids=p.row_ids[some], labels=p.row_ids[some] % 3)
            many[split] = rows[split].take(some)
        for given in (rows, many):
            found = codes_table(drawn, Prior(3), rows=given).columns
            assert found["row_id"].tolist() == want["row_id"].tolist()
            np.testing.assert_allclose(found["distance"], want["distance"], rtol=1e-6)
    other = {**many, "heldout": many["heldout"].take(torch.arange(59, -1, -1))}
    with pytest.raises(ArrayError, match="rows: expected the heldout rows in the order of their posteriors"):
        codes_table(drawn, Prior(3), rows=other)


def test_the_file_has_the_columns_with_nothing_for_training_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed: no pyarrow")
    posteriors, rows = made()
    table = codes_table(posteriors, Prior(3), rows=rows)
    found = parquet.read_table(table.save(tmp_path / "there" / "codes.parquet"))
    assert found.column("distance").null_count == 50
    assert found.column("distance").to_pylist()[:50] == [None] * 50
    for name, values in table.columns.items():
        kept = found.column(name).to_pylist()
        assert (kept[50:] if name == "distance" else kept) == (values[50:] if name == "distance" else values).tolist()
    assert json.loads(found.schema.metadata[b"zprime"])["r"] == "prior"
    with pytest.raises(UsageError, match=r"out: expected a path that ends in .parquet"):
        table.save(tmp_path / "codes.csv")


def call(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["--quiet", *map(str, argv)])
    code = end.value.code
    return code if isinstance(code, int) else 1


def test_the_command_writes_the_codes_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed: no pyarrow")
    job, audit = small.run(tmp_path / "run", small.table(tmp_path / "rows.npz"))
    capsys.readouterr()
    assert call("--json", "codes", job.path) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["command"] == f"embedding-atlas {job.path}/codes.parquet --x x --y y"
    found = parquet.read_table(job.path / "codes.parquet").to_pydict()
    assert len(found["row_id"]) == said["n"] == sum(audit.data.sizes.values())
    assert set(found) == {"row_id", "split", "label", "x", "y", "log_ratio", "distance"}
    assert [d is None for d in found["distance"]] == [s == "train" for s in found["split"]]
    (tmp_path / "rows.npz").rename(tmp_path / "away.npz")  # no rows are needed without distances
    assert call("codes", job.path, "--no-distances", "--from", "gaussian", "--out", tmp_path / "c.parquet") == 0
    assert "distance" not in parquet.read_table(tmp_path / "c.parquet").column_names
    for out in (tmp_path / "c.txt", job.path / "audit.parquet" / ".."):
        assert call("codes", job.path, "--no-distances", "--out", out) == 2


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'pyarrow'")

    table = codes_table(made()[0], Prior(3))
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"expected pyarrow to be installed.*; run: pip install 'zprime.parquet.'"):
        table.save(tmp_path / "codes.parquet")
    with pytest.raises(UsageError, match="expected pyarrow"):
        code_table.library("pyarrow.parquet")
    assert not list(tmp_path.iterdir())
