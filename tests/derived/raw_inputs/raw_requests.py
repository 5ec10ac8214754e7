"""Requests of raw values as a client makes them: of rows of JSON values, by the rules that README and docs/encoding.md state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto, helper

from recprune_export.data import Encoder, SequenceEncoder
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.encoding.json_rows import json_text, make_frame
from recprune_export.data.encoding.numeric_columns import as_number
from recprune_export.derived import SourceModel
from recprune_export.derived.raw_inputs import RawIds, RawInput
from recprune_export.onnx import OnnxFile
from recprune_export.onnx.runtime import make_session, run
from recprune_export.program import BATCH, Input, Output, Signature
from recprune_export.validation import Tolerances


def make_raw_request(
    encoder: Encoder | SequenceEncoder, plan: Sequence[RawInput], rows: Sequence[dict[str, Any]]
) -> dict[str, np.ndarray]:
    request = {}
    frame = None if isinstance(encoder, SequenceEncoder) else make_frame(encoder.schema, rows)
    several = {} if isinstance(encoder, SequenceEncoder) else {f.name: f for f in encoder.schema.multi_valued}
    for part in plan:
        if isinstance(part, RawIds):
            separator = several[part.name].separator if part.name in several else None
            values = [to_raw(part, row[part.name], separator, encoder.schema.missing) for row in rows]
            request[part.name] = np.array(values, dtype=np.str_ if part.dtype == "str" else np.int64)
            continue
        assert frame is not None
        for column in part.columns:
            if column.size is None:
                number = as_number(pl.col(column.name), pl.String(), encoder.schema.missing)
                request[column.name] = frame.select(number.fill_null(np.nan)).to_series().to_numpy()
            else:
                vectors = [row[column.name] or [None] * column.size for row in rows]
                request[column.name] = np.array(vectors, dtype=np.float64)
    return request


def to_raw(part: RawIds, value: Any, separator: str | None, missing: Sequence[str]) -> Any:
    if len(part.shape) == 1:
        return to_key(part, texts([value])[0])
    length = part.shape[1]
    assert isinstance(length, int)
    if separator is not None and isinstance(value, str):
        value = [each.strip(" \t\n\v\f\r") for each in value.split(separator)]
    elif separator is not None:
        value = [value]
    found = [text for text in texts(value or []) if text is not None and text not in missing]
    found = found[-length:] if part.is_history else found[:length]
    keys, padding = [to_key(part, text) for text in found], [part.missing_key] * (length - len(found))
    return [*padding, *keys] if part.is_history else [*keys, *padding]


def to_key(part: RawIds, text: str | None) -> str | int:
    if text is None:
        return part.missing_key
    if part.dtype == "str":
        return text
    return (
        int(text)
        if text.lstrip("-").isdecimal() and abs(int(text)) < 2**63 and str(int(text)) == text
        else part.new_key
    )


def texts(values: Sequence[Any]) -> list[str | None]:
    column = pl.Series([json_text(value) for value in values], dtype=pl.String)
    return pl.select(canonical_text(pl.lit(column), pl.String())).to_series().to_list()


def write_echo(folder: Path, inputs: Sequence[Input]) -> SourceModel:
    """Write a `model.onnx` that answers with its inputs, ids as float32."""
    types = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    nodes = [helper.make_node("Cast", [i.name], [f"of {i.name}"], to=TensorProto.FLOAT) for i in inputs]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info(i.name, types[i.dtype], list(i.shape)) for i in inputs],
        [helper.make_tensor_value_info(f"of {i.name}", TensorProto.FLOAT, list(i.shape)) for i in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "model.onnx")
    outputs = tuple(Output(f"of {i.name}", "float32", i.shape) for i in inputs)
    session = make_session(folder / "model.onnx", 1)
    rows = {i.name: np.zeros((4, *i.shape[1:]), i.dtype) for i in inputs}  # type: ignore[arg-type]
    file = OnnxFile(folder / "model.onnx", 17, None, Signature(tuple(inputs), outputs))
    return SourceModel(file, lambda request: run(session, request), rows, Tolerances(0.0, 1e-7))


def list_inputs(encoder: Encoder | SequenceEncoder) -> list[Input]:
    """Return the inputs of a model of this encoder."""
    inputs = []
    for taken in encoder.inputs:
        width = len(taken.columns) if taken.kind == "numbers" else taken.max_length
        ids = () if taken.kind == "numbers" else ((0, 99),)
        inputs.append(Input(taken.name, taken.dtype, (BATCH,) if width is None else (BATCH, width), ids))
    return inputs
