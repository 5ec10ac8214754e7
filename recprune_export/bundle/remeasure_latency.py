"""Measure the latency of a bundle on the machine that will serve it (`verify --latency`)."""

from collections.abc import Sequence
from pathlib import Path

from recprune_export.bundle._verify import read_manifest
from recprune_export.bundle.manifest.manifest import DENSE, MODEL, Manifest
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX
from recprune_export.validation.latency.latency_study import LatencyStudy, study_latency

BATCHES = (1, 32, 256)


def measure_bundle(
    bundle: Path,
    *,
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = (1,),
    qps: float | None = None,
    seconds: float = 4.0,
) -> LatencyStudy:
    """Measure a bundle's model and its dense baseline, if included, with the session options of the manifest.

    Raises `BundleError`.
    """
    manifest = read_manifest(bundle)
    options = read_session_options(manifest)
    models = {PRUNED_ONNX: (bundle / MODEL, options)}
    if DENSE in manifest.files:
        models = {DENSE_ONNX: (bundle / DENSE, options), **models}
    signature = Signature.from_dict(manifest.signature)
    return study_latency(models, signature, batches=batches, threads=threads, qps=qps, seconds=seconds)


def read_session_options(manifest: Manifest) -> SessionOptions:
    """Return the session options of a manifest, or the defaults if it has none."""
    return SessionOptions.from_dict(manifest.session.get("options", {}))
