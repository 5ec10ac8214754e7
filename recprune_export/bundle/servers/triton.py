"""Model repository for NVIDIA Triton on CPU: `config.pbtxt`, the model, and one row for warm-up.

Layout and keys follow Triton's `model_config.proto` and its ONNX Runtime backend.
"""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from recprune_export.bundle.write import Content, HardLink
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import BATCH, ERROR, Axis, Input, Output, Signature

TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
QUEUE_DELAY = 100  # microseconds that a request may wait for others, about the latency of a recommender


def make_model_name(name: str) -> str:
    """Convert the name of a bundle to a directory name of the repository.

    >>> make_model_name("ctr v2.1")
    'ctr_v2.1'
    """
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII).lstrip(".") or "model"


def make_model_repository(
    name: str,
    signature: Signature,
    request: Mapping[str, np.ndarray],
    models: Sequence[str],
    *,
    options: SessionOptions,
    max_batch: int,
) -> dict[str, Content]:
    """Return the files of `triton/` by their names in the bundle; `models`: `model.onnx` and its external data.

    The server may batch up to `max_batch` rows, which must be independent of each other; with 0 each request runs separately. The model
    files are hard links to those of the bundle.
    """
    name = make_model_name(name)
    folder = f"triton/{name}"
    rows = {i.name: _one_row(i, request[i.name]) for i in signature.inputs}
    files: dict[str, Content] = {
        f"{folder}/config.pbtxt": render_config(name, signature, rows, options=options, max_batch=max_batch).encode(),
        **{f"{folder}/1/{model}": HardLink(model) for model in models},
    }
    warm_up = {_row_file(n): rows[i.name].tobytes() for n, i in enumerate(signature.inputs)}
    return {**files, **{f"{folder}/warmup/{file}": content for file, content in warm_up.items()}}


def render_config(
    name: str, signature: Signature, rows: Mapping[str, np.ndarray], *, options: SessionOptions, max_batch: int
) -> str:
    """Return the text of `config.pbtxt`; with `max_batch` 0 the server does not batch.

    `rows` has one row of each input for warm-up, which runs at batch size 1 and, with batching, at up to 32.
    """
    sizes = [1, min(32, max_batch)] if max_batch > 1 else [1]
    entries = [
        *_comments(signature),
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch}",
        *(f"input {{ {_tensor(tensor, bool(max_batch))} }}" for tensor in signature.inputs),
        *(f"output {{ {_tensor(tensor, bool(max_batch))} }}" for tensor in signature.outputs),
        "instance_group { count: 1 kind: KIND_CPU }",
        *(_parameter(key, value) for key, value in _parameters(options).items()),
    ]
    if max_batch:
        entries.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}")
    entries += [_warm_up(signature, rows, size, bool(max_batch)) for size in sizes]
    return "\n".join(entries) + "\n"


def _comments(signature: Signature) -> list[str]:
    """Return comment lines with the valid ids of each input, and the treatment of others."""
    lines = []
    for tensor in signature.inputs:
        for column, pair in enumerate(tensor.ids):
            if pair is None:
                continue
            where = tensor.name if len(tensor.ids) == 1 else f"{tensor.name}, column {column}"
            bad = tensor.bad_ids[column] if tensor.bad_ids else None
            rule = "" if bad is None else "; others fail the request" if bad == ERROR else f"; others count as {bad}"
            lines.append(f"# {json.dumps(where)}: ids {pair[0]} to {pair[1]}{rule}")
        if tensor.number_limit is not None:
            lines.append(f"# {json.dumps(tensor.name)}: numbers are clipped to +-{tensor.number_limit:g}")
    return lines


def reshape_for_triton(values: np.ndarray, batched: bool) -> np.ndarray:
    """Return a tensor in the shape that a client sends; with batching, one number for each row has shape [rows, 1].

    >>> reshape_for_triton(np.zeros(3), batched=True).shape, reshape_for_triton(np.zeros(3), batched=False).shape
    ((3, 1), (3,))
    """
    return values[:, None] if batched and values.ndim == 1 else values.reshape(1) if not values.ndim else values


def _one_row(tensor: Input, values: np.ndarray) -> np.ndarray:
    """Return the first row in little-endian byte order."""
    row = values[:1] if tensor.shape[:1] in ((BATCH,), (1,)) else values
    return np.ascontiguousarray(row, dtype=np.dtype(tensor.dtype).newbyteorder("<"))


def _row_file(number: int) -> str:
    return f"input-{number}"


def _tensor(tensor: Input | Output, batched: bool) -> str:
    dims, reshape = _dims(tensor.shape[1:] if batched else tensor.shape)
    return f"name: {_quoted(tensor.name)} data_type: TYPE_{TYPES[tensor.dtype]} dims: {dims}{reshape}"


def _dims(shape: Sequence[Axis]) -> tuple[str, str]:
    """Return dims and reshape of a tensor; a scalar becomes [1], because Triton requires one dimension, and is reshaped back."""
    if not shape:
        return "[ 1 ]", " reshape { shape: [ ] }"
    return f"[ {', '.join(str(n) if isinstance(n, int) else '-1' for n in shape)} ]", ""


def _parameters(options: SessionOptions) -> dict[str, str]:
    """Return the session options that Triton's ONNX Runtime backend supports."""
    values = {"intra_op_thread_count": str(options.threads), "inter_op_thread_count": "1"}
    return values if options.arena else {**values, "enable_mem_arena": "0"}


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _warm_up(signature: Signature, rows: Mapping[str, np.ndarray], size: int, batched: bool) -> str:
    inputs = []
    for number, tensor in enumerate(signature.inputs):
        row = rows[tensor.name]
        dims, _ = _dims(row.shape[1:] if batched else row.shape)
        inputs.append(
            f"  inputs {{ key: {_quoted(tensor.name)} value {{ data_type: TYPE_{TYPES[tensor.dtype]} dims: {dims} "
            f"input_data_file: {_quoted(_row_file(number))} }} }}"
        )
    return "\n".join([f'model_warmup {{ name: "rows-{size}" batch_size: {size}', *inputs, "}"])


def _quoted(text: str) -> str:
    """Return a string in the protobuf text format, which accepts the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)
