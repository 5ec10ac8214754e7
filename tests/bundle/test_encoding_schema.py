"""The published schema of `encoding.json` is that of the code, and what encoders write follows it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recprune_export.bundle import ENCODING
from recprune_export.bundle.encoding_schema import format_encoding_schema, make_encoding_schema
from tests.data.encoding.random_rows import make_field_encoder, make_history_encoder

DOCS = Path(__file__).parents[2] / "docs"


def faults(of: Any) -> list[str]:
    return [error.json_path for error in jsonschema.Draft202012Validator(make_encoding_schema()).iter_errors(of)]


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert (DOCS / "encoding.schema.json").read_text(encoding="utf-8") == format_encoding_schema(), "run `make schema`"
    jsonschema.Draft202012Validator.check_schema(make_encoding_schema())


def test_what_encoders_write_follows_it(bundle: Path) -> None:
    written = [
        make_field_encoder().to_dict(),
        make_history_encoder().to_dict(),
        json.loads((bundle / ENCODING).read_text()),
    ]
    for values in written:
        assert faults(json.loads(json.dumps(values))) == []


@pytest.mark.parametrize("key", ["specification", "inputs", "vocabularies", "means", "first_score_item"])
def test_what_an_encoder_needs_may_not_be_left_out(key: str) -> None:
    encoder = make_history_encoder() if key == "first_score_item" else make_field_encoder()
    assert faults({name: value for name, value in encoder.to_dict().items() if name != key})
