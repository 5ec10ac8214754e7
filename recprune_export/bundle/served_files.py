"""The ONNX files of a bundle that are served, each with its signature, tolerances and golden samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recprune_export.bundle.manifest.manifest import MODEL, SAMPLE_INPUTS, SAMPLE_OUTPUTS, Manifest


@dataclass(frozen=True)
class ServedFile:
    """An ONNX file; `signature` and `tolerances` are sections of the manifest, `inputs` and `outputs` the files of its samples."""

    name: str
    signature: Mapping[str, Any]
    tolerances: Mapping[str, Any]
    inputs: str
    outputs: str


def list_served_files(manifest: Manifest) -> list[ServedFile]:
    """Return `model.onnx` and the files that are made from it."""
    derived = (
        ServedFile(name, entry["signature"], entry["tolerances"], **entry["samples"])
        for name, entry in manifest.models.items()
    )
    return [ServedFile(MODEL, manifest.signature, manifest.tolerances, SAMPLE_INPUTS, SAMPLE_OUTPUTS), *derived]
