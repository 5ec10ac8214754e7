"""`Scorer`: compute the columns of scores of requests with any number of rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.errors import DataError, UsageError
from recprune_export.onnx.runtime.session import describe_runtime_error, run
from recprune_export.prediction.open_model import OpenModel
from recprune_export.prediction.score_columns import ScoreColumn, make_score_columns

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_RUN = 4096
ROWS_PER_READ = 65_536  # rows encoded together
_RUN_BYTES, _READ_BYTES = 32 << 20, 256 << 20  # the bytes of the scores of one run, and of rows that are read together
_BYTES_OF_TEXT = 64


@dataclass(frozen=True)
class Scorer:
    """Computes `columns` of a model, at most `batch_size` rows in a run."""

    model: OpenModel
    columns: Sequence[ScoreColumn]
    batch_size: int = ROWS_PER_RUN

    @property
    def rows_per_run(self) -> int:
        """Rows of a run: fewer than `batch_size` if each has many scores, such as those of all items."""
        return max(1, min(self.batch_size, _RUN_BYTES // self._bytes_per_row))

    @property
    def rows_per_read(self) -> int:
        """Rows whose scores may be in memory at the same time."""
        return max(1, min(ROWS_PER_READ, _READ_BYTES // self._bytes_per_row))

    @property
    def _bytes_per_row(self) -> int:
        return sum(
            prod(column.shape) * (_BYTES_OF_TEXT if column.is_text else np.dtype(column.output.dtype).itemsize)
            for column in self.columns
        )

    def score(self, source: DataFile, request: Request, first_row: int = 0) -> list[np.ndarray]:
        """Return the values of each column, [rows, ...], for a request in which shared inputs have a value in each row.

        All rows with equal shared values form one request of the model. `source` names the rows in messages; the first of them is row
        `first_row` there.

        Raises `DataError` if a number that is not finite makes the model answer NaN, or ONNX Runtime refuses a request.
        """
        rows = max((len(values) for values in request.values()), default=0)
        answers = {c.output.name: np.zeros((rows, *c.shape), dtype=c.output.dtype) for c in self.columns}
        if any(column.is_text for column in self.columns):
            answers = {
                name: values.astype(object) if values.dtype.kind == "U" else values for name, values in answers.items()
            }
        shared = [i.name for i in self.model.signature.inputs if i.shared]
        for places in self._list_runs(request, shared, rows):
            part = {name: values[places] for name, values in request.items()}
            part |= {name: part[name][:1] for name in shared}
            for name, values in self._run(source, part, first_row).items():
                if name in answers:
                    answers[name][places] = values.reshape(answers[name][places].shape)
        _check_answers(source, request, answers, first_row)
        return [column.convert(answers[column.output.name]) for column in self.columns]

    def _list_runs(self, request: Request, shared: Sequence[str], rows: int) -> Iterator[slice | np.ndarray]:
        """Yield the positions of the rows of each run."""
        size = self.rows_per_run
        if not shared:
            yield from (slice(start, start + size) for start in range(0, rows, size))
            return
        for places in find_equal_rows([request[name] for name in shared]):
            yield from (places[start : start + size] for start in range(0, len(places), size))

    def _run(self, source: DataFile, part: Request, first_row: int) -> dict[str, np.ndarray]:
        try:
            return run(self.model.session, part)
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's classes have no common base
            raise DataError(
                f"ONNX Runtime refuses rows of {source} from row {first_row} on: {describe_runtime_error(error)}"
            ) from error


def make_scorer(model: OpenModel, probability: bool = False, batch_size: int = ROWS_PER_RUN) -> Scorer:
    """Return the scorer of a model.

    Raises `UsageError` for an output that cannot be a column, or that has no probability if that is requested.
    """
    columns = make_score_columns(model.manifest, model.signature, probability)
    for column in columns:
        column.check_rows()
    return Scorer(model, columns, batch_size)


def find_equal_rows(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the positions of each set of rows that are equal in all arrays, in the order of their first rows.

    >>> [places.tolist() for places in find_equal_rows([np.array([7, 5, 7]), np.array([1.0, np.nan, 1.0])])]
    [[0, 2], [1]]
    """
    rows = [np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8) for values in arrays]
    content = np.ascontiguousarray(np.concatenate(rows, axis=1))
    keys = content.view(f"V{content.shape[1]}").ravel()
    groups: dict[bytes, int] = {}
    codes = np.array([groups.setdefault(key, len(groups)) for key in map(bytes, keys)], dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1]) if len(codes) else []


def to_series(column: ScoreColumn, values: np.ndarray) -> "pl.Series":
    """Return the values of a column as a column of polars; several numbers for each row are a fixed-size list."""
    import polars as pl

    kind = column_type(column)
    flat = pl.Series(column.column, values.ravel() if values.dtype != object else values.ravel().tolist())
    return flat.reshape(values.shape[:1] + column.inner).cast(kind) if column.inner else flat.cast(kind)


def column_type(column: ScoreColumn) -> "pl.DataType":
    """Return the type of the column of polars."""
    import polars as pl

    number = pl.String() if column.is_text else pl.Series(np.zeros(1, column.output.dtype)).dtype
    return pl.Array(number, column.inner) if column.inner else number


def _check_answers(
    source: DataFile, request: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], first_row: int
) -> None:
    """Raise `DataError` if a number that is not finite makes the model answer NaN."""
    floats = [values for values in answers.values() if values.dtype.kind == "f" and len(values)]
    if not floats:
        return
    unanswered = np.logical_or.reduce([np.isnan(v).reshape(len(v), -1).any(axis=1) for v in floats])
    if not unanswered.any():
        return
    for name, values in request.items():
        if values.dtype.kind == "f":
            odd = np.flatnonzero(unanswered & ~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            if len(odd):
                more = f" and in {len(odd) - 1:,} of the next {len(values) - 1:,} rows" if len(odd) > 1 else ""
                raise DataError(
                    f"'{name}' in {source} contains NaN or infinity at row {first_row + odd[0]}{more}, for which the model returns "
                    "NaN: fill the missing values or leave out these rows."
                )
