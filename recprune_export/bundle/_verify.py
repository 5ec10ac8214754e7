"""Verify files, manifest and golden outputs of a bundle on the serving machine, without PyTorch."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.bundle.archive.manifest_signature import SIGNATURE_BYTES, check_signature
from recprune_export.bundle.manifest.manifest import (
    ENCODING,
    MANIFEST,
    OUT_OF_RANGE_INPUTS,
    OUT_OF_RANGE_OUTPUTS,
    SIGNATURE,
    FileEntry,
    Manifest,
    read_manifest_bytes,
)
from recprune_export.bundle.raw_rows import RAW_ROWS, read_raw_rows
from recprune_export.bundle.served_files import ServedFile, list_served_files
from recprune_export.codec import ToDictMixin, json_name
from recprune_export.data.encoding.encoding_values import read_encoder
from recprune_export.data.encoding.json_rows import encode_json_rows
from recprune_export.data.npz import MAX_EXAMPLE_BYTES, read_npz
from recprune_export.error_text import first_line
from recprune_export.errors import BundleError, DataError, ModelFileError, ValidationFailed
from recprune_export.program.requests.jagged_inputs import is_packed, list_file_inputs
from recprune_export.program.signature import BATCH, Signature
from recprune_export.validation.parity import Tolerances, is_text, resolve_ties

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class GoldenOutput:
    """Largest errors of one output of the ONNX file `file` against the golden output; 0 for strings, which are equal."""

    file: str
    name: str
    max_absolute: float
    max_relative: float


@dataclass(frozen=True)
class Verification(ToDictMixin):
    """Result of a successful verification: number of files, bytes, rows of the golden request, errors, and seconds.

    `signature` is "absent", "unchecked" (no public key was given) or "valid"; `raw_rows` is "absent", "unchecked" (their outputs are
    checked, but not their encoding, since polars is not installed) or "valid".
    """

    name: str
    files: int = field(metadata=json_name("file_count"))
    bytes: int
    rows: int = field(metadata=json_name("golden_rows"))
    outputs: tuple[GoldenOutput, ...] = field(metadata=json_name("golden_outputs"))
    seconds: float
    signature: str = field(default="absent", metadata=json_name("signature_check"))
    raw_rows: str = field(default="absent", metadata=json_name("raw_rows_check"))


class OpenSession:
    """The session of the last requested ONNX file: large models are not in memory at the same time, and no file is loaded twice in a
    row."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._session: onnxruntime.InferenceSession | None = None

    def get(self, path: Path) -> "onnxruntime.InferenceSession":
        """Return a session of the file on one thread."""
        from recprune_export.onnx.runtime.session import make_session

        if self._session is None or path != self._path:
            self._session = None
            self._session, self._path = make_session(path, threads=1), path
        return self._session


def verify(bundle: Path, public_key: Path | None = None) -> Verification:
    """Check size and SHA-256 of every file, the manifest, and that ONNX Runtime reproduces the golden outputs of each ONNX file.

    The outputs for raw rows and for requests with ids and numbers out of range are also checked, or that such requests are refused
    according to the manifest.

    With a `public_key`, the signature of the manifest is checked first.

    Raises `BundleError`, which names the files, if files are missing, changed or not listed, or if the signature is missing or
    wrong, and `ValidationFailed` if the outputs differ by more than the manifest's tolerances.
    """
    start = time.perf_counter()
    signature = _signature(bundle, public_key)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    check_models(bundle, manifest)
    session = OpenSession()
    rows, outputs = check_golden(bundle, manifest, session)
    check_input_rules(bundle, manifest, session)
    raw_rows = check_raw_rows(bundle, manifest, session)
    size = sum(entry.bytes for entry in manifest.files.values())
    seconds = time.perf_counter() - start
    return Verification(manifest.name, len(manifest.files), size, rows, outputs, seconds, signature, raw_rows)


def read_manifest(bundle: Path) -> Manifest:
    """Read `manifest.json` of a bundle.

    Raises `BundleError` if there is no bundle, or the manifest is damaged, changed, or of an unknown format version.
    """
    path = bundle / MANIFEST
    if not bundle.is_dir():
        raise BundleError(f"{bundle} is neither a directory nor a packed bundle: give a bundle.")
    if not path.is_file():
        raise BundleError(f"{bundle} has no {MANIFEST}, so it is not a bundle.")
    content = read_manifest_bytes(path)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged (not JSON): copy the bundle again.") from error
    return Manifest.from_dict(values)


@contextlib.contextmanager
def reject_invalid_sections(bundle: Path, name: str = MANIFEST) -> Iterator[None]:
    """Raise `BundleError` if values of a manifest, or of the file `name`, are invalid: their source is untrusted."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise BundleError(
            f"{bundle / name} is invalid, or was written by another "
            f"release ({type(error).__name__}: {str(error)[:100]}): export the bundle again."
        ) from error


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Compare the files of a bundle to its manifest.

    Raises `BundleError`, which names every file that is missing, changed, or not listed.
    """
    root = os.path.realpath(bundle)  # unlike Path.resolve, it terminates on circular links
    present = {
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    present -= {MANIFEST, SIGNATURE}
    missing = sorted(set(manifest.files) - present)
    extra = sorted(present - set(manifest.files))
    outside = sorted(name for name in present if not Path(os.path.realpath(bundle / name)).is_relative_to(root))
    readable = sorted(set(manifest.files) & present - set(outside))
    digests = _Digests()
    changed = [name for name in readable if not digests.match(bundle / name, manifest.files[name])]
    faults = [
        f"{fault} {', '.join(repr(name) for name in names)}"
        for fault, names in {
            "missing": missing,
            "changed": changed,
            "not in the manifest": extra,
            "linked from outside the bundle": outside,
        }.items()
        if names
    ]
    if faults:
        raise BundleError(f"{bundle} was changed after it was written: {'; '.join(faults)}.")


def check_models(bundle: Path, manifest: Manifest) -> None:
    """Check that all weights of the served ONNX files are in files of the bundle and have the declared sizes.

    Raises `BundleError`.
    """
    from recprune_export.onnx.reading import find_weight_files, read_model

    for file in list_served_files(manifest):
        path = bundle / file.name
        try:
            model = read_model(path)
        except ModelFileError as error:
            raise BundleError(str(error)) from error
        foreign = sorted(find_weight_files(model) - set(manifest.files))
        if foreign:
            raise BundleError(f"{path} has weights in {foreign[0]!r}, which is not a file of the bundle: refused.")


def check_golden(bundle: Path, manifest: Manifest, session: OpenSession) -> tuple[int, tuple[GoldenOutput, ...]]:
    """Run the golden request of each ONNX file in ONNX Runtime; return the rows of the model's request, and the errors of each output.

    Raises `ValidationFailed` if an output has another dtype or shape, or exceeds the tolerances,
    and `BundleError` if the samples or the model cannot be read, or the samples do not match the signature.
    """
    checked = [_check_sample(bundle, file, session) for file in list_served_files(manifest)]
    return checked[0][0], tuple(output for _, outputs in checked for output in outputs)


def _check_sample(bundle: Path, file: ServedFile, session: OpenSession) -> tuple[int, tuple[GoldenOutput, ...]]:
    inputs, outputs = file.inputs, file.outputs
    request, golden = read_samples(bundle / inputs), read_samples(bundle / outputs)
    with reject_invalid_sections(bundle):
        expected = list_file_inputs(Signature.from_dict(file.signature))
    _check_samples(inputs, request, [{"name": i.name, "dtype": i.dtype, "shape": i.shape} for i in expected])
    _check_samples(outputs, golden, file.signature["outputs"])
    answer = _run(session, bundle / file.name, request)
    tolerances = Tolerances(file.tolerances["absolute"], file.tolerances["relative"])
    compared = tuple(_compare(file.name, name, golden, answer.get(name), tolerances) for name in golden)
    rows = [len(np.atleast_1d(request[i.name])) for i in expected if not is_packed(i.members[0])]
    answered = [len(np.atleast_1d(values)) for values in answer.values()]
    return max(rows or answered), compared


def check_input_rules(bundle: Path, manifest: Manifest, session: OpenSession) -> None:
    """Check that ids out of range, and infinite numbers, are replaced or refused according to the signature.

    Raises `ValidationFailed`, and `BundleError` for samples that cannot be read. A bundle without such rules passes.
    """
    from recprune_export.onnx.runtime.session import refuses
    from recprune_export.validation.edge_requests import make_refused_requests

    model = list_served_files(manifest)[0]
    if OUT_OF_RANGE_INPUTS in manifest.files:
        try:
            _check_sample(bundle, replace(model, inputs=OUT_OF_RANGE_INPUTS, outputs=OUT_OF_RANGE_OUTPUTS), session)
        except ValidationFailed as error:
            raise ValidationFailed(f"The outputs for {OUT_OF_RANGE_INPUTS} differ: {error}") from error
    with reject_invalid_sections(bundle):
        refused = make_refused_requests(Signature.from_dict(manifest.signature))
    for label, request in refused.items():
        if not refuses(session.get(bundle / model.name), request):
            raise ValidationFailed(f"The model accepts {label}, which it should refuse according to its signature.")


def check_raw_rows(bundle: Path, manifest: Manifest, session: OpenSession) -> str:
    """Check the outputs for the raw rows of a bundle, and their encoding; return the state of the encoding, as in `Verification`.

    Raises `ValidationFailed`, and `BundleError` for rows that cannot be read.
    """
    if RAW_ROWS not in manifest.files:
        return "absent"
    with reject_invalid_sections(bundle, RAW_ROWS):
        signature = Signature.from_dict(manifest.signature)
        rows, inputs, request, golden = read_raw_rows(bundle / RAW_ROWS, signature)
    _check_raw_rows(rows, inputs, golden, signature)
    model = list_served_files(manifest)[0]
    answers = _run(session, bundle / model.name, request)
    tolerances = Tolerances(model.tolerances["absolute"], model.tolerances["relative"])
    try:
        for name in golden:
            _compare(model.name, name, golden, answers.get(name), tolerances)
    except ValidationFailed as error:
        raise ValidationFailed(f"The outputs for {RAW_ROWS} differ: {error}") from error
    with reject_invalid_sections(bundle, ENCODING):
        try:
            encoder = read_encoder(json.loads((bundle / ENCODING).read_bytes()))
            encoded = encode_json_rows(encoder, rows)
        except ModuleNotFoundError:  # polars, which only `predict` requires
            return "unchecked"
    for name, values in inputs.items():
        if name not in encoded or not np.array_equal(values, encoded[name], equal_nan=values.dtype.kind == "f"):
            raise ValidationFailed(f"This release encodes the rows of {RAW_ROWS} differently, in '{name}'.")
    return "valid"


def _check_raw_rows(
    rows: Sequence[Any], inputs: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], signature: Signature
) -> None:
    """Raise `BundleError` if the arrays are not those of the signature, or of other numbers of rows."""
    # Shared inputs have a value in each row.
    expected = [{"name": i.name, "dtype": i.dtype, "shape": (BATCH, *i.shape[1:])} for i in signature.inputs]
    _check_samples(RAW_ROWS, inputs, expected)
    _check_samples(RAW_ROWS, golden, signature.to_dict()["outputs"])
    counts = {name: len(values) for name, values in inputs.items()}
    answered = max(len(values) for values in golden.values())
    if not rows or not answered or any(count != len(rows) for count in counts.values()):
        raise BundleError(
            f"{RAW_ROWS} has {len(rows)} rows, {answered} of them with outputs, but the inputs have {counts}: export the bundle again."
        )


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """Read an `.npz` of plain arrays without unpickling.

    Raises `BundleError`.
    """
    try:
        return read_npz(path, MAX_EXAMPLE_BYTES)
    except DataError as error:
        raise BundleError(f"{error} Export the bundle again.") from error


def _signature(bundle: Path, public_key: Path | None) -> str:
    if public_key is not None:
        check_signature(bundle, public_key)
        return "valid"
    path = bundle / SIGNATURE
    if not path.exists():
        return "absent"
    if path.stat().st_size != SIGNATURE_BYTES:
        raise BundleError(f"{path} is not a signature of {SIGNATURE_BYTES} bytes: sign the bundle again.")
    return "unchecked"


class _Digests:
    """Cache of file checksums; a file with two names is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}

    def match(self, path: Path, entry: FileEntry) -> bool:
        if not path.is_file():  # reading a pipe would block
            return False
        stat = path.stat()
        if stat.st_size != entry.bytes:
            return False
        inode = (stat.st_dev, stat.st_ino)
        if inode not in self._known:
            with path.open("rb") as file:
                self._known[inode] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[inode] == entry.sha256


def _check_samples(file: str, arrays: Mapping[str, np.ndarray], tensors: Sequence[Mapping[str, Any]]) -> None:
    expected = sorted(tensor["name"] for tensor in tensors)
    if sorted(arrays) != expected:
        raise BundleError(
            f"{file} contains {sorted(arrays)}, but the signature specifies {expected}: export the bundle again."
        )
    for tensor in tensors:
        values, shape = arrays[tensor["name"]], tensor["shape"]
        fits = len(shape) == values.ndim and all(
            isinstance(expected_size, str) or expected_size == size
            for expected_size, size in zip(shape, values.shape, strict=True)
        )
        dtype = "str" if is_text(values) else values.dtype.name
        if dtype != tensor["dtype"] or not fits:
            raise BundleError(
                f"'{tensor['name']}' in {file} is {values.dtype}{list(values.shape)}, but the signature "
                f"specifies {tensor['dtype']}{shape}: export the bundle again."
            )


def _run(session: OpenSession, model: Path, request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from recprune_export.onnx.runtime.session import run

    try:
        return run(session.get(model), request)
    except ModuleNotFoundError:  # ONNX Runtime is missing
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ValidationFailed(f"ONNX Runtime cannot run {model} on the golden request: {first_line(error)}") from error


def _compare(
    file: str, name: str, response: Mapping[str, np.ndarray], answer: np.ndarray | None, tolerances: Tolerances
) -> GoldenOutput:
    golden = response[name]
    if answer is None:
        raise ValidationFailed(f"{file} has no output '{name}', which is in the signature of the bundle.")
    texts = is_text(golden) and is_text(answer)
    if (answer.dtype != golden.dtype and not texts) or answer.shape != golden.shape:
        raise ValidationFailed(
            f"Output '{name}' of {file} is {answer.dtype}{list(answer.shape)}, the golden output is {golden.dtype}{list(golden.shape)}."
        )
    answer = resolve_ties(response, name, answer, tolerances)
    if texts:
        if not np.array_equal(answer, golden):
            raise ValidationFailed(f"Output '{name}' of {file} contains other strings than the golden output.")
        return GoldenOutput(file, name, 0.0, 0.0)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = np.abs(answer.astype(np.float64) - golden.astype(np.float64))
    magnitude = np.abs(golden.astype(np.float64))
    worst = GoldenOutput(
        file, name, _worst(difference), _worst(difference / np.maximum(magnitude, np.finfo(np.float32).tiny))
    )
    equal = (difference <= tolerances.allowed(golden)) | (answer == golden) | (np.isnan(answer) & np.isnan(golden))
    if not bool(np.all(equal)):
        raise ValidationFailed(
            f"Output '{name}' of {file} differs from the golden output by {worst.max_absolute:.3g} "
            f"(allowed: {tolerances.absolute:.3g} + {tolerances.relative:.3g} of its size): this machine's ONNX Runtime does not "
            "reproduce the bundle."
        )
    return worst


def _worst(errors: np.ndarray) -> float:
    return float(np.nanmax(errors)) if np.isfinite(errors).any() else 0.0
