"""Artifacts to compare: a bundle, or a plain ONNX file, which has less information."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recprune_export.bundle._verify import check_files, check_models, read_manifest, reject_invalid_sections
from recprune_export.bundle.manifest.manifest import MODEL, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.bundle.served_files import list_served_files
from recprune_export.errors import ModelFileError
from recprune_export.evidence import Estimate
from recprune_export.gate.graph_signature import read_signature
from recprune_export.metrics.metric_catalogue import find_metric
from recprune_export.onnx.counts import Counts, count
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature


@dataclass(frozen=True)
class RecordedMetric:
    """A metric of the artifact on `rows` test rows, and its recorded error.

    `greater_is_better` is None if that is unknown for the metric. `error` is the standard error of `value` over samples of rows, `loss`
    the paired loss against the dense model; None if they were not recorded.
    """

    value: float
    greater_is_better: bool | None
    error: float | None = None
    loss: Estimate | None = None
    rows: int = 0


@dataclass(frozen=True)
class DerivedFile:
    """An ONNX file that is made from the model of a bundle; `rows` is the file of its golden request."""

    model: Path
    options: SessionOptions
    signature: Signature
    rows: Path


@dataclass(frozen=True)
class Artifact:
    """A model with its signature, session options, counts and metrics.

    `is_bundle`: signature, session options and metrics come from a manifest; otherwise the signature is read from the
    graph. `derived` are the other ONNX files of a bundle, by name. `bytes`: size of all files, each distinct content counted
    once. The checksums are those of the rows, of the dense model and of the files of the model; None if they are not recorded.
    """

    path: Path
    model: Path
    is_bundle: bool
    signature: Signature
    options: SessionOptions
    counts: Counts
    bytes: int
    metrics: Mapping[str, RecordedMetric]
    data: str | None
    data_sha256: str | None = None
    dense_sha256: str | None = None
    weights_sha256: tuple[str, ...] = ()
    derived: Mapping[str, DerivedFile] = field(default_factory=dict)

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
    check_models(path, manifest)
    with reject_invalid_sections(path):
        options = read_session_options(manifest)
        return Artifact(
            path=path,
            model=path / MODEL,
            is_bundle=True,
            signature=Signature.from_dict(manifest.signature),
            options=options,
            counts=_count_model(path / MODEL),
            bytes=sum({entry.sha256: entry.bytes for entry in manifest.files.values()}.values()),
            metrics=_read_metrics(manifest),
            data=manifest.settings.get("data"),
            data_sha256=_read_checksum(manifest, "data"),
            dense_sha256=_read_checksum(manifest, "model"),
            weights_sha256=tuple(entry.sha256 for name, entry in manifest.files.items() if name.startswith(MODEL)),
            derived={
                file.name: DerivedFile(
                    path / file.name, options, Signature.from_dict(file.signature), path / file.inputs
                )
                for file in list_served_files(manifest)[1:]
            },
        )


def _read_metrics(manifest: Manifest) -> dict[str, RecordedMetric]:
    """Return the metrics of the pruned model by name, with the errors of those whose change was recorded."""
    changes = {**manifest.changes, **({manifest.change["metric"]: manifest.change} if manifest.change else {})}
    metrics = {}
    for name, value in manifest.metrics["pruned"].items():
        change = changes.get(name)
        if change is None:
            metric = find_metric(name)
            metrics[name] = RecordedMetric(float(value), None if metric is None else metric.greater_is_better)
            continue
        greater_is_better = change.get("greater_is_better", True)
        difference = Estimate(change["after"] - change["before"], *change["interval"])
        loss = -difference if greater_is_better else difference
        metrics[name] = RecordedMetric(float(value), greater_is_better, change["error"], loss, change["rows"])
    return metrics


def _read_checksum(manifest: Manifest, file: str) -> str | None:
    identity = (manifest.provenance or {}).get(file)
    return None if identity is None else str(identity["sha256"])


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
