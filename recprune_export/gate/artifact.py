"""Artifacts to compare: a bundle, or a plain ONNX file, which has less information."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recprune_export.bundle._verify import check_files, check_model, read_manifest, reject_invalid_sections
from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.errors import ModelFileError
from recprune_export.gate.graph_signature import read_signature
from recprune_export.onnx.counts import Counts, count
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature


@dataclass(frozen=True)
class Artifact:
    """A model with its signature, session options, counts and metrics.

    `is_bundle`: signature, session options and metrics come from a manifest; otherwise the signature is read from the
    graph. `bytes`: size of all files, each distinct content counted once.
    """

    path: Path
    model: Path
    is_bundle: bool
    signature: Signature
    options: SessionOptions
    counts: Counts
    bytes: int
    metrics: Mapping[str, float]
    data: str | None

    @property
    def name(self) -> str:
        """Return the path as the user wrote it."""
        return str(self.path)


def open_artifact(path: Path) -> Artifact:
    """Read a bundle and check its files, or read a plain ONNX file.

    Raises `BundleError` and `ModelFileError`.
    """
    return _open_bundle(path) if path.is_dir() else _open_plain(path)


def _open_bundle(path: Path) -> Artifact:
    manifest = read_manifest(path)
    check_files(path, manifest)
    check_model(path, manifest)
    with reject_invalid_sections(path):
        return Artifact(
            path=path,
            model=path / MODEL,
            is_bundle=True,
            signature=Signature.from_dict(manifest.signature),
            options=read_session_options(manifest),
            counts=_count_model(path / MODEL),
            bytes=sum({entry.sha256: entry.bytes for entry in manifest.files.values()}.values()),
            metrics={str(name): float(value) for name, value in manifest.metrics["pruned"].items()},
            data=manifest.settings.get("data"),
        )


def _open_plain(path: Path) -> Artifact:
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist: give a bundle or an .onnx file.")
    signature = read_signature(path)
    counts = _count_model(path)
    return Artifact(path, path, False, signature, SessionOptions(), counts, counts.bytes, {}, None)


def _count_model(path: Path) -> Counts:
    try:
        return count(path)
    except Exception as error:  # onnx raises many unrelated classes for an invalid graph
        raise ModelFileError(f"{path} cannot be analyzed: it is not a valid ONNX model.") from error
