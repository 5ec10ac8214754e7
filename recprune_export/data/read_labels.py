"""`read_labels`: read labels and weights of rows from columns of any type, before the job starts.

Labels are then numbers, NaN where they are missing. Each recoding is reported in a note.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from recprune_export.column_names import list_names
from recprune_export.data.encoding.canonical_text import MISSING_WORDS
from recprune_export.data.label_moments import RowMoments, measure_labels
from recprune_export.data.labels import MAX_LISTED_WORDS, LabelKind, LabelValues
from recprune_export.data.occurrences import Occurrences
from recprune_export.data.row_source import RowSource
from recprune_export.errors import DataError

_MISSING_WORDS = frozenset(word.casefold() for word in MISSING_WORDS)
YES_WORDS, NO_WORDS = frozenset({"yes", "y", "true", "t"}), frozenset({"no", "n", "false", "f"})


@dataclass(frozen=True)
class LabelColumns:
    """Labels of N rows, float32 [N] with NaN for missing ones, and weights, float32 [N] or None.

    `known` marks the rows with at least one label, bool [N]; the others are to be left out. `values` describes the labels of these rows,
    `total` is the number of rows, more than N if each of the N values represents several.
    """

    labels: Mapping[str, np.ndarray]
    weights: np.ndarray | None
    known: np.ndarray
    values: Mapping[str, LabelValues]
    notes: tuple[str, ...]
    total: int = 0


def read_labels(
    source: object,
    columns: Mapping[str, np.ndarray],
    *,
    missing: str | None = None,
    kinds: Mapping[str, LabelKind] | None = None,
    weights: tuple[str, np.ndarray] | None = None,
    occurrences: Occurrences | None = None,
) -> LabelColumns:
    """Read labels by name from `columns`, each [N] of any type, and the column `weights` with its name.

    Empty values, NaN and the value `missing` are missing, and so are the usual words for missing values, except among strings that are
    classes. `kinds`, if any, are the kinds of the labels for which the model was trained. With `occurrences`, each of the N values
    represents the given number of rows, and messages and counts refer to all rows.

    Raises `DataError` for labels or weights that are not numbers, are infinite or do not fit their kind.
    """
    kinds = kinds or {}
    first = next(iter(columns.values()), () if weights is None else weights[1])
    occurrences = occurrences or Occurrences.once(len(first))
    read = {
        name: _read_label(source, name, column, missing, kinds.get(name), occurrences)
        for name, column in columns.items()
    }
    labels = {name: label.numbers.astype(np.float32) for name, label in read.items()}
    notes = [note for label in read.values() for note in label.notes]
    if missing is not None and not any(label.stated for label in read.values()):
        notes.append(f"No label contains {missing}, the value of --missing-label.")
    missing_labels = [np.isnan(values) for values in labels.values()]
    known = ~np.logical_and.reduce(missing_labels) if labels else np.ones(0, dtype=bool)
    notes += _describe_missing(labels, known, occurrences)
    summaries = {
        name: LabelValues.summarize(label.numbers, label.words, kinds.get(name), occurrences.weights)
        for name, label in read.items()
    }
    read_weights = None if weights is None else _read_weights(source, *weights, occurrences)
    if weights is not None:
        notes.append(f"Rows are weighted by '{weights[0]}' in loss and metrics.")
    return LabelColumns(labels, read_weights, known, summaries, tuple(notes), occurrences.total)


def check_any_label(source: object, read: LabelColumns) -> None:
    """Raise `DataError` if no row has a label."""
    if read.labels and not read.known.any():
        names = " and ".join(f"'{name}'" for name in read.labels)
        verb = "labels {} are" if len(read.labels) > 1 else "label {} is"
        raise DataError(
            f"The {verb.format(names)} missing in all {read.total:,} rows of {source}: give another column with --label."
        )


def refuse_texts(source: object, read: LabelColumns) -> None:
    """Raise `DataError` for classes of strings, which no recommender learns."""
    for name, values in read.values.items():
        if values.words:
            raise DataError(
                f"The label '{name}' of {source} contains {values.describe()}, but a recommender requires 0 and 1 or numbers: write "
                f"{_suggest_codes(values.words)}."
            )


def _suggest_codes(words: Sequence[str]) -> str:
    if len(words) > 2:
        return "numbers, or one label of 0 and 1 per text, or give a text that stands for a missing value with --missing-label"
    return f"1 for one of them and 0 for {'the other' if len(words) == 2 else 'the rows without it'}"


def check_training_rows(source: object, rows: RowSource) -> RowMoments:
    """Return the moments of the labels of training rows, which are read once.

    Raises `DataError` if a label cannot be learned, because it is missing, or the weight is 0, in all of them.
    """
    measured = measure_labels(rows)
    empty = next((name for name, moments in measured.labels.items() if not moments.count), None)
    if empty is not None:
        raise DataError(
            f"The label '{empty}' is missing in all {len(rows):,} training rows of {source}: leave out --label {empty}, or give "
            "rows with this label."
        )
    if not measured.any_weight:
        raise DataError(f"The weight is 0 in all {len(rows):,} training rows of {source}: give positive weights.")
    return measured


def describe_constant_labels(measured: RowMoments) -> tuple[str, ...]:
    """Return a note for each label that has one value in all training rows; `measured` are the moments of these rows."""
    return tuple(
        f"The label '{name}' is {moments.low:g} in all training rows that have it, so only this constant can be learned: give rows "
        "with other values, or another column with --label."
        for name, moments in measured.labels.items()
        if moments.count and moments.low == moments.high
    )


@dataclass(frozen=True)
class _Label:
    """Numbers, float64 [N]; `stated` if the stated value for missing labels occurs."""

    numbers: np.ndarray
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stated: bool = False


def _read_label(
    source: object,
    name: str,
    column: np.ndarray,
    missing: str | None,
    kind: LabelKind | None,
    occurrences: Occurrences,
) -> _Label:
    column = _check_shape(source, name, column)
    texts = _find_texts(column)
    label = (
        _read_numbers(source, name, column, missing)
        if texts is None
        else _read_texts(source, name, texts, missing, kind)
    )
    with np.errstate(over="ignore"):
        infinite = np.flatnonzero(np.isinf(label.numbers.astype(np.float32)))
    if len(infinite):
        raise DataError(
            f"The label '{name}' of {source} contains infinity in {_count(infinite, occurrences)}: clip it, or leave it empty there."
        )
    if kind in (None, LabelKind.BINARY):
        label = _recode_signs(name, label)
    if kind is LabelKind.BINARY:
        _check_binary(source, name, label.numbers, occurrences)
    return label


def _check_shape(source: object, name: str, column: np.ndarray) -> np.ndarray:
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise DataError(
            f"The label '{name}' of {source} has rows of shape {list(column.shape[1:])}, but a label is one number for each row: "
            "give a column for each label."
        )
    if column.dtype.kind not in "biufOUS":
        raise DataError(
            f"The label '{name}' of {source} contains {column.dtype}, but a label is one number for each row."
        )
    return column


def _find_texts(column: np.ndarray) -> np.ndarray | None:
    """Return a column of strings as objects, None if a value is missing; None for a column of numbers."""
    if column.dtype.kind == "U":
        return column.astype(object)
    if column.dtype.kind == "S":
        return np.array([value.decode("utf-8", "replace") for value in column], dtype=object)
    if column.dtype.kind != "O":
        return None
    values = [None if _is_missing(value) else value for value in column]
    if any(isinstance(value, str | bytes) for value in values):
        texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values)
        return np.array([None if text is None else str(text) for text in texts], dtype=object)
    return None


def _is_missing(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA is neither true nor false
        return True


def _read_numbers(source: object, name: str, column: np.ndarray, missing: str | None) -> _Label:
    if column.dtype.kind == "O":
        values = [np.nan if _is_missing(value) else value for value in column]
        wrong = next((v for v in values if not isinstance(v, int | float | Decimal | np.number | np.bool_)), None)
        if wrong is not None:
            raise DataError(
                f"The label '{name}' of {source} contains {type(wrong).__name__}, but a label is one number for each row."
            )
        numbers = np.array([float(value) for value in values])
    else:
        numbers = column.astype(np.float64)
    value = parse_number(missing)
    stated = np.zeros(len(numbers), dtype=bool) if value is None else numbers == value
    return _Label(np.where(stated, np.nan, numbers), stated=bool(stated.any()))


def _read_texts(source: object, name: str, texts: np.ndarray, missing: str | None, kind: LabelKind | None) -> _Label:
    words, index = np.unique(["" if text is None else text.strip() for text in texts], return_inverse=True)
    is_stated = np.array([_equals(word, missing) for word in words], dtype=bool)
    is_word = np.array([word.casefold() in _MISSING_WORDS for word in words], dtype=bool)
    is_trained = kind in (LabelKind.BINARY, LabelKind.NUMBER)
    if not is_trained and any(_is_class(word) for word in words[~is_stated & ~is_word]):
        is_word = words == ""  # "none" among "buy" and "view" is a class
    is_known = ~is_stated & ~is_word
    known = [str(word) for word in words[is_known]]
    codes, note, classes = _code_words(source, name, known, kind)
    numbers = np.full(len(words), np.nan)
    numbers[is_known] = codes
    notes = (note,) if known else ()
    return _Label(numbers[index], classes, notes, bool(is_stated.any()))


def _is_class(word: str) -> bool:
    """Return whether a text is neither a number nor a word for 0 or 1."""
    return parse_number(word) is None and word.casefold() not in YES_WORDS | NO_WORDS


def _code_words(
    source: object, name: str, words: Sequence[str], kind: LabelKind | None
) -> tuple[list[float], str, tuple[str, ...]]:
    """Return the codes of the words, a note, and the words of classes."""
    parsed = [parse_number(word) for word in words]
    if all(number is not None for number in parsed):
        return (
            [float(n or 0.0) for n in parsed],
            f"The label '{name}' is text that contains numbers; it is read as numbers.",
            (),
        )
    folded = [word.casefold() for word in words]
    if all(word in YES_WORDS | NO_WORDS | {"0", "1"} for word in folded):
        yes = [word in YES_WORDS | {"1"} for word in folded]
        ones, zeros = ([repr(w) for w, one in zip(words, yes, strict=True) if one is side] for side in (True, False))
        meaning = " and ".join(f"{' and '.join(side)} as {code}" for side, code in ((ones, 1), (zeros, 0)) if side)
        return [float(one) for one in yes], f"The label '{name}' is text: {meaning}.", ()
    if kind in (LabelKind.BINARY, LabelKind.NUMBER):
        example = next(word for word, number in zip(words, parsed, strict=True) if number is None)
        raise DataError(
            f"The label '{name}' of {source} contains the text '{example}', but the model was trained with "
            f"{'0 and 1' if kind is LabelKind.BINARY else 'numbers'}: convert the label, or give this text with --missing-label."
        )
    codes = list_names((f"'{word}' {code}" for code, word in enumerate(words)), MAX_LISTED_WORDS)
    note = f"The label '{name}' is text: its values are classes in alphabetical order: {codes}."
    return [float(code) for code in range(len(words))], note, tuple(words)


def _recode_signs(name: str, label: _Label) -> _Label:
    """Return -1 and 1 as 0 and 1."""
    known = label.numbers[~np.isnan(label.numbers)]
    if label.words or not (known == -1.0).any() or not np.isin(known, (-1.0, 1.0)).all():
        return label
    numbers = np.where(label.numbers == -1.0, 0.0, label.numbers)
    note = f"The label '{name}' contains -1 and 1, which are read as 0 and 1."
    return _Label(numbers, (), (*label.notes, note), label.stated)


def _check_binary(source: object, name: str, numbers: np.ndarray, occurrences: Occurrences) -> None:
    wrong = np.flatnonzero(~np.isnan(numbers) & (numbers != 0.0) & (numbers != 1.0))
    if len(wrong):
        raise DataError(
            f"The label '{name}' of {source} must be 0 or 1 in every row, as in training, but it is "
            f"{numbers[wrong[0]]:g} in {_count(wrong, occurrences)}."
        )


def _describe_missing(labels: Mapping[str, np.ndarray], known: np.ndarray, occurrences: Occurrences) -> list[str]:
    rows, dropped = occurrences.total, occurrences.count(~known)
    if len(labels) == 1:
        (name,) = labels
        return (
            [f"The label '{name}' is missing in {dropped:,} of {rows:,} rows, which are left out."] if dropped else []
        )
    counts = {name: occurrences.count(np.isnan(values)) for name, values in labels.items()}
    notes = [
        f"The label '{name}' is missing in {count:,} of {rows:,} rows; they are ignored in its loss and metrics."
        for name, count in counts.items()
        if count
    ]
    return [*notes, *([f"{dropped:,} of {rows:,} rows have none of the labels and are left out."] if dropped else [])]


def _read_weights(source: object, name: str, column: np.ndarray, occurrences: Occurrences) -> np.ndarray:
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.dtype.kind == "O":
        values = [np.nan if _is_missing(value) else value for value in column]
        numeric = all(isinstance(value, int | float | Decimal | np.number | np.bool_) for value in values)
        column = np.array([float(value) for value in values]) if numeric else column
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        raise DataError(
            f"The column '{name}' of {source} contains {column.dtype}, but --weight requires one number per row."
        )
    weights = column.astype(np.float32)
    for wrong, problem in (
        (np.isnan(weights), "is missing"),
        (np.isinf(weights), "is infinite"),
        (weights < 0.0, "is negative"),
    ):
        rows = np.flatnonzero(wrong)
        if len(rows):
            raise DataError(
                f"The weight '{name}' of {source} {problem} in {_count(rows, occurrences)}: give a number of 0 or more in every row."
            )
    if not weights.any():
        raise DataError(f"The weight '{name}' of {source} is 0 in all {occurrences.total:,} rows.")
    return weights


def _count(rows: np.ndarray, occurrences: Occurrences) -> str:
    """Describe the number of rows, and the first of them.

    >>> once = Occurrences.once(21)
    >>> _count(np.array([17]), once), _count(np.array([17, 20]), once)
    ('1 row, row 17', '2 rows, the first is row 17')
    """
    count, first = occurrences.count(rows), occurrences.first_row(rows)
    return f"1 row, row {first}" if count == 1 else f"{count:,} rows, the first is row {first}"


def parse_number(text: str | None) -> float | None:
    """Return the number in a text, None if it is not a number.

    >>> parse_number("-1"), parse_number("none"), parse_number(None)
    (-1.0, None, None)
    """
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _equals(word: str, stated: str | None) -> bool:
    if stated is None:
        return False
    number = parse_number(stated)
    return word == stated.strip() or (number is not None and parse_number(word) == number)
