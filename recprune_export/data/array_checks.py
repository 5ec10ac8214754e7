"""`ArrayChecks`: check whether arrays fit the inputs of a model; they may be given in chunks, and errors refer to all rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recprune_export.data.array_spec import ArraySpec, describe_spread_columns
from recprune_export.data.list_columns import ABSENT, find_present
from recprune_export.errors import DataError

HasAnswer = Callable[
    [Mapping[str, np.ndarray]], np.ndarray
]  # inputs of N rows -> whether a model answers each, bool [N]


class ArrayChecks:
    """Checks of the inputs of a model. `add` checks rows, all at once or chunk by chunk; `raise_error` raises the error, if any.

    Rows with NaN are accepted if `has_answer` is true, that is, if the outputs for them are finite. The error refers to all rows
    together.
    """

    def __init__(self, path: str, inputs: Sequence[ArraySpec], has_answer: HasAnswer | None = None) -> None:
        self._path, self._inputs, self._has_answer = path, inputs, has_answer
        self._checks = {spec.name: InputCheck(path, spec) for spec in inputs}
        self._uneven: dict[str, _BadRows] = {}
        self._unanswered: dict[str, _BadRows] = {}

    def add(self, arrays: Mapping[str, np.ndarray], first_row: int = 0) -> dict[str, np.ndarray]:
        """Return the rows that fit, in the dtypes and shapes of the inputs; `first_row` is the position of the first row."""
        requests = {}
        for name, check in self._checks.items():
            values = check.add(arrays[name], first_row)
            if values is not None:
                requests[name] = values
        if len(requests) == len(self._inputs):
            for spec in self._inputs:
                if spec.jagged not in (None, spec.name):
                    _merge(self._uneven, spec.name, _find_uneven_row(spec, requests, first_row))
            if not self._uneven and all(check.fits for check in self._checks.values()):
                self._find_unanswered(requests, first_row)
        return requests

    def raise_error(self) -> None:
        """Raise `DataError` if rows did not fit."""
        for check in self._checks.values():
            check.raise_error()
        raise_uneven_rows(self._path, self._inputs, self._uneven)
        for check in self._checks.values():
            check.raise_infinity()
        for name, found in self._unanswered.items():
            reason = "the model returns NaN for these rows: fill the missing values or leave out these rows"
            raise _refused_numbers(self._path, name, found, "NaN", reason)

    def _find_unanswered(self, requests: Mapping[str, np.ndarray], first_row: int) -> None:
        floats = [i for i in self._inputs if i.jagged is None and np.issubdtype(np.dtype(i.dtype), np.floating)]
        missing = {i.name: np.isnan(requests[i.name]) for i in floats}
        if not missing:
            return
        rows = np.flatnonzero(np.logical_or.reduce([_any_in_row(mask) for mask in missing.values()]))
        if not len(rows):
            return
        refused = np.ones(len(rows), dtype=bool)
        if self._has_answer is not None:
            refused = ~self._has_answer({name: values[rows] for name, values in requests.items()})
        for name, mask in missing.items():
            places = np.zeros_like(mask)
            places[rows[refused]] = mask[rows[refused]]
            _merge(self._unanswered, name, _find_places(places, first_row))
        self._unanswered = {i.name: self._unanswered[i.name] for i in floats if i.name in self._unanswered}


class InputCheck:
    """The checks of one input, over one or several chunks of rows."""

    def __init__(self, path: str, spec: ArraySpec) -> None:
        self._path, self._spec = path, spec
        self._bad: dict[Any, _BadRows] = {}
        self._shape: str | None = None
        self._dtype: np.dtype | None = None  # the dtype of values that the input does not accept
        self._text: str | None = None

    @property
    def fits(self) -> bool:
        """Whether all rows so far fit."""
        return not self._bad and self._shape is None and self._dtype is None

    def add(self, values: np.ndarray, first_row: int = 0) -> np.ndarray | None:
        """Return `values` in the dtype and shape of the input; None if they do not fit."""
        spec, dtype = self._spec, np.dtype(self._spec.dtype)
        if values.ndim == 1 and (spec.shape == (1,) or spec.jagged is not None):
            values = values[:, None]
        is_integer = np.issubdtype(dtype, np.integer)
        if spec.jagged is not None:
            if values.shape[2:] != spec.shape[1:] or values.ndim < 2:
                self._shape = f"has rows of shape {list(values.shape[1:])}; the model expects lists."
                return None
            values = _whole_elements(self._cut(values, first_row)) if is_integer else self._cut(values, first_row)
        elif values.ndim == 1 and spec.shape and values.dtype.kind in "OUST":
            text = next((value for value in values if isinstance(value, str)), None)
            held = "objects" if text is None else f"text such as '{text}'"
            columns = describe_spread_columns(spec)
            self._shape = (
                f"contains {held}; the model expects rows of {list(spec.shape)} numbers: give lists of numbers in "
                f"Parquet{f', or {columns}' if columns else ''}."
            )
            return None
        elif values.shape[1:] != spec.shape:
            self._shape = f"has rows of shape {list(values.shape[1:])}; the model expects {list(spec.shape)}."
            return None
        elif is_integer and values.dtype.kind == "f":
            missing = _any_in_row(np.isnan(values))
            _merge(self._bad, "missing", _find_rows(missing, first_row))
            if missing.any():
                return None
            if np.isfinite(values).all() and (values == np.floor(values)).all():
                values = values.astype(np.int64)  # integers that a file writes as 12.0
        if not np.can_cast(values.dtype, dtype, "same_kind"):
            self._dtype = values.dtype if self._dtype is None else _join_dtypes(self._dtype, values.dtype)
            if self._text is None and values.dtype.kind in "OUST":
                self._text = next((value for value in values.ravel() if isinstance(value, str)), None)
            return None
        self._check_ids(values, first_row)
        values = np.ascontiguousarray(values, dtype=dtype)
        if dtype.kind in "fc":
            _merge(self._bad, "infinity", _find_places(np.isinf(values), first_row))
        return values

    def raise_error(self, first_row: int | None = None) -> None:
        """Raise `DataError` if rows do not fit. `first_row` is the position of the first row, if not all rows were added."""
        spec = self._spec
        where = f"'{spec.name}' in {self._path}"
        if self._shape is not None:
            raise DataError(f"{where} {self._shape}")
        if "longer" in self._bad:
            raise DataError(
                f"{where} has more than {spec.width} elements in {self._bad['longer']}: set --padded to the length of the longest row."
            )
        if "missing" in self._bad:
            missing = self._bad["missing"]
            rows = str(missing) if first_row is None else f"row {missing.first:,}"
            raise DataError(f"{where} is missing in {rows}: fill the missing values, or leave out these rows.")
        if self._dtype is not None:
            is_text = self._dtype.kind in "OUST"
            held = str(self._dtype) if not is_text else f"objects of {self._dtype}"
            held = held if self._text is None else f"text such as '{self._text}'"
            raise DataError(
                f"{where} contains {held}; the model expects {spec.dtype}{_suggest_ids(spec) if is_text else ''}."
            )
        for column, pair in enumerate(spec.ids):
            if pair is not None and column in self._bad:
                found = self._bad[column]
                place = f"'{spec.name}'" + ("" if len(spec.ids) == 1 else f", column {column},")
                kind = "NaN" if np.isnan(found.detail) else f"the id {found.detail:g}"
                more = f" (the first of {found.count:,} such rows)" if found.count > 1 else ""
                raise DataError(
                    f"{place} in {self._path} contains {kind} at row {found.first}{more}, but the table has ids {pair[0]} to "
                    f"{pair[1]}: replace it by the id of unknown values, or leave out these rows."
                )

    def raise_infinity(self) -> None:
        """Raise `DataError` if a number is infinite."""
        if "infinity" in self._bad:
            reason = "clip the values or leave out these rows"
            raise _refused_numbers(self._path, self._spec.name, self._bad["infinity"], "infinity", reason)

    def _cut(self, values: np.ndarray, first_row: int) -> np.ndarray:
        """Return lists of at most `width` elements; longer ones are noted."""
        width = self._spec.width
        if width is None or values.shape[1] <= width:
            return values
        longer = np.asarray(find_present(values[:, width:]).any(axis=1))
        _merge(self._bad, "longer", _find_rows(longer, first_row))
        return values[:, :width]

    def _check_ids(self, values: np.ndarray, first_row: int) -> None:
        ids_by_column = self._spec.ids if len(values) else ()
        for column, pair in enumerate(ids_by_column):
            if pair is None:
                continue
            several = len(ids_by_column) > 1
            ids = values.reshape(len(values), -1, len(ids_by_column))[..., column] if several else values
            outside = ~((ids >= pair[0]) & (ids <= pair[1]))  # NaN is also refused
            if self._spec.jagged is not None:
                outside &= ids != ABSENT
            if outside.any():
                found = _find_rows(_any_in_row(outside), first_row)
                _merge(self._bad, column, None if found is None else replace(found, detail=ids[outside].flat[0]))


def check_input_array(path: str, spec: ArraySpec, values: np.ndarray, first_row: int | None = None) -> np.ndarray:
    """Return `values` in the dtype and shape of an input.

    `first_row` is the position of their first row in `path`, None if they are all of its rows.

    Raises `DataError` if they have another shape or kind, or hold an id outside the table.
    """
    check = InputCheck(path, spec)
    checked = check.add(values, first_row or 0)
    check.raise_error(first_row)
    assert checked is not None
    return checked


def check_jagged_rows(path: str, inputs: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `DataError` if a row has different numbers of elements in inputs that belong together."""
    uneven: dict[str, _BadRows] = {}
    for spec in inputs:
        if spec.jagged not in (None, spec.name):
            _merge(uneven, spec.name, _find_uneven_row(spec, arrays, 0))
    raise_uneven_rows(path, inputs, uneven)


def raise_uneven_rows(path: str, inputs: Sequence[ArraySpec], uneven: "Mapping[str, _BadRows]") -> None:
    """Raise `DataError` for the first input, in their order, with rows of another number of elements."""
    for spec in inputs:
        if spec.name in uneven:
            found = uneven[spec.name]
            one, other = found.detail
            raise DataError(
                f"Row {found.first} of {path} has {one} elements in '{spec.jagged}' and {other} in '{spec.name}': both must have "
                "the same number of elements."
            )


@dataclass(frozen=True)
class _BadRows:
    """The number of rows with a fault, the index of the `first` of them, and the text of its error."""

    count: int
    first: int
    detail: Any = None

    def __str__(self) -> str:
        first = f"row {self.first:,}"
        return first if self.count == 1 else f"{self.count:,} rows (the first is {first})"


def _merge(found: dict[Any, _BadRows], key: Any, more: _BadRows | None) -> None:
    """Add the rows of a later chunk to those that have the same fault."""
    if more is not None:
        found[key] = replace(found[key], count=found[key].count + more.count) if key in found else more


def _find_rows(bad: Any, first_row: int) -> _BadRows | None:
    """Return the rows of a mask, bool [N]."""
    count = int(np.count_nonzero(bad))
    return _BadRows(count, first_row + int(np.argmax(bad))) if count else None


def _any_in_row(mask: np.ndarray) -> np.ndarray:
    """Return whether any number of each row is in a mask, bool [N, ...]; N may be 0."""
    return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))


def _find_places(places: np.ndarray, first_row: int) -> _BadRows | None:
    """Return the rows of a mask of numbers, bool [N, ...], with the position of the first number in its row."""
    found = _find_rows(_any_in_row(places), first_row)
    if found is None or places.ndim == 1:
        return found
    return replace(found, detail=int(np.argmax(places[found.first - first_row].reshape(-1))))


def _find_uneven_row(spec: ArraySpec, arrays: Mapping[str, np.ndarray], first_row: int) -> _BadRows | None:
    assert spec.jagged is not None
    one, other = (find_present(arrays[name]).sum(1) for name in (spec.jagged, spec.name))
    found = _find_rows(one != other, first_row)
    if found is None:
        return None
    return replace(found, detail=(one[found.first - first_row], other[found.first - first_row]))


def _refused_numbers(path: str, name: str, found: _BadRows, kind: str, reason: str) -> DataError:
    column = "" if found.detail is None else f", column {found.detail},"
    several = "s" if found.count > 1 else ""
    return DataError(
        f"'{name}'{column} in {path} contains {kind} in {found.count:,} row{several}, such as row {found.first}: {reason}."
    )


def _whole_elements(values: np.ndarray) -> np.ndarray:
    """Return integers as integers, with `ABSENT` for missing ones; other values unchanged."""
    if values.dtype.kind != "f":
        return values
    present = ~np.isnan(values)
    whole = (values[present] == np.floor(values[present])).all()
    return np.where(present, values, ABSENT).astype(np.int64) if whole else values


def _join_dtypes(one: np.dtype, other: np.dtype) -> np.dtype:
    try:
        return np.promote_types(one, other)
    except TypeError:
        return one


def _suggest_ids(spec: ArraySpec) -> str:
    pair = next((pair for pair in spec.ids if pair is not None), None)
    if pair is None:
        return ": write numbers"
    return f": write ids from {pair[0]} to {pair[1]}, as the model was trained with them"
