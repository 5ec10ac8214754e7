"""ONNX Runtime sessions on CPU and their options."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.codec import DictMixin
from recprune_export.error_text import first_line
from recprune_export.errors import ExportError, UsageError
from recprune_export.onnx.runtime.mapped_initializers import map_initializers
from recprune_export.program.requests.jagged_inputs import (
    METADATA,
    is_packed,
    list_file_inputs,
    read_jagged_inputs,
    to_file_arrays,
)
from recprune_export.program.signature import Signature

if TYPE_CHECKING:
    import onnxruntime

OPTIMIZATION = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"
}  # fmt: skip


@dataclass(frozen=True)
class SessionOptions(DictMixin):
    """Options of a session; the defaults are those of ONNX Runtime, except for the threads.

    `threads`: threads for one operator, which may be `spinning` while they wait for the next one. `arena`: whether memory
    is retained between requests. `optimization`: a key of OPTIMIZATION. `prepacking`: whether weights are copied into the
    layout of the kernels.
    """

    threads: int = 1
    spinning: bool = True
    arena: bool = True
    optimization: str = "all"
    prepacking: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"A session requires 1 thread or more, got {self.threads}.")
        if self.optimization not in OPTIMIZATION:
            raise UsageError(f"'{self.optimization}' is not an optimization level: {', '.join(OPTIMIZATION)}.")

    def code(self) -> str:
        """Return Python code that makes `options` with these settings; `ort` is onnxruntime."""
        lines = ["options = ort.SessionOptions()"]
        lines += [f"options.{name} = {value}" for name, value in self._attributes().items()]
        lines += [f'options.add_session_config_entry("{key}", "{value}")' for key, value in self._entries().items()]
        return "\n".join(lines)

    def _attributes(self) -> dict[str, str]:
        values = {"intra_op_num_threads": str(self.threads), "inter_op_num_threads": "1"}
        if not self.arena:
            values["enable_cpu_mem_arena"] = "False"
        if self.optimization != "all":
            values["graph_optimization_level"] = f"ort.GraphOptimizationLevel.{OPTIMIZATION[self.optimization]}"
        return values

    def _entries(self) -> dict[str, str]:
        entries = {}
        if not self.spinning:
            entries["session.intra_op.allow_spinning"] = "0"
        if not self.prepacking:
            entries["session.disable_prepacking"] = "1"
        return entries

    def to_onnxruntime(self) -> "onnxruntime.SessionOptions":
        """Return the options object of ONNX Runtime, the one that `code` makes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.enable_cpu_mem_arena = self.arena
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATION[self.optimization])
        for key, value in self._entries().items():
            options.add_session_config_entry(key, value)
        return options


DEFAULT_OPTIONS = SessionOptions()


def make_session(
    path: Path, threads: int | None = None, options: SessionOptions = DEFAULT_OPTIONS
) -> "onnxruntime.InferenceSession":
    """Load a model; `threads` overrides the number in `options`.

    Raises `ExportError` if ONNX Runtime cannot load it.
    """
    session_options = (options if threads is None else replace(options, threads=threads)).to_onnxruntime()
    session_options.log_severity_level = 3
    alive = map_initializers(path, session_options)
    session = load_session(str(path), session_options, str(path))
    session.mapped_initializers = alive  # the session reads them without owning them
    return session


def load_session(
    model: str | bytes, options: "onnxruntime.SessionOptions", description: str
) -> "onnxruntime.InferenceSession":
    """Load a model from a path or from its bytes. Raises `ExportError` with `description` as the model's name."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no common base
        raise ExportError(f"ONNX Runtime cannot load {description}: {describe_runtime_error(error)}") from error


def run(session: "onnxruntime.InferenceSession", request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Answer one request. Raises `UsageError` if it lacks an input of the model."""
    answers = session.run(None, adapt_request(session, request))
    return {o.name: _as_array(answer) for o, answer in zip(session.get_outputs(), answers, strict=True)}


def _as_array(answer: object) -> np.ndarray:
    """Return an answer as an array; strings, which ONNX Runtime returns as objects, as an array of strings."""
    array = np.asarray(answer)
    return array.astype(str) if array.dtype == object else array


def refuses(session: "onnxruntime.InferenceSession", request: Mapping[str, np.ndarray]) -> bool:
    """Return whether a model fails on a request, without a line of ONNX Runtime on stderr."""
    try:
        run_silently(session, None, adapt_request(session, request))
    except UsageError:
        raise
    except Exception:  # onnxruntime's classes have no common base
        return True
    return False


def run_silently(
    session: "onnxruntime.InferenceSession", outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray]
) -> Sequence[Any]:
    """Run a model, all outputs for None; a failure is raised without a line of ONNX Runtime on stderr."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    answers: Sequence[Any] = session.run(outputs, inputs, options)
    return answers


def adapt_request(session: "onnxruntime.InferenceSession", request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs of a model from a request, with the number of rows that the model takes.

    If the model takes one row of an input that all candidates share, it gets the first row. If it takes a row for each candidate, a
    single row is repeated for all candidates. Raises `UsageError` if an input is missing.
    """
    inputs = session.get_inputs()
    signature = _read_jagged(session)
    request = request if signature is None else _pack_jagged_inputs(signature, request)
    missing = [i.name for i in inputs if i.name not in request]
    if missing:
        raise UsageError(f"The request has no '{missing[0]}'; the model expects {', '.join(i.name for i in inputs)}.")
    packed = set() if signature is None else {i.name for i in list_file_inputs(signature) if is_packed(i.members[0])}
    by_row = [i for i in inputs if i.name not in packed]
    rows = max((len(request[i.name]) for i in by_row if i.shape), default=1)
    adapted = {i.name: _adapt_rows(request[i.name], i.shape, rows) for i in by_row}
    return {i.name: adapted.get(i.name, request[i.name]) for i in inputs}


def _read_jagged(session: "onnxruntime.InferenceSession") -> Signature | None:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    return None if text is None else read_jagged_inputs(text)


def _pack_jagged_inputs(signature: Signature, request: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return a request with jagged inputs in the form of the file: matrices of rows are packed or padded."""
    first = signature.inputs[0]
    if first.name not in request or request[first.name].ndim != len(first.shape):
        return request  # already in the form of the file
    return {**request, **to_file_arrays(signature, request)}


def _adapt_rows(values: np.ndarray, shape: Sequence[int | str | None], rows: int) -> np.ndarray:
    if not shape or len(values) == (1 if shape[0] == 1 else rows):
        return values
    if shape[0] == 1:
        return values[:1]
    return np.repeat(values, rows, axis=0) if len(values) == 1 and not isinstance(shape[0], int) else values


_RUNTIME_PREFIX = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? ?failed:|Exception during initialization: )?"
    r"(?:(?:Fatal )?[Ee]rror: ?|This is an invalid model\. )?(?:/onnxruntime_src/\S+:\d+ .*?\) ?(?=[A-Z])(?:.*? was false\. )?)?"
)


def describe_runtime_error(error: Exception) -> str:
    """Return the error message of ONNX Runtime, without the error code, the path and the location in its source.

    >>> describe_runtime_error(ValueError("[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:Node () is odd"))
    'Node () is odd'
    """
    line = first_line(error)
    return _RUNTIME_PREFIX.sub("", line, count=1) or line
