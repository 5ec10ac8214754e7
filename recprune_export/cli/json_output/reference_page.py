"""The page on `--json` of the documentation; `python -m recprune_export.cli.json_output.reference_page FILE` writes it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recprune_export.cli.json_output.output_schemas import OUTPUTS, make_output_schema

# Objects that are described once: by the schema of the manifest, and at the top of the page.
DESCRIBED_ONCE = {"Manifest": "the [manifest](../manifest.schema.json)", "Interval": "interval"}
HEAD = """\
# JSON output

With `--json` a command prints its result as one JSON document on standard output, and nothing else; `--quiet` leaves it there. Warnings
and verdicts are on standard error, the [exit code](../how-to/troubleshoot.md#exit-codes) is the same. Each command has a JSON schema.

- A key has the same meaning in every command.
- Units are in the names: `bytes`, `seconds`, `milliseconds`, `load_milliseconds`. Fractions are between 0 and 1, not percent.
- An interval is an object with the numbers `estimate`, `low` and `high`; it holds the true value 95 times in 100, unless stated otherwise.
- Objects by batch size have the batch sizes as keys, which are texts in JSON.
- `null` stands for a number that is not finite, and for what does not apply.
- Later releases may add keys.

`compress --plan-only` prints plan.json, with or without `--json`.

## Errors

A command that ends with an error prints this object in the place of a result; the message is on standard error as well. A verdict that
fails is a result, not an error: its exit code is 1, or 5 where it cannot be told.
"""


def format_reference_page() -> str:
    """Return the page: the outputs of each command, and the type and the meaning of each key."""
    lines = [HEAD, *_format_output(make_output_schema("verify"), "ErrorOutput")]
    for command, outputs in OUTPUTS.items():
        schema = make_output_schema(command)
        lines += ["", f"## `{command}`", "", f"[JSON schema](../json-output/{command}.schema.json)."]
        for output in outputs:
            lines += ["", schema["$defs"][output.__name__]["description"], ""]
            lines += _format_output(schema, output.__name__)
    return "\n".join(lines) + "\n"


def _format_output(schema: Mapping[str, Any], name: str) -> Iterator[str]:
    yield "| key | type | meaning |"
    yield "|---|---|---|"
    for key, kind, meaning in _list_keys(schema["$defs"], schema["$defs"][name], ""):
        yield f"| `{key}` | {kind} | {meaning} |".replace("  ", " ")


def _list_keys(parts: Mapping[str, Any], described: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the type and the meaning of each value below an object, those of an array below `key[]`."""
    required = described.get("required", ())
    for key, value in described.get("properties", {}).items():
        kind, inner, suffix = _describe_type(parts, value)
        meaning = str(value.get("description") or (inner or {}).get("description", ""))
        absent = "" if key in required else "; may be absent"
        yield f"{prefix}{key}", kind + absent, meaning[:1].lower() + meaning[1:].removesuffix(".")
        if inner is not None:
            yield from _list_keys(parts, inner, f"{prefix}{key}{suffix}.")


def _describe_type(parts: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None, str]:
    """Return the type of a value in words, the object that it contains, if any, and the path to its keys."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        known = next((words for end, words in DESCRIBED_ONCE.items() if name.endswith(end)), None)
        return _describe_type(parts, parts[name]) if known is None else (known, None, "")
    if "anyOf" in value:
        choices = [_describe_type(parts, each) for each in value["anyOf"]]
        inner_of = next(((inner, suffix) for _, inner, suffix in choices if inner is not None), (None, ""))
        return " or ".join(dict.fromkeys(kind for kind, _, _ in choices)), *inner_of
    if "enum" in value or "const" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")])), None, ""
    if value.get("type") == "array":
        kind, inner, suffix = _describe_type(parts, value.get("items", {}))
        return f"array of {kind}" if kind else "array", inner, f"[]{suffix}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), Mapping):
        kind, inner, suffix = _describe_type(parts, value["additionalProperties"])
        return f"object of {kind}", inner, f".*{suffix}"
    if value.get("type") == "object":
        return "object", value if "properties" in value else None, ""
    return str(value.get("type", "")), None, ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(format_reference_page(), encoding="utf-8")
