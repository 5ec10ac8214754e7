"""Vocabularies of the inputs as listed in a manifest."""

from collections.abc import Mapping
from typing import Any

from recprune_export.data.encoding.canonical_text import CANONICAL_TEXT_RULE


def encoding_summary(encoding: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the section `encoding` of a manifest, from the `to_dict` of an encoder that is saved as `file`.

    >>> columns = {"user": "u", "item": "i", "order": "t", "max_length": 50}
    >>> encoding_summary({"schema": {"sequence": columns}, "items": ["a", "b"]}, "encoding.json")["vocabularies"]["history"]["values"]
    2
    """
    schema = encoding["schema"]
    if "items" in encoding:
        columns = schema["sequence"]
        items = _vocabulary("sequence", columns["item"], encoding["items"], first=1, padding=0)
        history = {**items, "unknown": None, "max_length": columns["max_length"]}
        return {"file": file, "vocabularies": {"history": history}, "numeric": [], **_describe_columns(encoding)}
    values = encoding["vocabularies"]
    vocabularies = {name: _vocabulary("categorical", name, values[name], first=1) for name in schema["categorical"]}
    for field in schema["multi_valued"]:
        several = _vocabulary("multi_valued", field["name"], values[field["name"]], first=2, padding=0)
        vocabularies[field["name"]] = {**several, "separator": field["separator"], "max_length": field["max_length"]}
    vectors = [f"{vector['name']}_{i}" for vector in schema.get("vectors", ()) for i in range(vector["size"])]
    numeric = [*schema["numeric"], *vectors]
    return {"file": file, "vocabularies": vocabularies, "numeric": numeric, **_describe_columns(encoding)}


def _describe_columns(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the columns of the training file were read, and how vocabularies spell values."""
    return {"columns": list(encoding.get("columns", ())), "canonical_text_rule": CANONICAL_TEXT_RULE}


def _vocabulary(kind: str, column: str, values: list[str], first: int, padding: int | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "column": column,
        "values": len(values),
        "first": first,
        "unknown": first - 1,
        "padding": padding,
        "separator": None,
        "max_length": None,
    }
