"""Inspect and profile a bundle or any ONNX file, without PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx

from recprune_export.bundle._verify import read_manifest, read_samples
from recprune_export.bundle.manifest.manifest import MODEL, SAMPLE_INPUTS, Manifest
from recprune_export.codec import JsonForm, ToDictMixin, json_name
from recprune_export.errors import ModelFileError
from recprune_export.evidence import Estimate
from recprune_export.onnx.cost.estimate import Cost, estimate_file_cost
from recprune_export.onnx.cost.machine import Machine, this_machine
from recprune_export.onnx.cost.profiler import Profile, profile_model
from recprune_export.onnx.counts import Counts, count, find_id_limit
from recprune_export.onnx.reading import read_model


@dataclass(frozen=True)
class ArtifactFile:
    """An ONNX file without its weights; if it is part of a bundle, with the manifest and the golden request."""

    name: str
    file: Path
    model: onnx.ModelProto
    manifest: Manifest | None
    samples: Mapping[str, np.ndarray]


def _encode_machine(machine: Machine) -> dict[str, Any]:
    return {
        "threads": machine.threads,
        "fp32_operations_per_second": machine.fp32,
        "int8_operations_per_second": machine.int8,
        "read_bytes_per_second": list(machine.reads),
        "node_seconds": machine.node,
        "call_seconds": machine.call,
    }


def _encode_costs(costs: Mapping[int, Cost]) -> dict[str, Any]:
    return {
        str(batch): {
            "operations": cost.operations,
            "operations_complete": cost.operations_complete,
            "weight_bytes": cost.weights,
            "activation_bytes": cost.activations,
            "interface_bytes": cost.interface,
            "floor_milliseconds": cost.floor * 1e3,
        }
        for batch, cost in costs.items()
    }


@dataclass(frozen=True)
class ArtifactInspection(ToDictMixin):
    """Counts and estimated costs of a file; `measured`: median latency in ms, by batch, read from the manifest."""

    name: str
    counts: Counts
    machine: Annotated[Machine, JsonForm(_encode_machine)]
    costs: Annotated[Mapping[int, Cost], JsonForm(_encode_costs)]
    measured: Mapping[int, Estimate] = field(metadata=json_name("measured_milliseconds"))
    rewrites: Sequence[Mapping[str, Any]]


def open_artifact_file(path: Path) -> ArtifactFile:
    """Open a bundle or an ONNX file.

    Raises `BundleError` for a directory that is not a bundle, `ModelFileError` for a file that is not an ONNX model.
    """
    manifest = read_manifest(path) if path.is_dir() else None
    file = path / MODEL if manifest else path
    model = read_model(file)
    samples = read_samples(path / SAMPLE_INPUTS) if manifest else {}
    return ArtifactFile(manifest.name if manifest else path.stem, file, model, manifest, samples)


def inspect_artifact(path: Path, batches: Sequence[int], threads: int) -> ArtifactInspection:
    """Count parameters and operations of a bundle or an ONNX file, and estimate the cost of a request from the graph.

    Raises `ModelFileError` if the graph is invalid.
    """
    artifact, machine = open_artifact_file(path), this_machine(threads)
    saved_costs = artifact.manifest.cost.get("models", {}).get("pruned", {}) if artifact.manifest else {}
    try:
        counts, costs = (
            count(artifact.file),
            {batch: estimate_file_cost(artifact.file, batch, machine) for batch in batches},
        )
    except Exception as error:  # onnx raises many unrelated classes for an invalid graph
        raise ModelFileError(f"{artifact.file} cannot be analyzed: it is not a valid ONNX model.") from error
    return ArtifactInspection(
        name=artifact.name,
        counts=counts,
        machine=machine,
        costs=costs,
        measured={int(batch): _read_measured(cost) for batch, cost in saved_costs.items()},
        rewrites=artifact.manifest.rewrites if artifact.manifest else (),
    )


def _read_measured(cost: Mapping[str, Any]) -> Estimate:
    """Return the median of a section on costs; earlier bundles have no interval, and the estimate replaces its ends."""
    low, high = cost.get("interval", (cost["multiple"], cost["multiple"]))
    return Estimate(*(cost["floor"] * multiple for multiple in (cost["multiple"], low, high)))


def profile_artifact(path: Path, batch: int, threads: int) -> Profile:
    """Profile a bundle on its golden request, or an ONNX file on a random request, with `batch` rows."""
    artifact = open_artifact_file(path)
    return profile_model(artifact.file, make_request(artifact, batch), batch, this_machine(threads))


def make_request(file: ArtifactFile, batch: int) -> dict[str, np.ndarray]:
    """Return a request of `batch` rows: the rows of the golden request, repeated, or random rows.

    Random integers are valid ids of every table; random floats are standard normal.
    """
    rng, id_limit = np.random.default_rng(0), find_id_limit(file.model, file.file.parent)
    weights = {tensor.name for tensor in file.model.graph.initializer}
    request = {}
    for value in file.model.graph.input:
        if value.name in weights:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value if dim.HasField("dim_value") else batch for dim in dims]
        sample = file.samples.get(value.name)
        if sample is not None:
            request[value.name] = sample[np.arange(shape[0]) % len(sample)] if shape else sample
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            numbers = rng.normal(size=shape) if dtype.kind == "f" else rng.integers(0, id_limit, size=shape)
            request[value.name] = numbers.astype(dtype)
    return request
