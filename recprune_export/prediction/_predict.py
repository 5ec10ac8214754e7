"""Score all rows of a file in a stream."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.codec import ToDictMixin, json_name
from recprune_export.column_names import describe_missing_column
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.csv_types import cast_text
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.same_columns import hive_values, refuse_columns_of_folders
from recprune_export.data.tabular_files import count_frame_rows, raise_data_errors, read_column_names, scan
from recprune_export.errors import UsageError
from recprune_export.output_meaning import OutputMeaning
from recprune_export.prediction.encode_requests import EncodedRows, add_columns, encode_file
from recprune_export.prediction.mirrored_paths import check_apart
from recprune_export.prediction.open_model import open_model
from recprune_export.prediction.scorer import ROWS_PER_RUN, Scorer, column_type, make_scorer, to_series
from recprune_export.prediction.write_scores import check_output, write_batches
from recprune_export.progress import progress_bar
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Prediction(ToDictMixin):
    """Result of `predict`.

    `scores`: the meaning of each column of scores. `unknown`: by column, number of values without a separate id, or of missing
    numbers.
    """

    path: Path = field(metadata=json_name("output"))
    rows: int
    columns: tuple[str, ...] = field(metadata=json_name("output_columns"))
    scores: Mapping[str, OutputMeaning]
    unknown: Mapping[str, int] = field(metadata=json_name("unknown_values"))
    seconds: float
    notes: tuple[str, ...] = ()


def predict(
    bundle: Path,
    data: DataFile,
    output: Path,
    *,
    keep: Sequence[str] = (),
    probability: bool = False,
    threads: int | None = None,
    rows: int = ROWS_PER_RUN,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
    file: str = MODEL,
) -> Prediction:
    """Score every row of CSV or Parquet; write the outputs, in the order of the rows, as one CSV or Parquet file.

    `data` is a file, or a folder, glob or address of an object store with several files of one table (`predict_folder` writes
    a file for each of them).

    The columns are those in `keep`, unchanged, and the outputs of the signature, each named after the output and its kind
    (`clicked_logit`); an output of several numbers per row is a fixed-size list. With `probability`, logits are converted to
    probabilities (`clicked_probability`). `rows` is the largest batch size of the model; `file` is the ONNX file of the bundle.
    Raw values are encoded with the bundle's vocabularies; without them, columns must have the names of the inputs.

    For a model with shared inputs, each row contains their values, and rows of equal values form one request. A sequential model
    requires a column `history` of lists, or a log, which gives one row per user. `output` is complete or absent.

    Raises `BundleError`, `DataError`, and `UsageError` for an output that cannot be written, that has no probability or that does not
    have one row per row of a request.
    """
    start = time.perf_counter()
    check_output(output, data)
    check_apart(output, data)
    scorer = make_scorer(open_model(bundle, file, threads), probability, rows)
    scored = open_file(scorer, data, reading, keep)
    scored.check_format(output)
    steps = -(-scored.count // scorer.rows_per_read)
    with progress_bar(f"Scoring {scored.count:,} rows", steps, scorer.rows_per_read) as advance:
        write_batches(output, lambda: scored.score(lambda rows: advance("")), scored.schema)
    seconds = time.perf_counter() - start
    return Prediction(
        output, scored.rows, tuple(scored.schema), scored.meanings, scored.count_unknown(), seconds, scored.notes
    )


class ScoredFile:
    """The rows of a file with their scores: `schema` has the types of the columns, `count` is the number of rows.

    `rows` of them are scored so far; `notes` are known after the last one.
    """

    def __init__(
        self, scorer: Scorer, data: DataFile, requests: EncodedRows, keep: "Mapping[str, pl.DataType]", count: int
    ) -> None:
        self.requests, self.count, self.rows = requests, count, 0
        self.notes: tuple[str, ...] = ()
        self._scorer, self._data, self._keep = scorer, data, keep
        self.schema = dict(keep) | {column.column: column_type(column) for column in scorer.columns}

    @property
    def meanings(self) -> dict[str, OutputMeaning]:
        """The meaning of each column of scores."""
        return {column.column: column.meaning for column in self._scorer.columns}

    def count_unknown(self) -> dict[str, int]:
        """Return the number of values without an id or number, for the columns that have any."""
        return {name: number for name, number in self.requests.unknown.items() if number}

    def check_format(self, output: Path) -> None:
        """Raise `UsageError` if the file of scores cannot hold the columns."""
        lists = [name for name, kind in self.schema.items() if kind.is_nested()]
        if lists and output.suffix.lower() == ".csv":
            raise UsageError(f"'{lists[0]}' is a list in each row, which CSV does not support: write a .parquet file.")

    def score(self, advance: Callable[[int], None]) -> Iterator["pl.DataFrame"]:
        """Yield tables of some rows, one after the other, and pass the number of rows to `advance`.

        Raises `DataError`, also at the end if nearly all values of a field are unknown.
        """
        import polars as pl

        columns = dict.fromkeys((*self.requests.columns, *self._keep))
        selected = self.requests.frame.select(*columns)
        with raise_data_errors(self._data):
            for chunk in selected.collect_batches(chunk_size=self._scorer.rows_per_read, engine="streaming"):
                values = self._scorer.score(self._data, self.requests.request(chunk, self.rows), self.rows)
                kept = [_cast(chunk[name], dtype) for name, dtype in self._keep.items()]
                scores = (to_series(*pair) for pair in zip(self._scorer.columns, values, strict=True))
                yield pl.DataFrame([*kept, *scores])
                self.rows += len(chunk)
                advance(len(chunk))
        self.notes = self.requests.judge()


def open_file(
    scorer: Scorer, data: DataFile, reading: DataSettings, keep: Sequence[str], *, within: DataFile | None = None
) -> ScoredFile:
    """Open rows for scoring. A file `within` others has the columns of its folder names, and strings in CSV stay strings.

    Raises `DataError`, and `UsageError` for a column in `keep` that cannot be kept.
    """
    typed = keep if within is None else ()
    added = {} if within is None else hive_values(within, data)
    if added:
        refuse_columns_of_folders(data, read_column_names(data, CsvOptions(reading.separator, reading.encoding)), added)
    requests = encode_file(data, scorer.model.encoder, scorer.model.signature, reading, typed, added)
    keep = tuple(dict.fromkeys((*requests.identity, *keep)))
    types: dict[str, pl.DataType] = {}
    if keep:
        types |= requests.frame.collect_schema() if requests.identity else _read_types(data, reading, typed, added)
    for name in keep:
        if name not in types:
            raise UsageError(describe_missing_column(data, name, types, "which --keep names"))
        if name in {column.column for column in scorer.columns}:
            raise UsageError(f"--keep {name}: an output of the model has the same name; leave it out.")
    return ScoredFile(
        scorer, data, requests, {name: types[name] for name in keep}, count_frame_rows(requests.frame, data)
    )


def _read_types(
    data: DataFile, reading: DataSettings, keep: Sequence[str], added: Mapping[str, str | None]
) -> "pl.Schema":
    """Return the types of all columns; those of a CSV file are strings, except the columns in `keep`."""
    options = CsvOptions(reading.separator, reading.encoding)
    texts = [name for name in read_column_names(data, options) if name not in keep]
    return add_columns(scan(data, options, text=texts), added).collect_schema()


def _cast(column: "pl.Series", dtype: "pl.DataType") -> "pl.Series":
    """Return a column in its type: a field of a CSV file is read as text."""
    import polars as pl

    if column.dtype == dtype or not isinstance(column.dtype, pl.String):
        return column
    return pl.DataFrame(column).select(cast_text(column.name, dtype, ())).to_series()
