"""Score all rows of a file in a stream."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.bundle._verify import check_files, read_manifest
from recprune_export.bundle.manifest.manifest import MODEL, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.codec import ToDictMixin
from recprune_export.column_names import describe_missing_column
from recprune_export.data.tabular_files import raise_data_errors, scan
from recprune_export.errors import UsageError
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.output_meaning import OutputMeaning, read_meanings
from recprune_export.prediction.encode_requests import EncodedRows, encode_rows
from recprune_export.prediction.write_scores import check_output, write_batches
from recprune_export.program.signature import BATCH, Output, Signature
from recprune_export.progress import progress_bar

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


def predict(
    bundle: Path,
    data: Path,
    output: Path,
    *,
    keep: Sequence[str] = (),
    probability: bool = False,
    threads: int | None = None,
    rows: int = ROWS_PER_RUN,
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
    signature, frame = Signature.from_dict(manifest.signature), scan(data)
    scores = make_score_columns(manifest, signature, probability)
    requests = encode_rows(bundle, manifest, data, frame)
    schema = _make_schema(scores, frame, data, output, keep)
    session = make_session(bundle / MODEL, threads, read_session_options(manifest))
    count = _count_rows(frame, data)
    rows_scored = 0

    def score_chunks() -> Iterator["pl.DataFrame"]:
        nonlocal rows_scored
        with progress_bar(f"Scoring {count:,} rows", -(-count // ROWS_PER_READ)) as advance:
            for chunk in _read_chunks(requests.frame, data, (*requests.columns, *keep)):
                yield _score(chunk, requests, session, scores, keep, rows, rows_scored)
                rows_scored += len(chunk)
                advance("")

    write_batches(output, score_chunks, schema)
    unknown = {name: number for name, number in requests.unknown.items() if number}
    meanings = {score.column: score.meaning for score in scores}
    return Prediction(output, rows_scored, tuple(schema), meanings, unknown, time.perf_counter() - start)


@dataclass(frozen=True)
class ScoreColumn:
    """One column of scores: its output, its meaning, and whether it holds the probabilities of the output's `source`."""

    column: str
    output: Output
    source: OutputMeaning
    meaning: OutputMeaning

    def convert(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the column from those of the output."""
        return values if self.meaning == self.source else self.source.to_probability(values)


def make_score_columns(manifest: Manifest, signature: Signature, probability: bool) -> list[ScoreColumn]:
    """Return a column for each output; each keeps the name of its output where the names with kinds are not distinct.

    Raises `UsageError` for an output without a `probability` where that is requested.
    """
    meanings = read_meanings(manifest.scores, [output.name for output in signature.outputs])
    columns = []
    for output in signature.outputs:
        source = meanings[output.name]
        meaning = source.probability if probability else source
        if meaning is None:
            raise UsageError(
                f"--probability applies to logits, but '{output.name}' is {source.meaning}: leave out --probability."
            )
        columns.append(ScoreColumn(meaning.column(output.name), output, source, meaning))
    if len({column.column for column in columns}) < len(columns):
        return [replace(column, column=column.output.name) for column in columns]
    return columns


def _make_schema(
    scores: Sequence[ScoreColumn], frame: "pl.LazyFrame", data: Path, output: Path, keep: Sequence[str]
) -> "dict[str, pl.DataType]":
    """Return the columns of the result. Raises `UsageError` for a name or an output that cannot be a column."""
    types = frame.collect_schema()
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
    keep: Sequence[str],
    size: int,
    first_row: int,
) -> "pl.DataFrame":
    import polars as pl

    request = requests.request(chunk, first_row)
    answers = [
        run(session, {name: values[start : start + size] for name, values in request.items()})
        for start in range(0, len(chunk), size)
    ]
    columns = [chunk[name] for name in keep]
    for score in scores:
        values = score.convert(np.concatenate([answer[score.output.name] for answer in answers]))
        columns.append(
            pl.Series(score.column, values.ravel() if values.shape[1:] == (1,) else values, _column_type(score.output))
        )
    return pl.DataFrame(columns)
