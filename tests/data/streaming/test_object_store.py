"""Rows in an object store: a server of moto on this machine. Skipped where moto is not installed (pip install 'moto[s3,server]')."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from recprune_export.data.generate import generate_clicks
from recprune_export.data.schema._infer_schema import SchemaOverrides
from recprune_export.data.streaming.data_files import find_data_files
from recprune_export.data.tabular_files import scan
from recprune_export.errors import DataError
from recprune_export.training import train

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto.server")
Put = Callable[[str, bytes], None]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Return a function that stores bytes under a key of the bucket `shop`."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    yield lambda key, content: client.put_object(Bucket="shop", Key=key, Body=content)
    server.stop()


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_folders_globs_and_files(put: Put) -> None:
    for number in (10, 9):
        put(f"rows/part-{number}.parquet", parquet(pl.DataFrame({"user": ["a"], "y": [number]})))
    put("rows/_SUCCESS", b"")
    files = ("s3://shop/rows/part-9.parquet", "s3://shop/rows/part-10.parquet")
    assert find_data_files("s3://shop/rows/") == files
    assert find_data_files("s3://shop/rows/*.parquet") == files
    assert find_data_files(files[1]) == files[1:]
    assert scan("s3://shop/rows/").collect()["y"].to_list() == [9, 10]
    with pytest.raises(DataError, match="s3://shop/nothing/"):
        find_data_files("s3://shop/nothing/")


def test_csv_has_the_types_of_all_rows(put: Put) -> None:
    put("1.csv", b"user;y\n7;0\n")
    put("2.csv", b"user;y\nx;1\n")
    frame = scan("s3://shop/*.csv")
    assert frame.collect_schema() == {"user": pl.String(), "y": pl.Int64()}
    assert frame.collect().rows() == [("7", 0), ("x", 1)]


def test_train_from_an_address_is_train_from_the_folder(put: Put, tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    generate_clicks(path, rows=400, seed=0)
    rows = pl.read_csv(path)
    (tmp_path / "rows").mkdir()
    for number, part in enumerate((rows[:250], rows[250:])):
        put(f"clicks/{number}.parquet", parquet(part))
        (tmp_path / "rows" / f"{number}.parquet").write_bytes(parquet(part))
    wish = SchemaOverrides(labels=("clicked",))
    results = [
        train(source, "dlrm", tmp_path / "model.pt", wish, {"dim": 2, "hidden": (4,)}, epochs=1, stream=True)
        for source in ("s3://shop/clicks/", tmp_path / "rows")
    ]
    assert results[0].fitted == results[1].fitted
    encoders = [result.checkpoint.encoder.to_dict() for result in results]
    assert encoders[0]["vocabularies"] == encoders[1]["vocabularies"]
    assert results[0].sizes == results[1].sizes
