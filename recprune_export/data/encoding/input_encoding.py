"""The information for an encoder in another language: `InputEncoding` of one input. `docs/encoding.md` is the specification."""

from dataclasses import dataclass, field
from typing import Literal

from recprune_export.codec import OMIT_DEFAULT, ToDictMixin
from recprune_export.data.encoding.canonical_text import CANONICAL_TEXT_RULE
from recprune_export.data.schema.schema import MultiValued, Schema

SPECIFICATION = 1  # the version of docs/encoding.md
NUMERIC = "numeric"  # the name of the input that holds all numeric fields
HISTORY = "history"


@dataclass(frozen=True)
class InputEncoding(ToDictMixin):
    """How the raw values of `columns` are converted to the input `name`.

    `kind` "id" is one id for each row, "ids" the first `max_length` ids of a list, "items" the last `max_length` ids of a history, and
    "numbers" the standardized numbers of all `columns` in their order. The ids of a vocabulary are `first_id`, `first_id` + 1, ... in its
    order; `unknown_id` represents every other value, and is null if unknown values are removed.
    """

    name: str
    kind: Literal["id", "ids", "items", "numbers"]
    dtype: Literal["int64", "float32"]
    columns: tuple[str, ...]
    first_id: int | None = field(default=None, metadata=OMIT_DEFAULT)
    unknown_id: int | None = field(default=None, metadata=OMIT_DEFAULT)
    separator: str | None = field(default=None, metadata=OMIT_DEFAULT)
    max_length: int | None = field(default=None, metadata=OMIT_DEFAULT)
    padding_id: int | None = field(default=None, metadata=OMIT_DEFAULT)
    padding_side: Literal["left", "right"] | None = field(default=None, metadata=OMIT_DEFAULT)


def describe_inputs(schema: Schema) -> tuple[InputEncoding, ...]:
    """Return the inputs of a model with this schema.

    >>> [(i.name, i.kind) for i in describe_inputs(Schema(categorical=("user",), numeric=("age",)))]
    [('user', 'id'), ('numeric', 'numbers')]
    """
    if schema.sequence is not None:
        columns = schema.sequence
        return (
            InputEncoding(
                HISTORY, "items", "int64", (columns.item,), first_id=1, max_length=columns.max_length,
                padding_id=0, padding_side="left",
            ),
        )  # fmt: skip
    ids = tuple(InputEncoding(name, "id", "int64", (name,), first_id=1, unknown_id=0) for name in schema.categorical)
    numbers = (InputEncoding(NUMERIC, "numbers", "float32", schema.dense_columns),) if schema.dense_columns else ()
    return (*ids, *map(_describe_list, schema.multi_valued), *numbers)


class PublishedEncoding:
    """The part of `schema` that every encoder provides for clients that encode without this package."""

    schema: Schema

    @property
    def specification(self) -> int:
        """The version of `docs/encoding.md` that the values follow."""
        return SPECIFICATION

    @property
    def inputs(self) -> tuple[InputEncoding, ...]:
        """How raw values are converted to each input."""
        return describe_inputs(self.schema)

    @property
    def canonical_text_rule(self) -> str:
        """The rule by which vocabularies spell values."""
        return CANONICAL_TEXT_RULE


def _describe_list(field: MultiValued) -> InputEncoding:
    return InputEncoding(
        field.name, "ids", "int64", (field.name,), first_id=2, unknown_id=1,
        separator=field.separator, max_length=field.max_length, padding_id=0, padding_side="right",
    )  # fmt: skip
