"""The sentence for a column that a file lacks: whose name it is, the nearest name, and the columns of the file."""

from collections.abc import Collection
from difflib import get_close_matches

MAX_LISTED = 40  # columns in a message


def missing_column(path: object, name: str, role: str, columns: Collection[str], kind: str = "column") -> str:
    """Return the message for a column `name` that `path` does not have; `role` says what asks for it.

    >>> missing_column("rows.csv", "clicked", "which --label names", ["user", "Clicked"])
    "rows.csv has no column 'clicked', which --label names. Did you mean 'Clicked'? Its columns are user, Clicked."
    """
    nearest = _nearest(name, columns)
    hint = "" if nearest is None else f" Did you mean '{nearest}'?"
    return f"{path} has no {kind} '{name}', {role}.{hint} Its {kind}s are {_list_names(columns)}."


def _nearest(name: str, columns: Collection[str]) -> str | None:
    def fold(text: str) -> str:
        return "".join(character for character in text.lower() if character.isalnum())

    folded = {fold(column): column for column in reversed(list(columns))}
    close = get_close_matches(fold(name), folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def _list_names(columns: Collection[str]) -> str:
    names = list(columns)
    if len(names) <= MAX_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:MAX_LISTED])} and {len(names) - MAX_LISTED:,} more"
