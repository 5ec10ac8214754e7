"""Convert rows to requests: encoded with the bundle's vocabularies, or taken as arrays."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.column_names import check_columns_exist
from recprune_export.data.array_checks import check_input_array, check_jagged_rows
from recprune_export.data.array_spec import describe_list_columns
from recprune_export.data.arrays import find_input_columns
from recprune_export.data.clicks import check_numbers, check_types
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.encoder import Encoder, Request
from recprune_export.data.encoding.input_encoding import NUMERIC
from recprune_export.data.encoding.numeric_columns import as_number
from recprune_export.data.encoding.unknown_values import (
    UnknownValues,
    count_unknown,
    count_unknown_if_many,
    judge_unknown,
    tally_unknown,
)
from recprune_export.data.named_columns import stack_columns
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import describe_encoding, read_column_names, scan
from recprune_export.output_files import ScratchFolder
from recprune_export.prediction.history_rows import HistoryRows, is_log, read_histories
from recprune_export.prediction.open_model import AnyEncoder, read_bundle_encoder
from recprune_export.program.requests.input_rules import find_bad_ids
from recprune_export.program.requests.row_specs import make_array_spec
from recprune_export.program.signature import Input, Signature
from recprune_export.settings import DataSettings

if TYPE_CHECKING:
    import polars as pl


class RequestMaker(Protocol):
    """Makes requests from the `columns` of rows; `unknown` counts values without an id or number so far, by column.

    An input that is shared has a value in each row of the request.
    """

    columns: tuple[str, ...]
    unknown: Counter[str]

    def request(self, rows: "pl.DataFrame", first_row: int) -> Request:
        """Return the request of `rows`, which start at row `first_row` of their source."""

    def judge(self) -> tuple[str, ...]:
        """Return notes about unknown values, after the last request. Raises `DataError` if nearly all of a field are unknown."""


class EncodedRows:
    """The rows of a file, `frame`, and the function that makes `requests` from them. Columns in `identity` are always kept.

    A `folder` that holds the rows is removed with this object.
    """

    def __init__(
        self,
        frame: "pl.LazyFrame",
        requests: RequestMaker,
        notes: tuple[str, ...] = (),
        identity: tuple[str, ...] = (),
        folder: ScratchFolder | None = None,
    ) -> None:
        self.frame, self.identity = frame, identity
        self.columns, self.unknown, self.request = requests.columns, requests.unknown, requests.request
        self._requests, self._notes, self._folder = requests, notes, folder

    def judge(self) -> tuple[str, ...]:
        """Return notes as `RequestMaker` does, and those about the file."""
        return (*self._notes, *self._requests.judge())


def encode_rows(
    bundle: Path,
    manifest: Manifest,
    path: DataFile,
    reading: DataSettings,
    keep: Collection[str],
    signature: Signature | None = None,
) -> EncodedRows:
    """Return the converter from rows of `path` to requests for a bundle's model; columns in `keep` are also read.

    With a `signature`, requests have only its inputs, a part of the model's inputs.

    Raises `DataError` if a column is missing or of another type.
    """
    signature = signature or Signature.from_dict(manifest.signature)
    return encode_file(path, read_bundle_encoder(bundle, manifest, signature.inputs), signature, reading, keep, {})


def encode_file(
    path: DataFile,
    encoder: AnyEncoder | None,
    signature: Signature,
    reading: DataSettings,
    keep: Collection[str],
    added: Mapping[str, str | None],
) -> EncodedRows:
    """Return the converter from rows of `path` to requests of a signature; `added` columns have one value in all rows.

    A model of histories takes a row for each history, or a log of one row for each item, which is converted to a row for each user.

    Raises `DataError` if a column is missing or of another type.
    """
    options = CsvOptions(reading.separator, reading.encoding)
    if encoder is None:
        frame = add_columns(scan(path, options), added)
        return EncodedRows(frame, make_requests(path, frame, None, signature, reading.allow_unknown))
    names, schema, notes = read_column_names(path, options), encoder.schema, describe_encoding(path, options)
    if isinstance(encoder, SequenceEncoder) and is_log(names, encoder.columns):
        log = read_histories(path, reading, encoder)
        requests = make_requests(path, log.frame, encoder, signature, reading.allow_unknown)
        return EncodedRows(log.frame, requests, (*notes, *log.notes), (encoder.columns.user,), log.folder)
    texts = [name for name in names if name in schema.texts or name not in keep]
    frame = add_columns(scan(path, options, text=texts, missing=schema.missing), added)
    return EncodedRows(frame, make_requests(path, frame, encoder, signature, reading.allow_unknown), notes)


def add_columns(frame: "pl.LazyFrame", added: Mapping[str, str | None]) -> "pl.LazyFrame":
    """Return rows with columns of one value, such as those from the names of folders."""
    import polars as pl

    return frame.with_columns(pl.lit(value, dtype=pl.String).alias(name) for name, value in added.items())


def make_requests(
    source: DataFile,
    frame: "pl.LazyFrame",
    encoder: AnyEncoder | None,
    signature: Signature,
    allow_unknown: bool,
    *,
    counts_few: bool = True,
) -> RequestMaker:
    """Return the function that makes requests from rows with the columns of `frame`; `source` names the rows in messages.

    Without `counts_few`, few unknown values of a request are not distinguished from missing values, since that takes longer than scoring.

    Raises `DataError` if a column is missing or of another type.
    """
    if encoder is None:
        return ArrayRows(source, frame.collect_schema().names(), signature)
    if isinstance(encoder, SequenceEncoder):
        return HistoryRows(source, frame, encoder, allow_unknown)
    return _VocabularyRows(source, frame, encoder, allow_unknown, signature, counts_few)


def describe_unknown(unknown: Mapping[str, int]) -> tuple[str, ...]:
    """Return a note for each column with values without an id or number; `unknown` counts them.

    >>> describe_unknown({"user": 1200, "item": 0})
    ("1,200 values of 'user' are empty, out of range or unknown to the model.",)
    """
    return tuple(
        f"{count:,} values of '{name}' are empty, out of range or unknown to the model."
        for name, count in unknown.items()
        if count
    )


class _VocabularyRows:
    """Makes requests of raw values."""

    def __init__(
        self,
        path: DataFile,
        frame: "pl.LazyFrame",
        encoder: Encoder,
        allow_unknown: bool,
        signature: Signature,
        counts_few: bool,
    ) -> None:
        self.columns = encoder.schema.fields
        self.unknown: Counter[str] = Counter()
        self._encoder, self._path, self._allow_unknown = encoder, path, allow_unknown
        self._counts_few = counts_few
        self._number_limit = next((i.number_limit for i in signature.inputs if i.name == NUMERIC), None)
        self._counts = {name: UnknownValues(name) for name in encoder.vocabularies}
        check_columns(path, frame.collect_schema().names(), self.columns)
        check_types(path, frame, encoder.schema)

    def request(self, rows: "pl.DataFrame", first_row: int) -> Request:
        import polars as pl

        schema, types = self._encoder.schema, rows.schema
        check_numbers(self._path, rows.lazy(), schema, first_row)
        # Texts are converted to numbers only once, here.
        rows = rows.with_columns(as_number(pl.col(n), types[n], schema.missing).alias(n) for n in schema.numeric)
        request = self._encoder.encode(rows)
        for name, unknown_id in self._encoder.unknown_ids.items():
            self.unknown[name] += int(np.count_nonzero(request[name] == unknown_id))
        for name in (*schema.numeric, *(vector.name for vector in schema.vectors)):
            self.unknown[name] += rows[name].null_count()
        if self._number_limit is not None and NUMERIC in request:
            clipped = np.count_nonzero(np.abs(request[NUMERIC]) > self._number_limit, axis=0)
            self.unknown.update(dict(zip(schema.dense_columns, clipped.tolist(), strict=True)))
        if self._counts_few:
            counts = count_unknown(self._encoder, rows, request)
        else:
            tallies = tally_unknown(self._encoder, [request])
            counts = count_unknown_if_many(self._encoder, rows.lazy(), tallies)
            few = {name: tally.ids - tally.unknown for name, tally in tallies.items() if name not in counts}
            counts |= {name: UnknownValues(name, 0, values) for name, values in few.items()}
        for name, count in counts.items():
            self._counts[name] = self._counts[name].add(count)
        return request

    def judge(self) -> tuple[str, ...]:
        return judge_unknown(self._counts.values(), self._encoder.vocabularies, str(self._path), self._allow_unknown)


class ArrayRows:
    """Makes requests from arrays, or columns, that already have the form of the inputs. Raises `DataError` if one is missing."""

    def __init__(self, path: DataFile, names: Sequence[str], signature: Signature) -> None:
        # Ids that the graph replaces are counted, not refused.
        specs = [make_array_spec(i, () if _replaces_ids(i) else i.ids) for i in signature.inputs]
        self._sources = find_input_columns(names, specs)
        absent = [spec for spec in specs if spec.name not in self._sources]
        check_columns(path, names, [spec.name for spec in absent], describe_list_columns(absent[0]) if absent else "")
        self.columns = tuple(column for columns in self._sources.values() for column in columns)
        self.unknown: Counter[str] = Counter()
        self._path, self._specs, self._inputs = str(path), specs, signature.inputs

    def request(self, rows: "pl.DataFrame | Mapping[str, Any]", first_row: int) -> Request:
        """Return the request of rows, which may be arrays by name."""
        jagged = {spec.name for spec in self._specs if spec.jagged is not None}
        arrays = stack_columns(rows, self._sources, self._path, jagged)
        request = {}
        for spec, tensor in zip(self._specs, self._inputs, strict=True):
            values = arrays[spec.name]
            if _replaces_ids(tensor) and values.dtype.kind in "biuf":
                by_column = values[:, None] if values.ndim == 1 and (spec.shape == (1,) or spec.jagged) else values
                self.unknown[spec.name] += int(np.count_nonzero(find_bad_ids(tensor, by_column)))
                values = _clip_to_dtype(values, spec.dtype)
            request[spec.name] = check_input_array(self._path, spec, values, first_row)
            if tensor.number_limit is not None:
                self.unknown[spec.name] += int(np.count_nonzero(np.abs(request[spec.name]) > tensor.number_limit))
        check_jagged_rows(self._path, self._specs, request)
        return request

    def judge(self) -> tuple[str, ...]:
        """Return no notes: arrays have no vocabulary."""
        return ()


def _replaces_ids(tensor: Input) -> bool:
    return any(isinstance(bad, int) for bad in tensor.bad_ids)


def _clip_to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return integers within the range of `dtype`: a cast would convert those beyond it to other ids."""
    if values.dtype.kind not in "iu" or np.dtype(dtype).kind not in "iu":
        return values
    bounds = np.iinfo(dtype)
    return np.clip(values, max(bounds.min, np.iinfo(values.dtype).min), min(bounds.max, np.iinfo(values.dtype).max))


def check_columns(path: DataFile, names: Sequence[str], columns: Sequence[str], form: str = "") -> None:
    """Raise `DataError` if `names`, the columns of `path`, lack a column that the model takes.

    `form` describes how the first missing column may be stored.
    """
    missing = [name for name in columns if name not in names]
    several = f" ({len(missing)} are missing)" if len(missing) > 1 else ""
    check_columns_exist(path, missing, names, f"which the model expects{form}{several}")
