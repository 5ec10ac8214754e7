"""Read vocabularies for the inputs of any model, from files with the columns `raw` and `id`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recprune_export.column_names import check_columns_exist, did_you_mean, list_names
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError, UsageError
from recprune_export.program.signature import Input, Signature

RAW, ID = "raw", "id"
_ID_TYPES = ("int64", "int32")


@dataclass(frozen=True)
class InputVocabulary:
    """Ids of raw values of an input by their canonical text, None for a missing value; `unknown` is the id of all other values.

    With `refuses_unknown` that id is out of the range of the input, and the model refuses it.
    """

    input: str
    ids: Mapping[str | None, int]
    unknown: int
    refuses_unknown: bool = False


def parse_vocabulary_options(options: Iterable[str]) -> dict[str, Path]:
    """Return the file of each input. Raises `UsageError` for an option that is not INPUT=FILE, and an input that is named twice.

    >>> parse_vocabulary_options(["user=users.parquet"])
    {'user': PosixPath('users.parquet')}
    """
    files: dict[str, Path] = {}
    for option in options:
        name, sign, file = option.partition("=")
        if not (name and sign and file):
            raise UsageError(f"--vocabulary must be INPUT=FILE, got '{option}'.")
        if name in files:
            raise UsageError(f"--vocabulary names '{name}' twice.")
        files[name] = Path(file)
    return files


def read_vocabularies(files: Mapping[str, Path], signature: Signature) -> tuple[InputVocabulary, ...]:
    """Read the vocabulary of each input in `files`.

    A value that is not in the vocabulary gets the id by which the ONNX file replaces ids out of range; if the file refuses such ids, it
    refuses the request. Raises `UsageError` if the model has no such input of ids, and `DataError` if a file does not have the two
    columns, has a value twice, or an id that is missing or out of the range of the input.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    return tuple(_read(path, _find_input(name, specs)) for name, path in files.items())


def _find_input(name: str, specs: Mapping[str, Input]) -> Input:
    if name not in specs:
        raise UsageError(
            f"--vocabulary names '{name}', which is not an input of the model; choose from {list_names(list(specs))}"
            f"{did_you_mean(name, list(specs))}"
        )
    spec = specs[name]
    reason = None
    if any(other.jagged is not None for other in specs.values()):
        reason = "its rows have different numbers of elements, which are encoded outside the file"
    elif spec.dtype not in _ID_TYPES or not spec.ids:
        reason = f"it is not an input of ids (its dtype is {spec.dtype})"
    elif len(spec.ids) > 1:
        reason = "it is a matrix whose columns are fields with separate ids"
    if reason is not None:
        raise UsageError(f"--vocabulary names '{name}', but {reason}: leave it out.")
    return spec


def _read(path: Path, spec: Input) -> InputVocabulary:
    import polars as pl

    frame = scan(path, text=(RAW,))
    types = frame.collect_schema()
    check_columns_exist(path, (RAW, ID), types.names(), "which a vocabulary needs")
    if collect(frame.select(RAW).head(1), path).is_empty():  # a CSV file without rows also has no types
        raise DataError(f"{path} has no value: a vocabulary has one row per value.")
    if not types[ID].is_integer():
        raise DataError(f"The column '{ID}' of {path} holds {types[ID]}: a vocabulary has one integer per value.")
    if types[RAW].is_nested() or types[RAW] == pl.Binary:
        raise DataError(f"The column '{RAW}' of {path} holds {types[RAW]}: a vocabulary has one value per row.")
    table = collect(frame.select(canonical_text(pl.col(RAW), types[RAW]).alias(RAW), pl.col(ID).cast(pl.Int64)), path)
    _check_rows(path, table[RAW].to_list(), table[ID].to_list(), spec)
    (bad,) = spec.bad_ids or (None,)
    (pair,) = spec.ids
    assert pair is not None
    ids = dict(zip(table[RAW].to_list(), table[ID].to_list(), strict=True))
    if isinstance(bad, int):
        return InputVocabulary(spec.name, ids, bad)
    return InputVocabulary(spec.name, ids, pair[1] + 1, refuses_unknown=True)


def _check_rows(path: Path, texts: list[str | None], ids: list[int | None], spec: Input) -> None:
    """Raise `DataError` for a value that occurs twice, and for an id that is missing or out of range."""
    if texts in ([], [None]):
        raise DataError(f"{path} has no value: a vocabulary has one row per value.")
    (pair,) = spec.ids
    assert pair is not None
    seen: set[str | None] = set()
    for row, (text, number) in enumerate(zip(texts, ids, strict=True)):
        shown = "a missing value" if text is None else f"'{text}'"
        if number is None or not pair[0] <= number <= pair[1]:
            written = "no id" if number is None else f"the id {number}"
            raise DataError(
                f"{path} gives {shown} {written} in row {row}, but the ids of '{spec.name}' are {pair[0]} to {pair[1]}."
            )
        if text in seen:
            raise DataError(
                f"{path} has {shown} twice, the second time in row {row} (12, 12.0 and '12.0' are the same value): keep one of these rows."
            )
        seen.add(text)
