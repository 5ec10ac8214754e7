"""An ONNX file of the bundle in a session of ONNX Runtime."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

# Before the import: without it ONNX Runtime writes a device id and sends usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from .json_tensors import RequestError, Tensor, check_names

MODEL = "model.onnx"
VERSION = "1"


class OnnxModel:
    """An ONNX file of a bundle in a session, with the name by which it is served."""

    def __init__(self, bundle: Path, file: str, max_batch: int | None, threads: int | None) -> None:
        manifest = read_json_file(bundle / "manifest.json")
        if file != MODEL and file not in manifest.get("models", {}):
            raise SystemExit(
                f"This bundle has no {file}: choose from {', '.join([MODEL, *manifest.get('models', {})])}."
            )
        section = manifest if file == MODEL else manifest["models"][file]
        own = re.sub(r"[^\w.+-]", "_", manifest["name"], flags=re.ASCII).lstrip(".") or "model"
        stem = file.removesuffix(".onnx")
        self.name = own if file == MODEL else f"{own}.{stem.removeprefix('model.')}"
        self.max_batch = max_batch or manifest["settings"].get("max_batch", 4096)
        session_settings = manifest["session"].get("options") or {}
        self.threads = threads or session_settings.get("threads", 1)
        self.session = ort.InferenceSession(
            str(bundle / file), make_session_options(session_settings, self.threads), providers=["CPUExecutionProvider"]
        )
        signature = {tensor["name"]: tensor for tensor in section["signature"]["inputs"]}
        self.inputs = {
            node.name: Tensor(node, None if _is_packed(signature.get(node.name)) else signature.get(node.name))
            for node in self.session.get_inputs()
        }
        self.outputs = {node.name: Tensor(node) for node in self.session.get_outputs()}
        self.shared = {name for name, tensor in signature.items() if tensor.get("shared")}
        self.row_ends = find_row_ends(section["signature"]["inputs"])
        golden = "samples/inputs.npz" if file == MODEL else section["samples"]["inputs"]
        self.run(dict(np.load(bundle / golden)))  # warm up; a failing model then fails at the start

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name. Raises `RequestError` if inputs are missing, unknown, or do not fit each other."""
        check_names(arrays, self.inputs)
        sizes: dict[str, tuple[str, int]] = {}
        for name, tensor in self.inputs.items():
            for size, axis in zip(arrays[name].shape, tensor.shape, strict=True):
                other, first = sizes.setdefault(str(axis), (name, size)) if isinstance(axis, str) else (name, size)
                if size != first:
                    raise RequestError(
                        f"'{other}' has {first} rows and '{name}' has {size}, but the model expects the same number."
                    )
        rows = sizes.get("batch", ("", 1))[1]
        if rows == 0:
            raise RequestError("The request has no rows.")
        if rows > self.max_batch:
            raise RequestError(
                f"The request has {rows} rows, but this server accepts at most {self.max_batch}.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        for ends in self.row_ends:
            ends.check(arrays)
        try:
            answers = self.session.run(None, dict(arrays))
        except Exception as error:  # ONNX Runtime's classes have no common base
            reason = " ".join(str(error).split())[:200]
            raise RequestError(f"The model refuses these inputs: {reason}") from error
        return dict(zip(self.outputs, answers, strict=True))

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the KServe v2 protocol."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [tensor.metadata() for tensor in self.inputs.values()],
            "outputs": [tensor.metadata() for tensor in self.outputs.values()],
        }


class RowEnds:
    """The tensor `rows` with the lengths or offsets of the rows in the tensor `values`.

    Where it is stacked, `key` is the position on the axis of inputs, which is axis 0, or the last one with `keys_last`.
    """

    def __init__(self, layout: Mapping[str, Any], values: str, key: int | None) -> None:
        self.rows, self.values, self.form, self.key = layout["rows"], values, layout["form"], key
        self.keys_last = layout.get("keys_last", False)

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `RequestError` if the row ends do not match the number of elements."""
        ends, count = arrays[self.rows], len(arrays[self.values])
        if self.key is not None:
            ends = ends[..., self.key] if self.keys_last else ends[self.key]
        if self.form == "lengths":
            total = int(ends.sum(dtype=np.int64))
            if ends.min(initial=0) < 0:
                raise RequestError(f"'{self.rows}' contains a length below 0.")
            if total != count:
                raise RequestError(
                    f"'{self.values}' has {count} elements, and the lengths in '{self.rows}' sum to {total}."
                )
            return
        last = int(ends[-1]) if len(ends) else 0
        rises = (np.diff(ends) >= 0).all() and last <= count
        if not rises or (len(ends) and ends[0] != 0) or (self.form == "offsets and end" and last != count):
            raise RequestError(
                f"'{self.rows}' must start at 0 and increase to at most {count}, the number of elements in '{self.values}'."
            )


def _is_packed(tensor: Mapping[str, Any] | None) -> bool:
    jagged = (tensor or {}).get("jagged")
    return jagged is not None and not jagged.get("padded")


def find_row_ends(inputs: Sequence[Mapping[str, Any]]) -> list[RowEnds]:
    """Return the tensors of row ends whose elements are in one tensor for each key, or in one for all keys."""
    layouts = [
        tensor["jagged"] for tensor in inputs if _is_packed(tensor) and tensor["jagged"]["present"] == tensor["name"]
    ]
    found = []
    for rows in dict.fromkeys(layout["rows"] for layout in layouts):
        of_rows = [layout for layout in layouts if layout["rows"] == rows]
        values = [layout["values"] for layout in of_rows]
        if of_rows[0].get("stacked") and len(set(values)) == len(values):
            found += [RowEnds(layout, layout["values"], key) for key, layout in enumerate(of_rows)]
        elif len(set(values)) == 1 and (not of_rows[0].get("stacked") or of_rows[0]["form"] == "lengths"):
            found.append(RowEnds(of_rows[0], values[0], None))
    return found


def make_session_options(session_settings: Mapping[str, Any], threads: int) -> ort.SessionOptions:
    """Return the options of a session that the manifest records."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = session_settings.get("arena", True)
    levels = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
    level = levels.get(session_settings.get("optimization", "all"), "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if not session_settings.get("spinning", True):
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not session_settings.get("prepacking", True):
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4  # errors of a request are returned to the client
    return options


def read_json_file(path: Path) -> Any:
    """Return the content of a file of the bundle."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(
            f"{path} cannot be read: {error.strerror}. Start this program in the folder of the bundle."
        ) from None
