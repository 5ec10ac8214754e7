"""`OpenModel`: a checked ONNX file of a bundle, with the encoder of its requests, and its session."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recprune_export.bundle._verify import check_files, read_manifest, reject_invalid_sections
from recprune_export.bundle.manifest.manifest import ENCODING, MODEL, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.bundle.served_files import list_served_files
from recprune_export.column_names import list_names
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.encoding_values import read_encoder
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.errors import BundleError, UsageError
from recprune_export.onnx.runtime.session import make_session
from recprune_export.program.signature import Input, Signature

if TYPE_CHECKING:
    import onnxruntime

AnyEncoder = Encoder | SequenceEncoder


@dataclass(frozen=True)
class OpenModel:
    """The ONNX file `file` of `bundle`, whose files have the checksums of `manifest`; with `threads` None, as many as the manifest
    states.

    Encoder and session are created at their first use.
    """

    bundle: Path
    manifest: Manifest
    file: str
    signature: Signature
    threads: int | None = None

    @cached_property
    def session(self) -> "onnxruntime.InferenceSession":
        """The session. Raises `ExportError` if ONNX Runtime cannot load the file."""
        return make_session(self.bundle / self.file, self.threads, read_session_options(self.manifest))

    @cached_property
    def encoder(self) -> AnyEncoder | None:
        """The encoder of raw values; None if the bundle accepts arrays."""
        return read_bundle_encoder(self.bundle, self.manifest, self.signature.inputs)


def open_model(bundle: Path, file: str = MODEL, threads: int | None = None) -> OpenModel:
    """Check all files of a bundle by its manifest, and open one of its ONNX files.

    Raises `BundleError`, and `UsageError` as `read_file_signature` does.
    """
    manifest = read_manifest(bundle)
    signature = read_file_signature(bundle, manifest, file)
    check_files(bundle, manifest)
    return OpenModel(bundle, manifest, file, signature, threads)


def read_file_signature(bundle: Path, manifest: Manifest, file: str) -> Signature:
    """Return the signature of an ONNX file of a bundle.

    Raises `UsageError` if the bundle has no such file, or the file takes other inputs than `model.onnx` does.
    """
    served = {each.name: each for each in list_served_files(manifest)}
    if file not in served:
        raise UsageError(f"{bundle} has no ONNX file '{file}'; it has {list_names(list(served))}.")
    with reject_invalid_sections(bundle):
        signature = Signature.from_dict(served[file].signature)
        of_model = {_describe(i) for i in Signature.from_dict(manifest.signature).inputs}
    other = next((i.name for i in signature.inputs if _describe(i) not in of_model), None)
    if other is not None:
        raise UsageError(
            f"{file} expects '{other}' in another form than {MODEL}: rows are encoded for {MODEL}, so leave out --file, or "
            "run this file in ONNX Runtime."
        )
    return signature


def read_bundle_encoder(bundle: Path, manifest: Manifest, inputs: Sequence[Input]) -> AnyEncoder | None:
    """Return the encoder of these inputs from the file of a bundle, None without one. Raises `BundleError`."""
    if ENCODING not in manifest.files:
        return None
    path = bundle / ENCODING
    try:
        values: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: copy the bundle again.") from error
    with reject_invalid_sections(bundle, ENCODING):
        encoder = read_encoder(values)
        return encoder.select_inputs({i.name for i in inputs}) if isinstance(encoder, Encoder) else encoder


def _describe(spec: Input) -> tuple[object, ...]:
    return spec.name, spec.dtype, len(spec.shape), spec.ids, spec.shared
