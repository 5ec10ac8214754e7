"""`manifest.json`: what a bundle says about itself, and the checksum of every file in it."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Self

from recprune_export.errors import BundleError

FORMAT = "recprune-export/bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
DENSE = "dense.onnx"
PROGRAM = "model.pt2"
PLAN = "plan.json"
ENCODING = "encoding.json"
DATA_PROFILE = "data_profile.json"
REPORT = "report.html"
SAMPLE_INPUTS = "samples/inputs.npz"
SAMPLE_OUTPUTS = "samples/outputs.npz"

_PART = re.compile(r"[\w+-][\w.+-]*", re.ASCII)
# Control characters, which a terminal obeys, and halves of surrogate pairs, which no encoding has.
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle states. Plain JSON values throughout; `docs` of the keys are in `manifest.schema.json`.

    `signature` is `Signature.to_dict()`; `counts` and `metrics` hold `dense` and `pruned`; `tolerances` holds
    `absolute` and `relative`, within which the golden outputs are reproduced; `created` is ISO 8601 in UTC;
    `session` is `SessionAdvice.to_dict()`, empty where none was measured;
    `rewrites` holds `Rewrite.to_dict()`, `cost` `Roofline.to_dict()`, `quantisation` `Quantised.to_dict()`, empty where
    weights are as they were trained; `change` is `Change.to_dict()` on the test rows, empty where none have labels;
    `notes` are sentences that the user should read. `files` is filled in by `write_bundle`.
    """

    name: str
    created: str
    opset: int
    signature: Mapping[str, Any]
    counts: Mapping[str, Any]
    metrics: Mapping[str, Any]
    parity: Mapping[str, Any]
    latency: Mapping[str, Any]
    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    tolerances: Mapping[str, float]
    session: Mapping[str, Any] = field(default_factory=dict)
    rewrites: Sequence[Mapping[str, Any]] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=list)
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def with_files(self, files: Mapping[str, FileEntry]) -> Self:
        """Return the same manifest for these files."""
        return replace(self, files=dict(sorted(files.items())))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the checksum of the manifest itself."""
        values = {"format": FORMAT, **asdict(self)}
        # Paths, command lines and lines of source may hold anything; names of the signature have to stay as they are.
        values = {name: value if name == "signature" else _printable(value) for name, value in values.items()}
        return {**values, "checksum": checksum(values)}

    def to_json(self) -> str:
        """Return the text of `manifest.json`.

        Raises `ValueError` for NaN and infinity, which JSON does not know.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read what `to_dict` wrote.

        Raises `BundleError` where the values do not follow the schema, name a file outside of the bundle, or
        were changed after writing.
        """
        _check_format(values)
        try:
            _check_schema(values)
            made = checksum(values)
            strange = next((text for text in _texts(values) if _UNPRINTABLE.search(text)), None)
        except (RecursionError, ValueError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else "holds what JSON does not know"
            raise BundleError(f"{MANIFEST} {reason}: export the bundle again.") from error
        if strange is not None:
            raise BundleError(
                f"{MANIFEST} holds characters that are no text, in {strange[:80]!r}: export the bundle again."
            )
        for name in values["files"]:
            check_name(name)
        if values["checksum"] != made:
            raise BundleError(
                f"{MANIFEST} was changed after the bundle was written (its checksum differs): export the bundle again."
            )
        files = {name: FileEntry(**entry) for name, entry in values["files"].items()}
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values and f.name != "files"}
        return cls(**known, files=files)


def checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values, without the key `checksum`, in canonical JSON.

    >>> checksum({"a": 1, "b": 2}) == checksum({"b": 2, "a": 1, "checksum": "anything"})
    True
    """
    stated = {key: value for key, value in values.items() if key != "checksum"}
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_name(name: str) -> str:
    """Return `name`, made sure that it is a plain relative path inside of the bundle.

    Raises `BundleError`.

    >>> check_name("samples/inputs.npz")
    'samples/inputs.npz'
    """
    parts = name.split("/")
    if name == MANIFEST or name != str(PurePosixPath(name)) or not all(_PART.fullmatch(part) for part in parts):
        raise BundleError(
            f"The file name {name!r} is not allowed in a bundle: use letters, digits, '.', '_', '+', '-' and '/'."
        )
    return name


@cache
def schema() -> dict[str, Any]:
    """Return the published JSON schema of `manifest.json`."""
    loaded: dict[str, Any] = json.loads(
        resources.files("recprune_export.bundle").joinpath("manifest.schema.json").read_text(encoding="utf-8")
    )
    return loaded


def _printable(values: Any) -> Any:
    """Return JSON values in which what no terminal should be sent is a replacement character.

    >>> _printable({"command": ["compress", "a\x1b[2J.pt"], "seed": 0})
    {'command': ['compress', 'a�[2J.pt'], 'seed': 0}
    """
    if isinstance(values, str):
        return _UNPRINTABLE.sub("\ufffd", values)
    if isinstance(values, Mapping):
        return {_printable(name): _printable(value) for name, value in values.items()}
    return [_printable(value) for value in values] if isinstance(values, list | tuple) else values


def _texts(values: Any) -> Iterator[str]:
    """Every string in JSON values, names of keys as well."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        yield from values
        values = values.values()
    if not isinstance(values, str) and isinstance(values, Iterable):
        for value in values:
            yield from _texts(value)


def _check_format(values: Any) -> None:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST} is not the manifest of a recprune-export bundle.")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"The bundle has format version {version}, this recprune-export reads {FORMAT_VERSION}: use the release that wrote it."
        )


def _check_schema(values: dict[str, Any]) -> None:
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(values))
    if error is not None:
        raise BundleError(f"{MANIFEST} does not follow its schema at {error.json_path}: {error.message[:200]}.")
