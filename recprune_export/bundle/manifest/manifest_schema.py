"""JSON schema of `manifest.json`; `python -m recprune_export.bundle.manifest.manifest_schema FILE` writes it to a file."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from recprune_export.bundle.manifest.manifest import Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WRITTEN = ("format", "format_version", "files")  # these have a default in Python, but are in every file


class Untitled(GenerateJsonSchema):
    """Generator of schemas without titles, which would repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False for every field."""
        return False


def make_manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of `manifest.json` in the current format version."""
    schema = Manifest.model_json_schema(mode="serialization", schema_generator=Untitled)
    required = dict.fromkeys((*_WRITTEN, *schema["required"]))
    return {"$schema": DIALECT, **schema, "required": list(required)}


def format_manifest_schema() -> str:
    """Return the text of `docs/manifest.schema.json`."""
    return json.dumps(make_manifest_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(format_manifest_schema(), encoding="utf-8")
