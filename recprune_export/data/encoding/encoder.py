"""`Encoder`: conversion of raw values to the inputs of a recommender, fitted on training rows and saved with the model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as declare
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np

from recprune_export.codec import DictMixin, JsonForm, decode, json_name
from recprune_export.data.encoding.canonical_text import (
    WHITE_SPACE,
    canonical_text,
    is_missing_text,
)
from recprune_export.data.encoding.input_encoding import NUMERIC, PublishedEncoding
from recprune_export.data.encoding.numeric_columns import as_number
from recprune_export.data.encoding.vectors import fit_vectors, read_vectors
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.schema.column_summary import ColumnSummary
from recprune_export.data.schema.schema import MultiValued, Schema

if TYPE_CHECKING:
    import polars as pl

Request = dict[str, np.ndarray]
_FEW_ROWS = 1 << 17


def _encode_vocabularies(vocabularies: Mapping[str, Vocabulary]) -> dict[str, list[str]]:
    return {name: vocabulary.to_list() for name, vocabulary in vocabularies.items()}


@dataclass(frozen=True)
class Encoder(PublishedEncoding, DictMixin):
    """Vocabularies by field, and mean and standard deviation by numeric column.

    `encode` returns, for B rows: int64 [B] per categorical field, 0 for unknown; int64 [B, max_length] per multi-valued
    field, padded with 0 on the right, 1 for unknown; float32 [B, dense columns] as `numeric`, centered and scaled, 0
    if the value is missing. `summaries` and `notes` describe how the columns of the training file were read.
    """

    ENCODED = (
        "specification", "inputs", "schema", "vocabularies", "means", "stds", "summaries", "notes", "canonical_text_rule"
    )  # fmt: skip

    schema: Schema
    vocabularies: Annotated[Mapping[str, Vocabulary], JsonForm(_encode_vocabularies)]
    means: Mapping[str, float]
    stds: Mapping[str, float]
    summaries: tuple[ColumnSummary, ...] = declare(default=(), metadata=json_name("columns"))
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, frame: "pl.LazyFrame", schema: Schema) -> Self:
        """Compute vocabularies and moments of training rows.

        Raises `DataError` if the vectors of a column differ in length.
        """
        types = frame.collect_schema()
        vocabularies = {
            name: Vocabulary.count(frame, _text(name, types), 1, schema.missing) for name in schema.categorical
        }
        for field in schema.multi_valued:
            values = frame.select(_values(field, types, schema.missing).alias(field.name)).explode(field.name)
            vocabularies[field.name] = Vocabulary.count(values, _column(field.name), 2, schema.missing)
        means, stds = _moments(frame, schema)
        for vector in schema.vectors:
            vector_means, vector_stds = fit_vectors(frame, vector)
            means, stds = means | vector_means, stds | vector_stds
        return cls(schema, vocabularies, means, stds)

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of the embedding table of each field."""
        return {name: vocabulary.rows for name, vocabulary in self.vocabularies.items()}

    @property
    def unknown_ids(self) -> dict[str, int]:
        """The id of values that are not in the vocabulary, by input."""
        schema = self.schema
        return {**dict.fromkeys(schema.categorical, 0), **{several.name: 1 for several in schema.multi_valued}}

    def select_inputs(self, inputs: Collection[str]) -> Self:
        """Return the encoder of only these inputs, which reads no other columns."""
        schema = replace(
            self.schema,
            categorical=tuple(name for name in self.schema.categorical if name in inputs),
            multi_valued=tuple(several for several in self.schema.multi_valued if several.name in inputs),
            numeric=self.schema.numeric if NUMERIC in inputs else (),
            vectors=self.schema.vectors if NUMERIC in inputs else (),
        )
        vocabularies = {name: of for name, of in self.vocabularies.items() if name in inputs}
        return replace(self, schema=schema, vocabularies=vocabularies)

    def encode(self, frame: "pl.LazyFrame | pl.DataFrame") -> Request:
        """Return the request of all rows of `frame`. Raises `DataError` if a vector has another length than in training.

        O(rows) time; memory in addition to the request: one column of it, and the memory of the query.
        """

        schema, engine, frame = self.schema, choose_engine(frame), frame.lazy()
        types = frame.collect_schema()
        texts, ids = self._make_expressions(types)
        encoded = frame.select(texts).select(ids)
        table = encoded.collect(engine=engine)
        # `drop_in_place` frees a column as soon as it is an array.
        request: Request = {name: table.drop_in_place(name).to_numpy().astype(np.int64) for name in schema.categorical}
        for field in schema.multi_valued:
            request[field.name] = _pad(table.drop_in_place(field.name), field.max_length)
        dense = [table.drop_in_place(name).to_numpy() for name in schema.numeric]
        vectors = (read_vectors(frame, vector, self.means, self.stds) for vector in schema.vectors)
        with np.errstate(over="ignore"):  # infinity, as in the other columns
            dense += [values.astype(np.float32) for values in vectors]
        if dense:
            request[NUMERIC] = np.column_stack(dense)
        return request

    def _make_expressions(self, types: "pl.Schema") -> "tuple[list[pl.Expr], list[pl.Expr]]":
        """Return the expressions of strings and numbers, and those of ids; they are reused for the types of the last call."""
        import polars as pl

        schema, key = self.schema, tuple((name, types[name]) for name in self.schema.fields)
        if key not in self._expressions:
            texts = [
                *(_text(name, types).alias(name) for name in schema.categorical),
                *(self._first_values(field, types).alias(field.name) for field in schema.multi_valued),
                *(self._normalize(name, types).cast(pl.Float32).alias(name) for name in schema.numeric),
            ]
            ids = [
                *(
                    self.vocabularies[name].lookup(name).cast(pl.Int32) for name in schema.categorical
                ),  # half the memory
                *(pl.col(f.name).list.eval(self.vocabularies[f.name].lookup(None)) for f in schema.multi_valued),
                *(pl.col(name) for name in schema.numeric),
            ]
            self._expressions.clear()
            self._expressions[key] = (texts, ids)
        return self._expressions[key]

    @cached_property
    def _expressions(self) -> "dict[object, tuple[list[pl.Expr], list[pl.Expr]]]":
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_expressions"}

    def texts(self, frame: "pl.LazyFrame | pl.DataFrame", name: str) -> "pl.Series":
        """Return the values of a categorical or multi-valued field as vocabularies spell them, without missing ones."""
        return self.select_texts(frame, name).collect(engine=choose_engine(frame))[name]

    def select_texts(self, frame: "pl.LazyFrame | pl.DataFrame", name: str) -> "pl.LazyFrame":
        """Return the query for `strings`."""
        import polars as pl

        frame = frame.lazy()
        types = frame.collect_schema()
        several = {field.name: field for field in self.schema.multi_valued}
        if name in several:
            values = frame.select(_values(several[name], types, self.schema.missing).alias(name)).explode(name)
        else:
            values = frame.select(_text(name, types).alias(name))
        vocabulary = self.vocabularies[name]
        is_word = is_missing_text(pl.col(name), self.schema.missing) & (vocabulary.lookup(name) < vocabulary.first)
        return values.filter(~is_word)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values that `to_dict` returned."""
        schema = Schema.from_dict(values["schema"])
        several = {field.name for field in schema.multi_valued}
        vocabularies = {n: Vocabulary(v, 2 if n in several else 1) for n, v in values["vocabularies"].items()}
        summaries = tuple(decode(ColumnSummary, column) for column in values.get("columns", ()))
        notes = tuple(str(note) for note in values.get("notes", ()))
        return cls(schema, vocabularies, values["means"], values["stds"], summaries, notes)

    def _first_values(self, field: MultiValued, types: "pl.Schema") -> "pl.Expr":
        return _values(field, types, self.schema.missing).list.head(field.max_length)

    def _normalize(self, name: str, types: "pl.Schema") -> "pl.Expr":
        values = as_number(_column(name), types[name], self.schema.missing)
        return ((values - self.means[name]) / self.stds[name]).fill_null(0.0)


def choose_engine(frame: "pl.LazyFrame | pl.DataFrame") -> Literal["in-memory", "streaming"]:
    """Return the engine of polars for a query: for few rows in memory, streaming takes longer than computing."""
    import polars as pl

    return "in-memory" if isinstance(frame, pl.DataFrame) and len(frame) <= _FEW_ROWS else "streaming"


def _column(name: str) -> "pl.Expr":
    import polars as pl

    return pl.col(name)


def _text(name: str, types: "pl.Schema") -> "pl.Expr":
    return canonical_text(_column(name), types[name])


def _values(field: MultiValued, types: "pl.Schema", missing: tuple[str, ...]) -> "pl.Expr":
    """Return the values of a multi-valued field as a list of canonical texts, without empty and missing ones."""
    import polars as pl

    column = pl.col(field.name)
    dtype = types[field.name]
    text = canonical_text(pl.element(), pl.String())
    if field.separator is None:
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else pl.String()
        lists = column.cast(pl.List(inner))
        text = canonical_text(pl.element(), inner)  # type: ignore[arg-type]
    elif isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        lists = column.cast(pl.String).str.split(field.separator).list.eval(pl.element().str.strip_chars(WHITE_SPACE))
    else:  # a number, in which no separator is looked for
        lists = pl.concat_list(canonical_text(column, dtype))
    return lists.list.eval(text.replace(list(missing), [None] * len(missing)) if missing else text).list.drop_nulls()


def _moments(frame: "pl.LazyFrame", schema: Schema) -> tuple[dict[str, float], dict[str, float]]:
    import polars as pl

    names, types = schema.numeric, frame.collect_schema()
    if not names:
        return {}, {}
    values = frame.select(as_number(pl.col(name), types[name], schema.missing).alias(name) for name in names)
    moments = values.select(pl.all().mean().name.prefix("mean "), pl.all().std(ddof=0).name.prefix("std "))
    row = moments.collect(engine="streaming").row(0, named=True)
    # A column without values or without spread is divided by 1 to stay finite.
    return {n: float(row[f"mean {n}"] or 0.0) for n in names}, {n: float(row[f"std {n}"] or 1.0) for n in names}


def _pad(lists: "pl.Series", length: int) -> np.ndarray:
    """Return lists of ids as int64 [B, length], zeros on the right."""
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = lists.filter(lists.list.len() > 0).explode().to_numpy()
    padded = np.zeros((len(lengths), length), dtype=np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[row, column] = flat
    return padded
