"""Write `model.raw.onnx`, which accepts raw values, and define its expected outputs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from recprune_export.derived.derived_model import DerivedModel, SourceModel, take_first_rows
from recprune_export.derived.raw_inputs.build_graph import add_raw_inputs
from recprune_export.derived.raw_inputs.raw_input import (
    INTEGER,
    MISSING_INTEGER,
    TEXT,
    RawIds,
    RawInput,
    RawNumbers,
    decode_request,
    encode_request,
)
from recprune_export.onnx.export import OnnxFile
from recprune_export.program.signature import Input, Signature
from recprune_export.validation.edge_requests import RequestArrays, squeeze_shared_inputs
from recprune_export.validation.parity import NamedOutputs

RAW_MODEL = "model.raw.onnx"
_ODD_ROWS = 8


def derive_raw_inputs(
    source: SourceModel, folder: Path, *, make_plan: Callable[[Signature], tuple[RawInput, ...]]
) -> DerivedModel:
    """Write the file into `folder`; external weights of `model.onnx` are shared with it.

    Raises `ExportError` if the file cannot be made.
    """
    plan = make_plan(source.file.signature)
    signature = _make_signature(plan, source.file.signature)
    model = onnx.load(source.file.path, load_external_data=False)
    add_raw_inputs(model, plan)
    path = folder / RAW_MODEL
    path.write_bytes(model.SerializeToString())

    def to_source(request: RequestArrays) -> RequestArrays:
        return encode_request(plan, request)

    def expected(request: RequestArrays) -> NamedOutputs:
        return source.answer(to_source(request))

    rows = decode_request(plan, source.rows)
    odd = squeeze_shared_inputs(_make_odd_rows(plan, rows), signature)
    return DerivedModel(
        OnnxFile(path, source.file.opset, None, signature),
        describe_purpose(plan),
        expected,
        rows,
        to_source,
        source.tolerances,
        {"odd values": odd, "one row": squeeze_shared_inputs(take_first_rows(rows, 1), signature)},
    )


def describe_purpose(plan: tuple[RawInput, ...]) -> str:
    """Describe the form of the inputs, as the end of a sentence that begins with the name of the file."""
    kinds = {part.dtype for part in plan if isinstance(part, RawIds)}
    parts = []
    if TEXT in kinds:
        parts.append('strings in their canonical form (docs/encoding.md of recprune-export), "" where one is missing')
    if INTEGER in kinds:
        parts.append(f"integers, {MISSING_INTEGER} for a missing value")
    if any(isinstance(part, RawNumbers) for part in plan):
        parts.append("numbers as float64, NaN for a missing value")
    ids = [part for part in plan if isinstance(part, RawIds)]
    if any(part.is_history for part in ids):
        parts.append("histories with the oldest item first and missing values before it")
    if any(part.refuses_unknown for part in ids):
        parts.append("a request with an unknown value fails")
    if any(len(part.shape) > 1 and not part.is_history for part in ids):
        parts.append("lists with their missing values moved to the end")
    return f"accepts raw values and encodes them: {'; '.join(parts)}"


def _make_signature(plan: tuple[RawInput, ...], source: Signature) -> Signature:
    planned = {part.name for part in plan}
    inputs: tuple[Input, ...] = tuple(spec for part in plan for spec in part.inputs)
    return replace(source, inputs=(*inputs, *(spec for spec in source.inputs if spec.name not in planned)))


def _make_odd_rows(plan: tuple[RawInput, ...], rows: RequestArrays) -> RequestArrays:
    """Return rows with unknown and missing values, the first and the last key, and numbers that are NaN, infinite or huge."""
    request = {name: np.resize(values, (_ODD_ROWS, *values.shape[1:])) for name, values in rows.items()}
    for part in plan:
        if isinstance(part, RawNumbers):
            odd: list[str | int] | list[float] = [np.nan, np.inf, -np.inf, 1e300, 0.0]
        else:
            odd = [*part.odd_keys, *part.keys[:1], *part.keys[-1:]]
        for spec in part.inputs:
            values = request[spec.name].astype(object)
            for row, value in enumerate(odd):
                values[row] = value
            if values.ndim > 1:  # in addition to usual ones
                values[len(odd) :, 0] = odd[0]
            request[spec.name] = values.astype(np.str_ if spec.dtype == TEXT else spec.dtype)
    return request
