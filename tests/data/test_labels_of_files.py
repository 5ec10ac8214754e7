"""Labels and weights through every reader: files, archives, memory; rows without any label are left out."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recprune_export.data import ArraySpec, LabelKind, SchemaOverrides, infer_schema, load_arrays, load_clicks
from recprune_export.data.encoding import Encoder
from recprune_export.errors import DataError
from recprune_export.settings import LabelSettings, RowSettings

COUNT = 200
SPECS = [ArraySpec("user", "int64", (), ((0, 9),))]
RNG = np.random.default_rng(0)
USER, SHARE = RNG.integers(10, size=COUNT), RNG.random(COUNT)
CLICK, STARS = RNG.integers(2, size=COUNT).astype(float), RNG.integers(1, 6, COUNT).astype(float)
CLICK[:30], STARS[20:50] = np.nan, np.nan
SPLIT = np.array(["train", "train", "valid", "test"] * (COUNT // 4))


def write(tmp_path: Path, suffix: str) -> Any:
    columns: dict[str, Any] = {"user": USER, "click": CLICK, "stars": STARS, "share": SHARE, "split": SPLIT}
    path = tmp_path / f"rows.{suffix}"
    if suffix == "npz":
        np.savez(path, **columns)
    elif suffix == "memory":
        return columns
    else:
        frame = pl.DataFrame(columns).with_columns(pl.col("click", "stars").fill_nan(None))
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz", "memory"])
def test_rows_without_any_label_are_left_out_and_weights_stay_with_their_rows(tmp_path: Path, suffix: str) -> None:
    data = load_arrays(
        write(tmp_path, suffix), SPECS, ("click", "stars"), 0, RowSettings(LabelSettings(weight="share"))
    )
    kept = np.flatnonzero(~(np.isnan(CLICK) & np.isnan(STARS)))
    for name, rows in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        places = kept[SPLIT[kept] == name]
        np.testing.assert_array_equal(rows.inputs["user"], USER[places])
        np.testing.assert_array_equal(rows.labels["click"], CLICK[places].astype(np.float32))
        np.testing.assert_array_equal(rows.labels["stars"], STARS[places].astype(np.float32))
        assert rows.weights is not None
        np.testing.assert_allclose(rows.weights, SHARE[places], rtol=1e-6)
    assert {name: values.kind(1) for name, values in data.label_values.items()} == {
        "click": LabelKind.BINARY,
        "stars": LabelKind.NUMBER,
    }
    dropped, weighted = data.notes[-2:]
    assert dropped == "10 of 200 rows have none of the labels and are left out."
    assert weighted == "Rows are weighted by 'share' in loss and metrics."


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_encoded_rows_have_the_same_labels_and_weights(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    overrides = SchemaOverrides(labels=("click", "stars"), weight="share", categorical=("user",))
    data = load_clicks(path, infer_schema(path, overrides).schema)
    plain = load_arrays(path, SPECS, ("click", "stars"), 0, RowSettings(LabelSettings(weight="share")))
    for encoded, rows in ((data.train, plain.train), (data.valid, plain.valid), (data.test, plain.test)):
        for label in ("click", "stars"):
            np.testing.assert_array_equal(encoded.labels[label], rows.labels[label])
        np.testing.assert_array_equal(encoded.weights, rows.weights)
    schema = data.encoder.schema
    assert (schema.value_labels, schema.numeric, schema.weight) == (("stars",), (), "share")
    assert schema.label_kinds == {"click": LabelKind.BINARY, "stars": LabelKind.NUMBER}
    assert Encoder.from_dict(data.encoder.to_dict()).schema == schema
    assert data.notes == plain.notes


def test_a_model_keeps_the_kinds_of_its_training(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet")
    encoder = load_clicks(path, infer_schema(path, SchemaOverrides(labels=("stars",))).schema).encoder
    frame = pl.read_parquet(path)
    frame.with_columns(stars=pl.lit(1.0)).write_parquet(tmp_path / "ones.parquet")
    ones = load_clicks(tmp_path / "ones.parquet", encoder.schema, encoder)
    assert ones.label_values["stars"].kind(1) is LabelKind.NUMBER
    clicks = load_clicks(path, infer_schema(path, SchemaOverrides(labels=("click",))).schema).encoder
    frame.with_columns(click=pl.col("stars")).write_parquet(tmp_path / "stars.parquet")
    with pytest.raises(DataError, match=r"'click' of .* must be 0 or 1 .* as in training"):
        load_clicks(tmp_path / "stars.parquet", clicks.schema, clicks)


def test_a_field_from_which_numbers_were_made_is_a_leak(tmp_path: Path) -> None:
    rating = RNG.integers(1, 11, COUNT)
    rows = pl.DataFrame({"rating": rating, "user": USER, "stars": (rating + 1) // 2})
    rows.with_columns(pl.when(pl.col("user") == 3).then(None).otherwise(pl.col("stars")).alias("stars")).write_parquet(
        tmp_path / "rows.parquet"
    )
    inferred = infer_schema(tmp_path / "rows.parquet", SchemaOverrides(labels=("stars",)))
    assert inferred.schema.categorical == ("user",)
    assert any("'rating' alone predicts 'stars' (rank correlation 1.000)" in note for note in inferred.notes)


def test_a_weight_that_the_data_lack_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'shares'"):
        load_arrays(write(tmp_path, "memory"), SPECS, ("click",), 0, RowSettings(LabelSettings(weight="shares")))
    with pytest.raises(DataError, match="no column 'shares'"):
        infer_schema(write(tmp_path, "csv"), SchemaOverrides(labels=("click",), weight="shares"))
