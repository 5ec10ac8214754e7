from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import MultiValued, Schema, SequenceColumns, load_clicks, load_sequences
from recprune_export.errors import DataError
from recprune_export.settings import DataSettings

SCHEMA = Schema(labels=("click",), categorical=("shop",), multi_valued=(MultiValued("tags", "|", 2),))


def write(path: Path, unknown: float, count: int = 400, word: str = "old") -> Path:
    new = np.arange(count) < unknown * count
    shop = pl.Series([f"new{n % 30}" if is_new else f"{word}{n % 30}" for n, is_new in enumerate(new)])
    frame = pl.DataFrame({"shop": shop, "tags": shop + "|" + shop, "click": [n // 2 % 2 for n in range(count)]})
    frame.write_csv(path)
    return path


@pytest.mark.parametrize("unknown", [0.0, 0.1, 0.5, 1.0])
def test_many_unknown_ids_are_noted_and_nearly_all_are_refused(tmp_path: Path, unknown: float) -> None:
    encoder = load_clicks(write(tmp_path / "a.csv", 0.0), SCHEMA).encoder
    path = write(tmp_path / "b.csv", unknown)
    if unknown == 1.0:
        with pytest.raises(
            DataError, match=r"400 of 400 values of 'shop' .*'new0'.* known values .*'old.*--allow-unknown"
        ):
            load_clicks(path, SCHEMA, encoder)
    notes = load_clicks(path, SCHEMA, encoder, reading=DataSettings(allow_unknown=True)).notes
    assert [note.split("'")[1] for note in notes] == (["shop", "tags"] if unknown >= 0.2 else [])


def test_missing_values_are_not_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 0.0)
    encoder = load_clicks(path, SCHEMA).encoder
    pl.read_csv(path).with_columns(shop=None, tags=pl.lit("")).write_csv(tmp_path / "b.csv")
    assert load_clicks(tmp_path / "b.csv", SCHEMA, encoder).notes == ()


def test_new_ids_of_held_out_rows_are_noted_when_an_encoder_is_fitted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pl.DataFrame({"shop": [f"s{n}" for n in range(900)], "tags": "x", "click": [n % 2 for n in range(900)]}).write_csv(
        path
    )
    assert any("'shop' in the held-out rows" in note for note in load_clicks(path, SCHEMA).notes)


def test_a_log_of_other_items_is_refused(tmp_path: Path) -> None:
    schema = Schema(sequence=SequenceColumns("user", "item", "t"))
    log = pl.DataFrame(
        {"user": np.repeat(np.arange(20), 5), "item": np.arange(100) // 5 % 4 + np.arange(100) % 3, "t": np.arange(100)}
    )
    log.with_columns(item=pl.col("item").cast(pl.Float64)).write_parquet(tmp_path / "a.parquet")
    encoder = load_sequences(tmp_path / "a.parquet", schema).encoder
    log.write_csv(tmp_path / "b.csv")
    assert load_sequences(tmp_path / "b.csv", schema, encoder).notes == ()
    log.with_columns(item="i" + pl.col("item").cast(pl.String)).write_csv(tmp_path / "c.csv")
    with pytest.raises(DataError, match=r"'item' .*--allow-unknown"):
        load_sequences(tmp_path / "c.csv", schema, encoder)


def test_unknown_values_are_shown_in_one_line(tmp_path: Path) -> None:
    encoder = load_clicks(write(tmp_path / "a.csv", 0.0), SCHEMA).encoder
    frame = pl.read_csv(write(tmp_path / "b.csv", 1.0)).with_columns(shop=pl.lit("x\ny\x1b[1m"))
    frame.write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError) as raised:
        load_clicks(tmp_path / "b.parquet", SCHEMA, encoder)
    assert r"such as 'x\ny\x1b[1m'" in str(raised.value)
