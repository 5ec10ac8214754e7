"""What the program of a bundle takes as a number is what `predict` takes as one."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recprune_export.bundle.servers.serving.json_tensors import RequestError
from recprune_export.bundle.servers.serving.row_fields import MISSING_WORDS, RawRows, is_number
from recprune_export.data.encoding import canonical_text
from recprune_export.data.encoding.numeric_columns import as_number, is_no_number
from tests.bundle.complete import write

MISSING = ["-7", "unknown"]
READABLE = ["30", " 30 ", "3e1", "30,5", "1970-01-02", "1970-01-02 12:00", "true", "NA", "none", "", "-7.0", "unknown"]
texts = st.one_of(
    st.text(max_size=8),
    st.text("0123456789+-.,eE infatruelsN/:TZ", max_size=12),
    st.sampled_from([*READABLE, *canonical_text.MISSING_WORDS, "thirty", "inf", "-Infinity", "1e999", "2020-02-30"]),
)


def test_the_words_for_a_missing_number_are_those_of_predict() -> None:
    assert {word.lower() for word in canonical_text.MISSING_WORDS} == MISSING_WORDS


@given(texts)
@example("1e999")
def test_a_text_is_a_number_where_predict_reads_one(text: str) -> None:
    column, dtype = pl.lit(pl.Series([text])), pl.String()
    refused = is_no_number(column, dtype, MISSING) | as_number(column, dtype, MISSING).is_infinite().fill_null(False)
    assert is_number(text, MISSING) is not pl.select(refused).item()


@pytest.mark.parametrize("value", [*READABLE, 30, 30.5, True, None])
def test_what_the_encoding_reads_as_a_number_is_taken(tmp_path: Path, value: Any) -> None:
    rows = RawRows(write(tmp_path / "bundle"), set())
    row = {"user": "ann", "tags": "red|blue", "age": value, "price": 2}
    if value in MISSING:
        with pytest.raises(RequestError, match="'age' in row 0 must be a number"):
            rows.encode([row])
    else:
        assert rows.encode([row])
