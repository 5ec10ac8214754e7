"""ONNX Runtime sessions on CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.errors import ExportError, UsageError

if TYPE_CHECKING:
    import onnxruntime


def make_session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Load a model to run on `threads` threads.

    Raises `ExportError` where ONNX Runtime cannot load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no common base
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(f"ONNX Runtime cannot load {path}: {first}") from error


def run(session: "onnxruntime.InferenceSession", request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Answer one request. Raises `UsageError` where it lacks an input of the model."""
    names = [i.name for i in session.get_inputs()]
    missing = [name for name in names if name not in request]
    if missing:
        raise UsageError(f"The request has no '{missing[0]}'; the model takes {', '.join(names)}.")
    answers = session.run(None, {name: request[name] for name in names})
    return {o.name: np.asarray(answer) for o, answer in zip(session.get_outputs(), answers, strict=True)}
