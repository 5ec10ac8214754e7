"""`Encoder`: conversion of raw values to the inputs of a recommender, fitted on training rows and saved with the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np

from recprune_export.codec import DictMixin, JsonForm
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.schema.schema import MultiValued, Schema

if TYPE_CHECKING:
    import polars as pl

Request = dict[str, np.ndarray]
NUMERIC = "numeric"  # the name of the input that holds all numeric fields


def _encode_vocabularies(vocabularies: Mapping[str, Vocabulary]) -> dict[str, list[str]]:
    return {name: vocabulary.to_list() for name, vocabulary in vocabularies.items()}


@dataclass(frozen=True)
class Encoder(DictMixin):
    """Vocabularies by field, and mean and standard deviation by numeric field.

    `encode` returns, for B rows: int64 [B] per categorical field, 0 for unknown; int64 [B, max_length] per multi-valued
    field, padded with 0 on the right, 1 for unknown; float32 [B, numeric fields] as `numeric`, centered and scaled, 0
    if the value is missing.
    """

    schema: Schema
    vocabularies: Annotated[Mapping[str, Vocabulary], JsonForm(_encode_vocabularies)]
    means: Mapping[str, float]
    stds: Mapping[str, float]

    @classmethod
    def fit(cls, frame: "pl.LazyFrame", schema: Schema) -> Self:
        """Compute vocabularies and moments of training rows."""
        import polars as pl

        vocabularies = {name: Vocabulary.count(frame, _text(name), 1) for name in schema.categorical}
        for field in schema.multi_valued:
            values = frame.select(_values(field).alias(field.name)).explode(field.name)
            vocabularies[field.name] = Vocabulary.count(values, pl.col(field.name), 2)
        means, stds = _moments(frame, schema.numeric)
        return cls(schema, vocabularies, means, stds)

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of the embedding table of each field."""
        return {name: vocabulary.rows for name, vocabulary in self.vocabularies.items()}

    @property
    def unknown_ids(self) -> dict[str, int]:
        """The id of values that the vocabulary lacks, by input."""
        schema = self.schema
        return {**dict.fromkeys(schema.categorical, 0), **{field.name: 1 for field in schema.multi_valued}}

    def encode(self, frame: "pl.LazyFrame | pl.DataFrame") -> Request:
        """Return the request of all rows of `frame`."""
        schema = self.schema
        encoded = frame.lazy().select(
            *(self.vocabularies[name].encode(_text(name)).alias(name) for name in schema.categorical),
            *(self._encode_values(field).alias(field.name) for field in schema.multi_valued),
            *(self._normalize(name).alias(name) for name in schema.numeric),
        )
        table = encoded.collect(engine="streaming")
        request: Request = {name: table[name].to_numpy() for name in schema.categorical}
        for field in schema.multi_valued:
            request[field.name] = _pad(table[field.name], field.max_length)
        if schema.numeric:
            request[NUMERIC] = np.ascontiguousarray(table.select(schema.numeric).to_numpy(), dtype=np.float32)
        return request

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values that `to_dict` returned."""
        schema = Schema.from_dict(values["schema"])
        several = {field.name for field in schema.multi_valued}
        vocabularies = {n: Vocabulary(v, 2 if n in several else 1) for n, v in values["vocabularies"].items()}
        return cls(schema, vocabularies, values["means"], values["stds"])

    def _encode_values(self, field: MultiValued) -> "pl.Expr":
        import polars as pl

        ids = self.vocabularies[field.name].encode(pl.element())
        return _values(field).list.head(field.max_length).list.eval(ids)

    def _normalize(self, name: str) -> "pl.Expr":
        return ((_number(name) - self.means[name]) / self.stds[name]).fill_null(0.0)


def _text(name: str) -> "pl.Expr":
    import polars as pl

    return pl.col(name).cast(pl.String)


def _number(name: str) -> "pl.Expr":
    import polars as pl

    return pl.col(name).cast(pl.Float64).fill_nan(None)


def _values(field: MultiValued) -> "pl.Expr":
    """Return the values of a multi-valued field as a list of strings, without empty ones."""
    import polars as pl

    column = pl.col(field.name)
    if field.separator is None:
        return column.cast(pl.List(pl.String))
    values = column.cast(pl.String).str.split(field.separator).list.eval(pl.element().str.strip_chars())
    return values.list.eval(pl.element().filter(pl.element() != ""))


def _moments(frame: "pl.LazyFrame", names: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    if not names:
        return {}, {}
    means = frame.select(_number(n).mean() for n in names).collect(engine="streaming").row(0)
    stds = frame.select(_number(n).std(ddof=0) for n in names).collect(engine="streaming").row(0)
    # A column without values or without spread is divided by 1 to stay finite.
    return (
        {n: float(m or 0.0) for n, m in zip(names, means, strict=True)},
        {n: float(s or 1.0) for n, s in zip(names, stds, strict=True)},
    )


def _pad(lists: "pl.Series", length: int) -> np.ndarray:
    """Return lists of ids as int64 [B, length], zeros on the right."""
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = lists.filter(lists.list.len() > 0).explode().to_numpy()
    padded = np.zeros((len(lengths), length), dtype=np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[row, column] = flat
    return padded
