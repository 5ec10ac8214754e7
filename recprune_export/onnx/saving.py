"""Writing of graphs to files that `onnx.checker` accepts."""

from pathlib import Path

import onnx
import onnx_ir as ir

from recprune_export.errors import ExportError

EXTERNAL_THRESHOLD = 1_500_000_000  # bytes of weights; protobuf files are limited to 2 GiB


def save_onnx(model: ir.Model, path: Path, external_threshold: int = EXTERNAL_THRESHOLD) -> Path | None:
    """Write `model` to `path`; return the file of external weights, used from `external_threshold` bytes on, or None.

    Raises `ExportError` where the file does not pass onnx.checker.
    """
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    data = path.with_name(path.name + ".data") if weights >= external_threshold else None
    ir.save(model, path, external_data=data.name if data else None)
    _check(path, full_check=data is None)
    return data


def _check(path: Path, full_check: bool) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=full_check)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported file does not pass onnx.checker: {str(error).splitlines()[0]}") from error
