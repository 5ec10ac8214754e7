"""The published schema equals that of the model and gives the same verdicts."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recprune_export.bundle import Manifest
from recprune_export.bundle.manifest import values_checksum
from recprune_export.bundle.manifest.manifest_schema import format_manifest_schema, make_manifest_schema
from recprune_export.errors import BundleError
from tests.bundle.manifest.test_manifest import FORBIDDEN, values
from tests.bundle.samples import write

DOCS = Path(__file__).parents[3] / "docs"


def faults(of: Any) -> list[str]:
    return [error.json_path for error in jsonschema.Draft202012Validator(make_manifest_schema()).iter_errors(of)]


def test_the_published_schema_is_the_models() -> None:
    assert (DOCS / "manifest.schema.json").read_text(encoding="utf-8") == format_manifest_schema(), "run `make schema`"
    jsonschema.Draft202012Validator.check_schema(make_manifest_schema())


def test_what_is_written_follows_it(tmp_path: Path) -> None:
    assert faults(json.loads((write(tmp_path / "bundle") / "manifest.json").read_text())) == []


@pytest.mark.parametrize("change", [change for change, _ in FORBIDDEN])
def test_it_forbids_what_the_model_forbids(change: dict[str, Any]) -> None:
    made = values() | change
    assert faults(made)
    with pytest.raises(BundleError):
        Manifest.from_dict(made | {"checksum": values_checksum(made)})


@pytest.mark.parametrize("key", sorted(values()))
def test_what_may_be_left_out_is_the_same(key: str) -> None:
    made = {name: value for name, value in values().items() if name != key}
    if key != "checksum":
        made["checksum"] = values_checksum(made)
    try:
        Manifest.from_dict(made)
    except BundleError:
        assert faults(made)
    else:
        assert not faults(made)


def test_every_part_is_described() -> None:
    made = make_manifest_schema()
    parts = {name: part for name, part in made["properties"].items() if name not in ("format", "format_version")}
    for name, part in parts.items():
        refers = [part, *part.get("anyOf", [])]
        named = [made["$defs"][p["$ref"].rpartition("/")[2]] for p in refers if "$ref" in p]
        assert any("description" in p for p in (part, *named)), name
