"""Model of `manifest.json`: the description of a bundle and the checksums of its files."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from recprune_export.bundle.manifest.manifest_sections import (
    BreakdownSection,
    ChangeSection,
    CostSection,
    CountsSection,
    DenseAndPruned,
    DerivedModelEntry,
    EmptySection,
    EncodingSection,
    FileEntry,
    LatencySection,
    Name,
    Object,
    PlanSection,
    ProvenanceSection,
    PublishedAs,
    QualityVerdictSection,
    QuantizationSection,
    RewriteEntry,
    RuntimeSection,
    ScoreEntry,
    SessionSection,
    Sha256,
    SignatureSection,
    ToleranceSection,
    TowersSection,
    TrialEntry,
)
from recprune_export.bundle.manifest.migration import migrate
from recprune_export.errors import BundleError

FORMAT: Literal["recprune-export/bundle"] = "recprune-export/bundle"
FORMAT_VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 4 << 20  # bytes; a manifest has some kilobytes
SIGNATURE = "manifest.json.sig"
MODEL = "model.onnx"
DENSE = "dense.onnx"
PROGRAM = "model.pt2"
PLAN = "plan.json"
ENCODING = "encoding.json"
JOB = "job.toml"
DATA_PROFILE = "data_profile.json"
CALIBRATION = "calibration.npz"
REPORT = "report.html"
SAMPLE_INPUTS = "samples/inputs.npz"
SAMPLE_OUTPUTS = "samples/outputs.npz"
OUT_OF_RANGE_INPUTS = "samples/out-of-range-inputs.npz"
OUT_OF_RANGE_OUTPUTS = "samples/out-of-range-outputs.npz"
ALWAYS = (MODEL, SAMPLE_INPUTS, SAMPLE_OUTPUTS)  # files that every bundle has

_PATH_SEGMENT = re.compile(r"[\w+-][\w.+-]*", re.ASCII)
# Control characters, which a terminal would execute, and lone surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


class Manifest(BaseModel):
    """Contents of a manifest in plain JSON values; `docs/manifest.schema.json` is generated from this model.

    Each section is the result of `to_dict` of its stage. `write_bundle` fills in `files`.

    Raises `pydantic.ValidationError` if a value does not follow the schema.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, title=f"{MANIFEST} of a bundle, format {FORMAT_VERSION}"
    )

    format: Literal["recprune-export/bundle"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    name: Annotated[Name, Field(description="name of the bundle; the directory may have another name")]
    created: Annotated[
        str,
        Field(
            pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)$",
            description="time of writing: ISO 8601, UTC",
        ),
    ]
    opset: Annotated[int, Field(ge=13, description=f"ONNX operator set of {MODEL}")]
    runtime: Annotated[
        Annotated[Object, PublishedAs(RuntimeSection)] | None,
        Field(description=f"requirements of {MODEL}; null in bundles of earlier releases"),
    ] = None
    signature: Annotated[Object, PublishedAs(SignatureSection)]
    scores: Annotated[
        dict[str, Annotated[Object, PublishedAs(ScoreEntry)]],
        Field(description="meaning of each output, by its name; empty in bundles of earlier releases"),
    ] = Field(default_factory=dict)
    counts: Annotated[
        Object,
        PublishedAs(CountsSection),
        Field(
            description="parameters, non-zero parameters, bytes and operations, for tables and the rest, counted in the ONNX files"
        ),
    ]
    metrics: Annotated[
        Object,
        PublishedAs(DenseAndPruned),
        Field(description="quality on held-out rows, by metric; empty objects without data"),
    ]
    parity: Annotated[Object, Field(description=f"{MODEL} in ONNX Runtime against the pruned program in PyTorch")]
    latency: Annotated[Object, PublishedAs(LatencySection)]
    plan: Annotated[
        Object,
        PublishedAs(PlanSection),
        Field(description=f"summary of {PLAN}: removed channels, and frozen axes with reasons"),
    ]
    settings: Annotated[Object, Field(description="sparsity, seed and other options of the run")]
    environment: Annotated[Object, Field(description="versions of packages, system, CPU and cores of the run")]
    tolerances: Annotated[Object, PublishedAs(ToleranceSection)]
    session: Annotated[Object, PublishedAs(SessionSection)] = Field(default_factory=dict)
    rewrites: Annotated[
        list[Annotated[Object, PublishedAs(RewriteEntry)]],
        Field(description="graph rewrites that were evaluated, in order"),
    ] = Field(default_factory=list)
    cost: Annotated[Object, PublishedAs(CostSection)] = Field(default_factory=dict)
    change: Annotated[
        Object,
        PublishedAs(ChangeSection | EmptySection),
        Field(description="change of a metric on test rows; empty without labeled rows"),
    ] = Field(default_factory=dict)
    changes: Annotated[
        Object,
        PublishedAs(dict[str, ChangeSection]),
        Field(description="the same for each metric of `metrics`, by its name; `check` uses it to compare bundles"),
    ] = Field(default_factory=dict)
    quality: Annotated[
        Object,
        PublishedAs(QualityVerdictSection | EmptySection),
        Field(description="verdict on the loss of quality with the usual allowance; empty without labeled rows"),
    ] = Field(default_factory=dict)
    trials: Annotated[
        list[Annotated[Object, PublishedAs(TrialEntry)]],
        Field(
            description="trials of the search of `--max-drop` that chose how far to compress, on validation rows; empty without one"
        ),
    ] = Field(default_factory=list)
    breakdown: Annotated[
        Object,
        PublishedAs(BreakdownSection | EmptySection),
        Field(
            description="quality on test rows by the frequency of their ids in training, and calibration; empty without labels"
        ),
    ] = Field(default_factory=dict)
    notes: Annotated[list[str], Field(description="remarks for the user about this run")] = Field(default_factory=list)
    quantization: Annotated[
        Object,
        PublishedAs(QuantizationSection),
        Field(description="quantized weights, and the loss against the same file in fp32; empty without quantization"),
    ] = Field(default_factory=dict)
    models: Annotated[
        dict[str, Annotated[Object, PublishedAs(DerivedModelEntry)]],
        Field(description=f"other ONNX files of the bundle, derived from {MODEL}, by name"),
    ] = Field(default_factory=dict)
    towers: Annotated[
        Object,
        PublishedAs(TowersSection | EmptySection),
        Field(description="the two towers of the model and the index of items; empty unless `split` wrote the bundle"),
    ] = Field(default_factory=dict)
    encoding: Annotated[
        Annotated[Object, PublishedAs(EncodingSection)] | None,
        Field(description="null if requests are built from arrays, not from raw values"),
    ] = None
    license: Annotated[str | None, Field(description="SPDX license expression; null if none was given")] = None
    provenance: Annotated[
        Annotated[Object, PublishedAs(ProvenanceSection)] | None, Field(description="null if it is not known")
    ] = None
    files: Annotated[
        dict[str, FileEntry],
        Field(
            description=f"every file of the bundle except {MANIFEST} and {SIGNATURE}, by its path relative to the bundle",
            json_schema_extra={"required": list(ALWAYS)},
        ),
    ] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Convert tuples to lists, as JSON does."""
        return _as_json(values)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def checksum(
        self,
    ) -> Annotated[
        Sha256,
        Field(description="SHA-256 of this object without `checksum`, as JSON with sorted keys and no white space"),
    ]:
        """Checksum of all other values."""
        return values_checksum(self.model_dump(exclude={"checksum"}))

    def with_files(self, files: Mapping[str, FileEntry]) -> Self:
        """Return a copy of the manifest that lists `files`."""
        return self.model_copy(update={"files": dict(sorted(files.items()))})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the checksum of the manifest itself."""
        # In mode "json", pydantic would convert NaN to null silently. Paths, command lines and lines of source may contain any
        # character; names of the signature must stay unchanged.
        values = self.model_dump(exclude={"checksum"})
        signatures = {name: entry["signature"] for name, entry in values["models"].items()}
        values = {name: value if name == "signature" else _printable(value) for name, value in values.items()}
        values["models"] = {name: {**values["models"][name], "signature": of} for name, of in signatures.items()}
        return {**values, "checksum": values_checksum(values)}

    def to_json(self) -> str:
        """Return the text of `manifest.json`.

        Raises `ValueError` for NaN and infinity, which JSON does not have.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read the result of `to_dict`; an older format version is migrated.

        Raises `BundleError` if the values do not follow the schema, name a file outside the bundle, or
        were changed after writing.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BundleError(f"{MANIFEST} is not the manifest of a recprune-export bundle.")
        try:
            checksum = values_checksum(values)
            unprintable = next((text for text in _texts(values) if _UNPRINTABLE.search(text)), None)
            migrated = migrate(values, FORMAT_VERSION)
            manifest = cls.model_validate({key: value for key, value in migrated.items() if key != "checksum"})
        except ValidationError as error:
            raise BundleError(f"{MANIFEST} does not follow its schema at {_first_fault(error)}.") from error
        except (RecursionError, ValueError) as error:
            reason = (
                "is nested too deeply"
                if isinstance(error, RecursionError)
                else "contains values that are not valid JSON"
            )
            raise BundleError(f"{MANIFEST} {reason}: export the bundle again.") from error
        if unprintable is not None:
            raise BundleError(
                f"{MANIFEST} contains invalid characters, in {unprintable[:80]!r}: export the bundle again."
            )
        _check_files(manifest.files)
        _check_models(manifest)
        if values.get("checksum") != checksum:
            raise BundleError(
                f"{MANIFEST} was changed after the bundle was written (wrong checksum): export the bundle again."
            )
        return manifest


def values_checksum(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values without the key `checksum`, in canonical JSON.

    >>> values_checksum({"a": 1, "b": 2}) == values_checksum({"b": 2, "a": 1, "checksum": "anything"})
    True
    """
    hashed_values = {key: value for key, value in values.items() if key != "checksum"}
    text = json.dumps(hashed_values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_name(name: str) -> str:
    """Check that `name` is a plain relative path inside the bundle, and return it.

    Raises `BundleError`.

    >>> check_name("samples/inputs.npz")
    'samples/inputs.npz'
    """
    segments = name.split("/")
    reserved = name in (MANIFEST, SIGNATURE)
    if (
        reserved
        or name != str(PurePosixPath(name))
        or not all(_PATH_SEGMENT.fullmatch(segment) for segment in segments)
    ):
        raise BundleError(
            f"The file name {name!r} is not allowed in a bundle: use letters, digits, '.', '_', '+', '-' and '/'."
        )
    return name


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _printable(values: Any) -> Any:
    """Return JSON values with a replacement character for each character that is unsafe in a terminal.

    >>> _printable({"command": ["compress", "a\x1b[2J.pt"], "seed": 0})
    {'command': ['compress', 'a�[2J.pt'], 'seed': 0}
    """
    if isinstance(values, str):
        return _UNPRINTABLE.sub("\ufffd", values)
    if isinstance(values, Mapping):
        return {_printable(name): _printable(value) for name, value in values.items()}
    return [_printable(value) for value in values] if isinstance(values, list | tuple) else values


def _texts(values: Any) -> Iterator[str]:
    """Yield every string in JSON values, keys included."""
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


def _check_models(manifest: Manifest) -> None:
    for name, entry in manifest.models.items():
        for file in (name, *entry["samples"].values()):
            if file not in manifest.files:
                raise BundleError(
                    f"{MANIFEST} does not follow its schema at $.models: '{file}' is not among the files."
                )


def _first_fault(error: ValidationError) -> str:
    """Return location and message of the first error, such as `$.signature.inputs[0].name: Field required`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    location = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"])
    return f"${location}: {fault['msg'][:200]}"


def read_manifest_bytes(path: Path) -> bytes:
    """Return the content of a manifest. Raises `BundleError`, before it is read, for a file beyond `MANIFEST_LIMIT`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(MANIFEST_LIMIT + 1) if size <= MANIFEST_LIMIT else b""
    if max(size, len(content)) > MANIFEST_LIMIT:
        raise BundleError(f"{path} has {size:,} bytes, more than the limit of {MANIFEST_LIMIT:,}: it was not read.")
    return content
