"""Score all rows of a file in a stream."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.bundle._verify import check_files, read_manifest
from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.codec import ToDictMixin
from recprune_export.column_names import describe_missing_column
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.csv_types import cast_text
from recprune_export.data.tabular_files import raise_data_errors, read_column_names, scan
from recprune_export.errors import DataError, UsageError
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.output_meaning import OutputMeaning
from recprune_export.prediction.encode_requests import EncodedRows, encode_rows
from recprune_export.prediction.score_columns import ScoreColumn, make_score_columns
from recprune_export.prediction.write_scores import check_output, write_batches
from recprune_export.program.signature import BATCH, Output, Signature
from recprune_export.progress import progress_bar
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_READ = 65_536  # rows encoded at once: each call hashes the vocabularies again
ROWS_PER_RUN = 4096


@dataclass(frozen=True)
class Prediction(ToDictMixin):
    """Result of `predict`.

    `scores`: the meaning of each column of scores. `unknown`: by column, number of values without their own id, or of missing
    numbers.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]
    scores: Mapping[str, OutputMeaning]
    unknown: Mapping[str, int]
    seconds: float
    notes: tuple[str, ...] = ()


def predict(
    bundle: Path,
    data: Path,
    output: Path,
    *,
    keep: Sequence[str] = (),
    probability: bool = False,
    threads: int | None = None,
    rows: int = ROWS_PER_RUN,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> Prediction:
    """Score every row of a CSV or Parquet file; write the outputs, in the order of the rows, as a CSV or Parquet file.

    The columns are those named in `keep`, unchanged, and the outputs of the signature, each named after the output and its kind
    (`clicked_logit`); an output of several numbers for each row is a fixed-size list. With `probability` the logits become
    probabilities (`clicked_probability`). `rows` is the batch size of the model. Raw values are encoded with the bundle's
    vocabularies; without them, columns must have the names of the inputs. `output` is complete or absent.

    Raises `BundleError`, `DataError`, and `UsageError` for an output that cannot be written, a model that does not take rows, or
    an output that has no probability.
    """
    start = time.perf_counter()
    check_output(output, data)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    signature = Signature.from_dict(manifest.signature)
    scores = make_score_columns(manifest, signature, probability)
    requests = encode_rows(bundle, manifest, data, reading, keep)
    schema = _make_schema(scores, _read_types(data, reading, keep), data, output, keep)
    session = make_session(bundle / MODEL, threads, read_session_options(manifest))
    count = _count_rows(requests.frame, data)
    rows_scored = 0
    notes: tuple[str, ...] = ()

    def score_chunks() -> Iterator["pl.DataFrame"]:
        nonlocal rows_scored, notes
        with progress_bar(f"Scoring {count:,} rows", -(-count // ROWS_PER_READ)) as advance:
            for chunk in _read_chunks(requests.frame, data, (*requests.columns, *keep)):
                yield _score(chunk, requests, session, scores, {name: schema[name] for name in keep}, rows, rows_scored)
                rows_scored += len(chunk)
                advance("")
        notes = requests.judge()

    write_batches(output, score_chunks, schema)
    unknown = {name: number for name, number in requests.unknown.items() if number}
    meanings = {score.column: score.meaning for score in scores}
    return Prediction(output, rows_scored, tuple(schema), meanings, unknown, time.perf_counter() - start, notes)


def _read_types(data: Path, reading: DataSettings, keep: Sequence[str]) -> "Mapping[str, pl.DataType]":
    """Return the types of all columns; those of a CSV file are texts, but for the columns in `keep`."""
    options = CsvOptions(reading.separator, reading.encoding)
    texts = [name for name in read_column_names(data, options) if name not in keep]
    return scan(data, options, text=texts).collect_schema()


def _check_answers(
    request: Mapping[str, np.ndarray], answers: Sequence[Mapping[str, np.ndarray]], first_row: int
) -> None:
    """Raise `DataError` where a number that is not finite makes the model answer NaN."""
    unanswered = np.concatenate(
        [
            np.logical_or.reduce(
                [np.isnan(v).reshape(len(v), -1).any(axis=1) for v in a.values() if v.dtype.kind == "f"]
            )
            if any(v.dtype.kind == "f" for v in a.values())
            else np.zeros(len(next(iter(a.values()))), dtype=bool)
            for a in answers
        ]
    )
    for name, values in request.items():
        if values.dtype.kind == "f" and unanswered.any():
            odd = np.flatnonzero(unanswered & ~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            if len(odd):
                more = f" and in {len(odd) - 1:,} of the next {len(values) - 1:,} rows" if len(odd) > 1 else ""
                raise DataError(
                    f"'{name}' holds NaN or infinity at row {first_row + odd[0]}{more}, and the model answers NaN there: fill the "
                    "missing values or leave these rows out."
                )


def _make_schema(
    scores: Sequence[ScoreColumn], types: "Mapping[str, pl.DataType]", data: Path, output: Path, keep: Sequence[str]
) -> "dict[str, pl.DataType]":
    """Return the columns of the result. Raises `UsageError` for a name or an output that cannot be a column."""
    for name in keep:
        if name not in types:
            raise UsageError(describe_missing_column(data, name, types, "which --keep names"))
        if name in {score.column for score in scores}:
            raise UsageError(f"--keep names '{name}', but an output of the model has the same name: leave it out.")
    schema = {name: types[name] for name in keep} | {score.column: _column_type(score.output) for score in scores}
    lists = [name for name, kind in schema.items() if kind.is_nested()]
    if lists and output.suffix.lower() == ".csv":
        raise UsageError(f"'{lists[0]}' is a list in each row, which CSV does not hold: write a .parquet file.")
    return schema


def _column_type(tensor: Output) -> "pl.DataType":
    import polars as pl

    if not tensor.shape or tensor.shape[0] != BATCH or not all(isinstance(n, int) for n in tensor.shape[1:]):
        raise UsageError(
            f"The output '{tensor.name}' does not have one row for each row of a request, so it cannot be a column."
        )
    inner = tuple(n for n in tensor.shape[1:] if isinstance(n, int))
    number = pl.Series(np.zeros(1, tensor.dtype)).dtype
    return number if inner in ((), (1,)) else pl.Array(number, inner)


def _count_rows(frame: "pl.LazyFrame", path: Path) -> int:
    import polars as pl

    with raise_data_errors(path):
        return int(frame.select(pl.len()).collect(engine="streaming").item())


def _read_chunks(frame: "pl.LazyFrame", path: Path, columns: Sequence[str]) -> Iterator["pl.DataFrame"]:
    with raise_data_errors(path):
        yield from frame.select(*dict.fromkeys(columns)).collect_batches(chunk_size=ROWS_PER_READ, engine="streaming")


def _score(
    chunk: "pl.DataFrame",
    requests: EncodedRows,
    session: Any,
    scores: Sequence[ScoreColumn],
    keep: "Mapping[str, pl.DataType]",
    size: int,
    first_row: int,
) -> "pl.DataFrame":
    import polars as pl

    request = requests.request(chunk, first_row)
    answers = [
        run(session, {name: values[start : start + size] for name, values in request.items()})
        for start in range(0, len(chunk), size)
    ]
    _check_answers(request, answers, first_row)
    columns = [_cast(chunk[name], dtype) for name, dtype in keep.items()]
    for score in scores:
        values = score.convert(np.concatenate([answer[score.output.name] for answer in answers]))
        columns.append(
            pl.Series(score.column, values.ravel() if values.shape[1:] == (1,) else values, _column_type(score.output))
        )
    return pl.DataFrame(columns)


def _cast(column: "pl.Series", dtype: "pl.DataType") -> "pl.Series":
    """Return a column in its type: a field of a CSV file is read as text."""
    import polars as pl

    if column.dtype == dtype or not isinstance(column.dtype, pl.String):
        return column
    return pl.DataFrame(column).select(cast_text(column.name, dtype, ())).to_series()
