"""A JSON value is encoded as the same value in a column of its own type is."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import Encoder, MultiValued, Schema, Vocabulary, encode_json_rows
from tests.data.encoding.random_rows import make_history_encoder

SCHEMA = Schema(
    categorical=("shop",), numeric=("age",), multi_valued=(MultiValued("tags", "|", 2),), missing=("-7", "none")
)
COLUMNS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "floats": (st.none() | st.floats(allow_infinity=False, allow_nan=False), pl.Float64),
    "integers": (st.none() | st.integers(-(2**63), 2**63 - 1), pl.Int64),
    "small": (st.none() | st.integers(-9, 9), pl.Int64),
    "booleans": (st.none() | st.booleans(), pl.Boolean),
    "texts": (st.none() | st.text(max_size=5) | st.sampled_from(["-7", "-7.0", "none"]), pl.String),
}


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=20)
@given(data=st.data())
def test_types_do_not_matter(kind: str, data: st.DataObject) -> None:
    strategy, dtype = COLUMNS[kind]
    values = data.draw(st.lists(strategy, min_size=1, max_size=8))
    column = pl.Series(values, dtype=dtype)
    frame = pl.DataFrame({"shop": column, "age": column, "tags": column})
    fitted = Encoder.fit(frame.lazy(), SCHEMA)
    encoder = Encoder(SCHEMA, fitted.vocabularies, {"age": 0.5}, {"age": 3.0})
    rows = [{"shop": value, "age": value, "tags": value} for value in values]
    typed, of_json = encoder.encode(frame), encode_json_rows(encoder, rows)
    for name, array in typed.items():
        np.testing.assert_array_equal(array, of_json[name], err_msg=name)


def test_a_word_that_is_a_number_is_missing_in_every_spelling() -> None:
    encoder = Encoder(SCHEMA, {"shop": Vocabulary([], 1), "tags": Vocabulary([], 2)}, {"age": 1.0}, {"age": 2.0})
    rows = [{"shop": None, "tags": None, "age": age} for age in (-7, -7.0, "-7.0", " -7", "none", None, 5)]
    assert encode_json_rows(encoder, rows)["numeric"].ravel().tolist() == [0, 0, 0, 0, 0, 0, 2]


def test_histories_are_those_of_a_log() -> None:
    encoder = make_history_encoder()
    histories = [["a", "new", 7.0, None, "b"], ["12.50"], ["a", "b", "a", "b", "a", "b", "7"]]
    log = pl.DataFrame(
        {
            "user": [0] * 5 + [1] + [2] * 7,
            "item": [str(i) if i else i for h in histories for i in h],
            "time": range(13),
        },
        schema_overrides={"item": pl.String},
        strict=False,
    )
    rows = [{"history": history} for history in histories]
    np.testing.assert_array_equal(encode_json_rows(encoder, rows)["history"], encoder.encode(log)["history"])
    empty = encode_json_rows(encoder, [{"history": []}, {"history": None}])
    assert empty["history"].tolist() == [[0] * 5] * 2
