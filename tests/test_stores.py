"""Parquet at addresses: the rows of the same files on disk, through the file systems of pyarrow."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zprime.data import DataSettings, load, read_source, weighed_by
from zprime.data.stores import check_address, is_address, is_missing, last_name, places_at, shown
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.run_data import RunData
from zprime.run_folder import RunFolder
from zprime.running import Run
from zprime.training import TrainSettings
from zprime.vae import VAESettings

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
fs = pytest.importorskip("pyarrow.fs")

X = np.random.default_rng(0).normal(3, 2, (60, 2))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    (folder / "more").mkdir(parents=True)
    for i, part in enumerate((slice(0, 25), slice(25, 60))):
        columns = {"a": X[part, 0], "b": X[part, 1], "w": np.arange(60)[part] + 1.0}
        parquet.write_table(pa.table(columns), folder / f"{i}.parquet")
    (folder / ".2.parquet").write_bytes(b"hidden")
    (folder / "read.me").write_text("not read")
    return folder


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, shards: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the shards: pyarrow's own of a path on disk, and a bucket that lies on disk."""
    if request.param == "file":
        return f"file://{shards}"

    class Bucket:
        FileSelector, FileType = fs.FileSelector, fs.FileType

        class FileSystem:
            @staticmethod
            def from_uri(address: str) -> Any:
                return fs.SubTreeFileSystem(str(shards.parent), fs.LocalFileSystem()), address.partition("bucket/")[2]

    names = {"pyarrow.fs": Bucket}
    library = __import__("zprime.data.parquet_files", fromlist=["library"])
    real = library.library
    monkeypatch.setattr(library, "library", lambda module: names.get(module) or real(module))
    return "s3://bucket/shards"


def test_rows_at_an_address_are_those_on_disk(store: str, shards: Path) -> None:
    for data, aside in ((store, ()), (f"{store}/1.parquet", ("w",))):
        path = shards if data == store else shards / "1.parquet"
        if data == store:  # the folder on disk has no folders in it
            (shards / "more").rmdir()
        here, there = read_source(str(path), aside), read_source(data, aside)
        assert (there.name, there.names) == (here.name, here.names)
        assert np.array_equal(there.x, here.x)
        assert {k: v.tolist() for k, v in there.columns.items()} == {k: v.tolist() for k, v in here.columns.items()}


def test_a_table_at_an_address_has_columns_that_are_set_aside(store: str, shards: Path) -> None:
    settings = weighed_by(DataSettings(store), "w")
    assert settings.aside == "w"
    assert load(settings).names == ("a", "b")


def test_a_run_reads_its_rows_at_the_address_again(store: str, shards: Path, tmp_path: Path) -> None:
    run, network = Run(RunFolder(tmp_path / "run")), (VAESettings(latents=1, hidden=(4,)), TrainSettings(epochs=1))
    data = DataSettings(store, aside="w")
    run.train(data, *network, seed=0)
    folder = RunFolder(tmp_path / "run")
    assert folder.data.source == store
    assert folder.data.config["settings"]["data"] == "shards"
    assert folder.dataset.hash == load(data).hash
    # the same rows on disk are the same data
    (shards / "more").rmdir()
    again = Run(RunFolder(tmp_path / "run"))
    again.train(
        DataSettings(str(shards), aside="w"), VAESettings(latents=1, hidden=(4,)), TrainSettings(epochs=1), seed=0
    )
    assert again.folder.data.hash == folder.data.hash
    parquet.write_table(pa.table({"a": X[:, 1], "b": X[:, 0], "w": X[:, 0] + 9}), shards / "0.parquet")
    with pytest.raises(ArtifactError, match="these are not the rows that the run"):
        RunData(tmp_path / "run", RunFolder(tmp_path / "run").data).load()


def test_what_is_wrong_is_called_by_its_address(store: str, shards: Path) -> None:
    parquet.write_table(pa.table({"a": [np.nan], "b": [1.0], "w": [1.0]}), shards / "3.parquet")
    scheme = store.split("://")[0]
    with pytest.raises(ArrayError, match=rf"{scheme}://.*shards/3.parquet, column a: expected a finite number"):
        read_source(store)
    (shards / "3.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArrayError, match=rf"{scheme}://.*shards/3.parquet: not a readable .parquet file"):
        read_source(store)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("/nowhere", r"data: .*/nowhere does not exist; see whether the address, the region and the credentials"),
        ("/more", r"expected a .parquet file or a folder of them at .*/more, got none; other formats are read from di"),
        ("/read.me", r"expected a .parquet file or a folder of them at .*/read.me, got none"),
    ],
)
def test_what_is_not_there_is_said(store: str, more: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_source(store + more)


def test_an_address_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data: nothing://bucket/x cannot be reached \(.*\); see whether the address"):
        read_source("nothing://bucket/x")


@pytest.mark.parametrize(
    "address",
    [
        "s3://me:s3cr3t@bucket/x.parquet",
        "s3://AKIA:abc/s3cr3t@bucket/x",
        "s3://AKIA:s3cr3t/a@b@bucket/x?region=eu-west-1",
        "S3://AKIA:ab#s3cr3t@bucket/x",
        "s3://AKIA:ab?s3cr3t@bucket/x",
        "s3://AKIA:s3cr3t?a=b@bucket/x",
        "s3://AKIA%3as3cr3t@bucket/x",
        "s3://bucket/x?secret_key=s3cr3t",
        "s3://bucket/x?region=eu-west-1&access_key=s3cr3t",
        "s3://bucket/x?endpoint_override=me:s3cr3t@host",
        "s3://bucket/x#s3cr3t",
        "abfs://:s3cr3t@account.dfs.core.windows.net/x",
        "abfs://c@account.dfs.core.windows.net/x?sv=2022&sig=s3cr3t",
        "abfs://c@account.dfs.core.windows.net/x?tenant_id=1&client_secret=s3cr3t",
    ],
)
def test_an_address_that_may_hold_a_secret_is_refused_and_not_shown(address: str) -> None:
    says = r"expected an address (without a password|with no other options than region, .*), which a run would write"
    same = DataSettings(address, heldout_data=address)
    for refused in (lambda: read_source(address), DataSettings("digits", heldout_data=address).check, same.check):
        with pytest.raises(UsageError, match=says) as error:
            refused()
        assert not any(word in str(error.value) for word in ("s3cr3t", "AKIA", "2022"))
    assert not any(word in shown(address) for word in ("s3cr3t", "AKIA", "2022"))


def test_an_error_shows_neither_options_nor_what_a_store_says(store: str) -> None:
    key = "k3y"
    place = f"{store}/nowhere?region=eu-west-1" if store.startswith("s3") else f"abc://{key}@bucket/x?region=eu-west-1"
    with pytest.raises(UsageError) as error:
        read_source(place)
    assert "eu-west" not in str(error.value)
    assert key not in str(error.value)

    class Store:
        FileSelector, FileType = fs.FileSelector, fs.FileType

        class FileSystem:
            @staticmethod
            def from_uri(address: str) -> Any:
                raise OSError(f"{address}: AWS Error ACCESS_DENIED during HeadObject operation: {key}")

    with pytest.raises(
        UsageError, match=r"data: s3://b/x cannot be reached \(AWS Error ACCESS_DENIED during HeadOb"
    ) as e:
        places_at(Store, f"s3://{key}@b/x?scheme=http", ".parquet")
    assert key not in "".join(traceback.format_exception(e.value))


def test_what_pyarrow_takes_is_taken() -> None:
    for address in (
        "s3://b/f/x:1.parquet?region=eu-west-1&scheme=http&endpoint_override=localhost:9000",
        "gs://anonymous@b/x?retry_limit_seconds=3",
        "abfs://c@account.dfs.core.windows.net:10000/x?enable_tls=false",
        "s3://b/x?",
        "/home/me:you@here#1?sig=2",
    ):
        check_address(address)
    assert shown("abfs://c@account.net/x?enable_tls=false") == "abfs://account.net/x"
    assert shown("/me@x?y#z") == "/me@x?y#z"


def test_addresses_are_told_from_paths() -> None:
    assert [is_address(d) for d in ("s3://b/x", "gs://b", "file:///x", "/x://y", "x", "c:/x", "")] == [True] * 3 + [
        False
    ] * 4
    assert [last_name(d) for d in ("s3://b/f/x.parquet?region=eu", "/f/x.npy", "digits")] == [
        "x.parquet",
        "x.npy",
        "digits",
    ]
    assert [is_missing(d) for d in ("s3://b/x", "/nowhere", "digits", "", "/")] == [False, True, False, False, False]
