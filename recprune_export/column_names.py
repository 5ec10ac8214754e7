"""The error for an unknown name: it lists the existing names and suggests the most similar one."""

import difflib
import re
from collections.abc import Iterable, Sequence

from recprune_export.errors import DataError

MAX_LISTED = 40
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def suggest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` was probably meant to be, regardless of case; None if none is similar.

    >>> suggest_name("clicked", ["user", "Clicked"]), suggest_name("veryfy", ["verify", "train"]), suggest_name("x", ["user"])
    ('Clicked', 'verify', None)
    """
    folded = {other.strip().casefold(): other for other in reversed(list(names))}
    nearest = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
    return folded[nearest[0]] if nearest else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name.

    >>> did_you_mean("dlmr", ["dlrm", "deepfm"]), did_you_mean("x", ["dlrm"])
    ("; did you mean 'dlrm'?", '.')
    """
    nearest = suggest_name(name, names)
    return "." if nearest is None else f"; did you mean '{nearest}'?"


def list_names(names: Iterable[str], most: int = MAX_LISTED) -> str:
    """Return the first `most` names and the number of further names, as text.

    >>> list_names(["user", "item"]), list_names(str(n) for n in range(42))[-14:]
    ('user, item', ' 39 and 2 more')
    """
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def describe_missing_column(source: object, name: str, columns: Iterable[str], role: str = "") -> str:
    """Return the sentence for a column that `source`, a file or other rows, does not have.

    `role` describes the role of the column, as a clause.

    >>> describe_missing_column("a.csv", "clicked", ["user", "Clicked"], "which --label names")
    "a.csv has no column 'clicked', which --label names; its columns are user, Clicked; did you mean 'Clicked'?"
    >>> describe_missing_column("the batch", "user", [])
    "the batch has no column 'user'; it has no columns."
    >>> describe_missing_column("u.data", "rating", ["196", "242", "3"])
    "u.data has no column 'rating'; its columns are 196, 242, 3. Write the names of the columns in the first line."
    """
    columns = list(columns)
    clause = f", {role}" if role else ""
    present = f"its columns are {list_names(columns)}" if columns else "it has no columns"
    remedy = " Write the names of the columns in the first line." if _are_values(columns) else ""
    return f"{source} has no column '{name}'{clause}; {present}{did_you_mean(name, columns)}{remedy}"


def _are_values(names: Sequence[str]) -> bool:
    """Return whether names seem to be the first row of a file without a header: half of them are numbers, and not 0, 1, ..."""
    numbers = [name for name in names if _NUMBER.fullmatch(name.strip())]
    return bool(names) and 2 * len(numbers) >= len(names) and numbers != [str(n) for n in range(len(numbers))]


def check_columns_exist(source: object, names: Iterable[str], columns: Iterable[str], role: str = "") -> None:
    """Raise `DataError` for the first of `names` that is not among `columns`; arguments as in `describe_missing_column`."""
    columns = list(columns)
    present = set(columns)
    missing = next((name for name in names if name not in present), None)
    if missing is not None:
        raise DataError(describe_missing_column(source, missing, columns, role))
