import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import NUMERIC, Encoder, MultiValued, Schema, SchemaOverrides, infer_schema, load_clicks

SCHEMA = Schema(
    labels=("click",), categorical=("shop",), numeric=("age", "flat"), multi_valued=(MultiValued("tags", "|", 3),)
)
TRAIN = pl.DataFrame(
    {
        "shop": ["a", "b", "b", None],
        "age": [1.0, 3.0, None, float("nan")],
        "flat": [5.0, 5.0, 5.0, 5.0],
        "tags": ["x|y", " y ", "", None],
    }
)


def test_known_values_have_ids_by_frequency_and_others_the_one_for_unknown() -> None:
    request = Encoder.fit(TRAIN.lazy(), SCHEMA).encode(TRAIN.with_columns(pl.Series("shop", ["b", "a", "new", None])))
    assert request["shop"].tolist() == [1, 2, 0, 0]


def test_numbers_are_centred_and_scaled_and_missing_ones_are_the_mean() -> None:
    request = Encoder.fit(TRAIN.lazy(), SCHEMA).encode(TRAIN)
    assert request[NUMERIC].dtype == np.float32
    np.testing.assert_allclose(request[NUMERIC], [[-1, 0], [1, 0], [0, 0], [0, 0]], atol=1e-6)


def test_several_values_are_aligned_left_and_cut_at_the_length() -> None:
    encoder = Encoder.fit(TRAIN.lazy(), SCHEMA)
    tags = pl.Series("tags", ["y|x", "unknown|y", None, "x|x|x|x|x"])
    assert encoder.encode(TRAIN.with_columns(tags))["tags"].tolist() == [[2, 3, 0], [1, 2, 0], [0, 0, 0], [3, 3, 3]]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30))
@settings(max_examples=40)
def test_ids_are_below_the_rows_of_the_table_for_any_text(texts: list[str]) -> None:
    schema = Schema(categorical=("shop",), multi_valued=(MultiValued("tags", ",", 4),))
    frame = pl.DataFrame({"shop": texts, "tags": texts})
    encoder = Encoder.fit(frame[: len(texts) // 2 + 1].lazy(), schema)
    request = encoder.encode(frame)
    for name, rows in encoder.rows.items():
        assert 0 <= request[name].min() <= request[name].max() < rows


def test_some_inputs_need_their_columns_alone() -> None:
    encoder = Encoder.fit(TRAIN.lazy(), SCHEMA)
    whole = encoder.encode(TRAIN)
    for inputs, columns in ({"shop"}, ["shop"]), ({"tags"}, ["tags"]), ({NUMERIC, "shop"}, ["shop", "age", "flat"]):
        request = encoder.select_inputs(inputs).encode(TRAIN.select(columns))
        assert set(request) == inputs
        assert all(np.array_equal(request[name], whole[name]) for name in inputs)


def test_an_encoder_survives_json_and_encodes_as_before(clicks_file: Path) -> None:
    schema = infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema
    data = load_clicks(clicks_file, schema)
    again = Encoder.from_dict(json.loads(json.dumps(data.encoder.to_dict())))
    for name, values in load_clicks(clicks_file, again.schema, again).test.inputs.items():
        np.testing.assert_array_equal(values, data.test.inputs[name])


def test_vocabularies_come_from_training_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pl.DataFrame(
        {"shop": ["a", "b", "only in test"], "click": [0, 1, 1], "split": ["train", "valid", "test"]}
    ).write_csv(path)
    data = load_clicks(path, infer_schema(path, SchemaOverrides(labels=("click",))).schema)
    assert data.encoder.vocabularies["shop"].to_list() == ["a"]
    assert data.test.inputs["shop"].tolist() == [0]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_csv_and_parquet_give_the_same_rows(tmp_path: Path, clicks_file: Path, suffix: str) -> None:
    frame = pl.read_parquet(clicks_file).head(500)
    path = tmp_path / f"rows{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    data = load_clicks(path, infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema)
    assert len(data.train) == (frame["split"] == "train").sum()
    assert data.test.labels["clicked"].tolist() == frame.filter(pl.col("split") == "test")["clicked"].to_list()
