"""`manifest.json`: what a bundle says about itself, and the checksum of every file in it."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from recprune_export.bundle.manifest.manifest_sections import (
    ChangeSection,
    CostSection,
    DenseAndPruned,
    EmptySection,
    EncodingSection,
    FileEntry,
    LatencySection,
    Name,
    Object,
    ProvenanceSection,
    QuantizationSection,
    RewriteEntry,
    SectionOf,
    SessionSection,
    Sha256,
    SignatureSection,
    ToleranceSection,
)
from recprune_export.bundle.manifest.migration import migrate
from recprune_export.errors import BundleError

FORMAT: Literal["recprune-export/bundle"] = "recprune-export/bundle"
FORMAT_VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
MODEL = "model.onnx"
DENSE = "dense.onnx"
PROGRAM = "model.pt2"
PLAN = "plan.json"
ENCODING = "encoding.json"
DATA_PROFILE = "data_profile.json"
REPORT = "report.html"
SAMPLE_INPUTS = "samples/inputs.npz"
SAMPLE_OUTPUTS = "samples/outputs.npz"
ALWAYS = (MODEL, SAMPLE_INPUTS, SAMPLE_OUTPUTS)  # files without which a bundle is none

_PART = re.compile(r"[\w+-][\w.+-]*", re.ASCII)
# Control characters, which a terminal obeys, and halves of surrogate pairs, which no encoding has.
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


class Manifest(BaseModel):
    """Everything a bundle states, in plain JSON values: the model of which `docs/manifest.schema.json` is made.

    The sections are what the `to_dict` of their stage gives. `files` is filled in by `write_bundle`.

    Raises `pydantic.ValidationError` where a value does not follow the schema.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, title=f"{MANIFEST} of a bundle, format {FORMAT_VERSION}"
    )

    format: Literal["recprune-export/bundle"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    name: Annotated[Name, Field(description="the bundle's name; the directory may be called otherwise")]
    created: Annotated[
        str,
        Field(
            pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)$",
            description="when it was written: ISO 8601, UTC",
        ),
    ]
    opset: Annotated[int, Field(ge=13, description=f"ONNX operator set of {MODEL}")]
    signature: Annotated[Object, SectionOf(SignatureSection)]
    counts: Annotated[
        Object,
        SectionOf(DenseAndPruned),
        Field(description="parameters, non-zero parameters, bytes and operations, by part, counted in the ONNX files"),
    ]
    metrics: Annotated[
        Object,
        SectionOf(DenseAndPruned),
        Field(description="quality on held-out rows, by metric; empty objects without data"),
    ]
    parity: Annotated[Object, Field(description=f"{MODEL} in ONNX Runtime against the pruned program in PyTorch")]
    latency: Annotated[Object, SectionOf(LatencySection)]
    plan: Annotated[Object, Field(description=f"summary of {PLAN}: what was removed, what was frozen and why")]
    settings: Annotated[Object, Field(description="sparsity, seed and other options of the run")]
    environment: Annotated[Object, Field(description="versions of packages, system, CPU and cores of the run")]
    tolerances: Annotated[Object, SectionOf(ToleranceSection)]
    session: Annotated[Object, SectionOf(SessionSection)] = Field(default_factory=dict)
    rewrites: Annotated[
        list[Annotated[Object, SectionOf(RewriteEntry)]], Field(description="rewrites that were tried, in order")
    ] = Field(default_factory=list)
    cost: Annotated[Object, SectionOf(CostSection)] = Field(default_factory=dict)
    change: Annotated[
        Object,
        SectionOf(ChangeSection | EmptySection),
        Field(description="how a metric of test rows changes; empty where no rows have labels"),
    ] = Field(default_factory=dict)
    notes: Annotated[list[str], Field(description="what the user should know and would not look for")] = Field(
        default_factory=list
    )
    quantisation: Annotated[
        Object,
        SectionOf(QuantizationSection),
        Field(
            description="weights in fewer bits, and what that costs against the same file in fp32; empty where there are none"
        ),
    ] = Field(default_factory=dict)
    encoding: Annotated[
        Annotated[Object, SectionOf(EncodingSection)] | None,
        Field(description="null where requests are made of arrays, not of raw values"),
    ] = None
    licence: Annotated[str | None, Field(description="SPDX expression; null where none was stated")] = None
    provenance: Annotated[
        Annotated[Object, SectionOf(ProvenanceSection)] | None, Field(description="null where it is not known")
    ] = None
    files: Annotated[
        dict[str, FileEntry],
        Field(
            description=f"every file of the bundle but {MANIFEST} and {SIGNATURE}, by its path relative to the bundle",
            json_schema_extra={"required": list(ALWAYS)},
        ),
    ] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """What JSON would make of it: a tuple is a list."""
        return _as_json(values)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def checksum(
        self,
    ) -> Annotated[
        Sha256,
        Field(
            description="SHA-256 of this object without `values_checksum`, as JSON with sorted keys and no white space"
        ),
    ]:
        """The checksum of everything else."""
        return values_checksum(self.model_dump(exclude={"checksum"}))

    def with_files(self, files: Mapping[str, FileEntry]) -> Self:
        """Return the same manifest for these files."""
        return self.model_copy(update={"files": dict(sorted(files.items()))})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the checksum of the manifest itself."""
        # In its mode "json", NaN would become null without a word. Paths, command lines and lines of source may hold anything;
        # names of the signature have to stay as they are.
        values = self.model_dump(exclude={"checksum"})
        values = {name: value if name == "signature" else _printable(value) for name, value in values.items()}
        return {**values, "checksum": values_checksum(values)}

    def to_json(self) -> str:
        """Return the text of `manifest.json`.

        Raises `ValueError` for NaN and infinity, which JSON does not know.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read what `to_dict` wrote, also of an older format version, which is migrated.

        Raises `BundleError` where the values do not follow the schema, name a file outside of the bundle, or
        were changed after writing.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BundleError(f"{MANIFEST} is not the manifest of a recprune-export bundle.")
        try:
            made = values_checksum(values)
            strange = next((text for text in _texts(values) if _UNPRINTABLE.search(text)), None)
            given = migrate(values, FORMAT_VERSION)
            manifest = cls.model_validate({key: value for key, value in given.items() if key != "checksum"})
        except ValidationError as error:
            raise BundleError(f"{MANIFEST} does not follow its schema at {_first_fault(error)}.") from error
        except (RecursionError, ValueError) as error:
            reason = "is nested too deeply" if isinstance(error, RecursionError) else "holds what JSON does not know"
            raise BundleError(f"{MANIFEST} {reason}: export the bundle again.") from error
        if strange is not None:
            raise BundleError(
                f"{MANIFEST} holds characters that are no text, in {strange[:80]!r}: export the bundle again."
            )
        _check_files(manifest.files)
        if values.get("checksum") != made:
            raise BundleError(
                f"{MANIFEST} was changed after the bundle was written (its checksum differs): export the bundle again."
            )
        return manifest


def values_checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values, without the key `values_checksum`, in canonical JSON.

    >>> values_checksum({"a": 1, "b": 2}) == values_checksum({"b": 2, "a": 1, "checksum": "anything"})
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
    reserved = name in (MANIFEST, SIGNATURE)
    if reserved or name != str(PurePosixPath(name)) or not all(_PART.fullmatch(part) for part in parts):
        raise BundleError(
            f"The file name {name!r} is not allowed in a bundle: use letters, digits, '.', '_', '+', '-' and '/'."
        )
    return name


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


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


def _check_files(files: Mapping[str, FileEntry]) -> None:
    missing = [name for name in ALWAYS if name not in files]
    if missing:
        raise BundleError(f"{MANIFEST} does not follow its schema at $.files: '{missing[0]}' is not among them.")
    for name in files:
        check_name(name)


def _first_fault(error: ValidationError) -> str:
    """Where and what, as in `$.signature.inputs[0].name: Field required`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    return f"${place}: {fault['msg'][:200]}"
