"""JSON schema of `encoding.json`; `python -m recprune_export.bundle.encoding_schema FILE` writes it to a file."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from recprune_export.bundle.manifest.manifest_schema import DIALECT, Untitled
from recprune_export.bundle.manifest.manifest_sections import (
    CLOSED,
    OPEN,
    AtLeastOne,
    ColumnSummarySection,
    Count,
    Name,
)

Names = list[Name]
Version = Annotated[Literal[1], Field(description="version of docs/encoding.md that the file follows")]
Columns = Annotated[list[ColumnSummarySection], Field(description="how each column of the training file was read")]
Notes = Annotated[list[str], Field(description="remarks on the training file")]
Rule = Annotated[str, Field(description="the canonical text in words; docs/encoding.md contains the complete rule")]
Values = Annotated[list[str], Field(description="canonical texts in the order of their ids")]


@with_config(CLOSED)
class InputEncodingEntry(TypedDict):
    """How raw values become one input."""

    name: Annotated[Name, Field(description="name of the input of the model")]
    kind: Annotated[
        Literal["id", "ids", "items", "numbers"],
        Field(
            description="one id; the first ids of a list; the last ids of a history; the standardized numbers of all columns"
        ),
    ]
    dtype: Literal["int64", "float32"]
    columns: Annotated[
        Names, Field(description="the columns, in the order of the numbers; `name_0`, ... are the numbers of a vector")
    ]
    first_id: NotRequired[Annotated[AtLeastOne, Field(description="id of the first value of the vocabulary")]]
    unknown_id: NotRequired[
        Annotated[Count, Field(description="id of any other value; absent if unknown values are removed")]
    ]
    separator: NotRequired[
        Annotated[Name, Field(description="separator of a list in a string; absent if the value is a list")]
    ]
    max_length: NotRequired[Annotated[AtLeastOne, Field(description="size of the second axis")]]
    padding_id: NotRequired[Annotated[Count, Field(description="id of positions without a value")]]
    padding_side: NotRequired[Literal["left", "right"]]


@with_config(OPEN)
class ListFieldEntry(TypedDict):
    """A field with several values: a list (`separator` null), or a text that the separator divides."""

    name: Name
    separator: Name | None
    max_length: AtLeastOne


@with_config(OPEN)
class VectorEntry(TypedDict):
    """A column of vectors of `size` numbers."""

    name: Name
    size: AtLeastOne


@with_config(OPEN)
class FieldSchemaSection(TypedDict):
    """The columns and their roles; encoders need these fields, the others describe the training of the model."""

    categorical: Names
    numeric: Names
    multi_valued: list[ListFieldEntry]
    vectors: list[VectorEntry]
    missing: Annotated[
        list[str], Field(description="strings that stand for a missing value, in addition to the usual ones")
    ]


@with_config(OPEN)
class HistoryColumns(TypedDict):
    """The columns of the log of the model."""

    user: Name
    item: Name
    order: Name
    max_length: AtLeastOne


@with_config(OPEN)
class HistorySchemaSection(TypedDict):
    """The columns of the log, and how it was split for training."""

    sequence: HistoryColumns
    missing: list[str]


@with_config(CLOSED)
class FieldEncoding(TypedDict):
    """Encoding of rows of fields."""

    specification: Version
    inputs: list[InputEncodingEntry]
    schema: FieldSchemaSection
    vocabularies: Annotated[dict[str, Values], Field(description="by input of kind id or ids")]
    means: Annotated[dict[str, float], Field(description="by column of the input of numbers")]
    stds: Annotated[
        dict[str, float], Field(description="by column of the input of numbers; 1 if all values were equal")
    ]
    columns: Columns
    notes: Notes
    canonical_text_rule: Rule


@with_config(CLOSED)
class HistoryEncoding(TypedDict):
    """Encoding of histories of items."""

    specification: Version
    inputs: list[InputEncodingEntry]
    first_score_item: Annotated[
        AtLeastOne, Field(description="column of the scores that belongs to the first of `items`")
    ]
    schema: HistorySchemaSection
    items: Values
    columns: Columns
    notes: Notes
    canonical_text_rule: Rule


def make_encoding_schema() -> dict[str, Any]:
    """Return the JSON schema of `encoding.json`."""
    adapter: TypeAdapter[Any] = TypeAdapter(FieldEncoding | HistoryEncoding)
    schema = adapter.json_schema(mode="serialization", schema_generator=Untitled)
    return {"$schema": DIALECT, "title": "encoding.json of a bundle, specification 1", **schema}


def format_encoding_schema() -> str:
    """Return the text of `docs/encoding.schema.json`."""
    return json.dumps(make_encoding_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(format_encoding_schema(), encoding="utf-8")
