"""Encode rows of JSON values, the input of encoders in other languages, with polars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recprune_export.data.encoding.encoder import Encoder, Request
from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.schema.schema import Schema
from recprune_export.data.sequences import SequenceEncoder

if TYPE_CHECKING:
    import polars as pl

JsonRow = Mapping[str, Any]


def encode_json_rows(encoder: Encoder | SequenceEncoder, rows: Sequence[JsonRow]) -> Request:
    """Return the request of rows of JSON values: a value for each field, or for a history the list of its items, oldest first.

    Raises `DataError` if a vector has another length than in training.

    >>> from recprune_export.data.encoding.vocabulary import Vocabulary
    >>> encoder = Encoder(Schema(categorical=("shop",)), {"shop": Vocabulary(["7", "true"], 1)}, {}, {})
    >>> encode_json_rows(encoder, [{"shop": 7.0}, {"shop": True}, {"shop": None}])["shop"].tolist()
    [1, 2, 0]
    """
    import polars as pl

    if isinstance(encoder, SequenceEncoder):
        histories = [[json_text(item) for item in row[HISTORY] or ()] for row in rows]
        return encoder.encode_histories(pl.Series(histories, dtype=pl.List(pl.String)))
    return encoder.encode(make_frame(encoder.schema, rows))


def make_frame(schema: Schema, rows: Sequence[JsonRow]) -> "pl.DataFrame":
    """Return the fields of rows as columns: strings, lists of strings, and vectors of numbers."""
    import polars as pl

    several = {field.name: field for field in schema.multi_valued}
    columns = {}
    for name in (*schema.categorical, *several, *schema.numeric):
        values = [row[name] for row in rows]
        if name in several and several[name].separator is None:
            lists = [None if each is None else [json_text(element) for element in each] for each in values]
            columns[name] = pl.Series(name, lists, dtype=pl.List(pl.String))
        else:
            columns[name] = pl.Series(name, [json_text(value) for value in values], dtype=pl.String)
    for vector in schema.vectors:
        columns[vector.name] = pl.Series(vector.name, [row[vector.name] for row in rows], dtype=pl.List(pl.Float64))
    return pl.DataFrame(columns)


def json_text(value: str | float | bool | None) -> str | None:
    """Return a text with the same canonical text as a JSON value.

    >>> [json_text(value) for value in ("x", 12, 12.5, True, None)]
    ['x', '12', '12.5', 'true', None]
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
