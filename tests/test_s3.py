"""Parquet in S3, as moto's server plays it; in an environment of its own: `make store-tests`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from zprime.data import DataSettings, load, read_source
from zprime.errors import UsageError

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(0).normal(3, 2, (90, 3))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The options that lead to a bucket with three files."""
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as changed:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            changed.setenv(name, "testing")
        changed.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        try:
            host, port = server.get_host_and_port()
            s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
            s3.create_bucket(Bucket="rows")
            for i in range(3):
                file = folder / f"{i}.parquet"
                columns = {name: X[30 * i : 30 * i + 30, j] for j, name in enumerate("abc")}
                parquet.write_table(pa.table(columns), file, row_group_size=7)
                s3.upload_file(str(file), "rows", f"shards/{i}.parquet")
            yield f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        finally:
            server.stop()


def test_shards_in_s3_are_one_table(bucket: str) -> None:
    found = read_source(f"s3://rows/shards{bucket}")
    assert (found.name, found.names) == ("shards", ("a", "b", "c"))
    assert np.array_equal(found.x, X)
    assert np.array_equal(read_source(f"s3://rows/shards/1.parquet{bucket}").x, X[30:60])


def test_a_data_set_in_s3_is_the_one_on_disk(bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "shards.parquet"
    parquet.write_table(pa.table({name: X[:, j] for j, name in enumerate("abc")}), file)
    there, here = load(DataSettings(f"s3://rows/shards{bucket}")), load(DataSettings(str(file)))
    assert there.hash == here.hash
    assert there.describe()["settings"]["data"] == "shards"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            "s3://rows/nothing",
            r"s3://rows/nothing.* does not exist; see whether the address, the region and the cred",
        ),
        ("s3://other/shards", r"s3://other/shards.* (does not exist|cannot be reached)"),
    ],
)
def test_what_is_not_in_s3_is_said(bucket: str, place: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_source(place + bucket)
