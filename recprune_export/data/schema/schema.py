"""`Schema`: the roles of the columns of a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class MultiValued:
    """A field with several ids: a list column (`separator` None) or a string split at `separator`.

    Only the first `max_length` values of a row are used.
    """

    name: str
    separator: str | None
    max_length: int


@dataclass(frozen=True)
class SequenceColumns:
    """The columns of a log of user actions; the last `max_length` items of a user are the history."""

    user: str
    item: str
    order: str
    max_length: int = 50


@dataclass(frozen=True)
class Split:
    """How rows are split: by a column of split names, or at random by a seed with the shares `valid` and `test`."""

    column: str | None = None
    seed: int = 0
    valid: float = 0.1
    test: float = 0.1


@dataclass(frozen=True)
class Schema:
    """The columns that are used, and their roles. A log of sequences has no labels and no other fields.

    >>> schema = Schema(labels=("click",), categorical=("user", "item"), numeric=("age",))
    >>> Schema.from_dict(schema.to_dict()) == schema
    True
    """

    labels: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multi_valued: tuple[MultiValued, ...] = ()
    sequence: SequenceColumns | None = None
    split: Split = Split()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        for name in ("labels", "categorical", "numeric", "multi_valued"):
            values[name] = list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values that `to_dict` returned."""
        sequence = values["sequence"]
        return cls(
            labels=tuple(values["labels"]),
            categorical=tuple(values["categorical"]),
            numeric=tuple(values["numeric"]),
            multi_valued=tuple(MultiValued(**field) for field in values["multi_valued"]),
            sequence=None if sequence is None else SequenceColumns(**sequence),
            split=Split(**values["split"]),
        )
