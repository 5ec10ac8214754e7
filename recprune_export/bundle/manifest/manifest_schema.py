"""The published JSON schema of `manifest.json`; `python -m recprune_export.bundle.manifest.manifest_schema FILE` writes it."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from recprune_export.bundle.manifest.manifest import Manifest

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WRITTEN = ("format", "format_version", "files")  # have a default in Python, and are in every file


class _Untitled(GenerateJsonSchema):
    """A key says what it is; a title would say it twice."""

    def field_title_should_be_set(self, make_manifest_schema: Any) -> bool:
        """Never."""
        return False


def make_manifest_schema() -> dict[str, Any]:
    """Return the JSON schema that every `manifest.json` of the present format follows."""
    made = Manifest.model_json_schema(mode="serialization", schema_generator=_Untitled)
    required = dict.fromkeys((*_WRITTEN, *made["required"]))
    return {"$schema": _DIALECT, **made, "required": list(required)}


def format_manifest_schema() -> str:
    """Return the text of `docs/manifest.schema.json`."""
    return json.dumps(make_manifest_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(format_manifest_schema(), encoding="utf-8")
