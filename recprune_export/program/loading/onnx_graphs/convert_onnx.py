"""An ONNX file as a program: its graph is captured as a module, and compared with the file in ONNX Runtime."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recprune_export.column_names import list_names
from recprune_export.errors import CaptureError, ExportError, ModelFileError
from recprune_export.onnx.runtime.session import describe_runtime_error, make_session, run_silently
from recprune_export.program.capture._capture import capture
from recprune_export.program.capture.export_module import silence_export
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.loading._check_finite import check_finite
from recprune_export.program.loading.onnx_graphs.file_request import (
    describe_fixed_sizes,
    find_fixed_rows,
    find_shared_inputs,
    make_example,
    read_example,
)
from recprune_export.program.loading.onnx_graphs.graph_module import OnnxModule
from recprune_export.program.loading.onnx_graphs.onnx_graph import OnnxGraph, read_onnx_graph
from recprune_export.program.loading.saved_graphs.free_batch import convert_exported
from recprune_export.program.program import Program, sample_request_rows
from recprune_export.program.requests.example import half_outputs_match, largest_difference, outputs_match
from recprune_export.program.requests.jagged_inputs import has_jagged_inputs, to_file_arrays
from recprune_export.program.signature import Signature

if TYPE_CHECKING:
    import onnxruntime

_COMPARED_ROWS = (1, 2, 7, 64)
_PLACE = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class ConvertedFile:
    """The program of a file; `same_interface` says that the file takes and gives the tensors of the program, for any batch."""

    program: Program
    same_interface: bool


@explain_failures("The work on the ONNX file", CaptureError, REPORT)
def convert_onnx(path: Path, inputs: Path | None = None) -> ConvertedFile:
    """Convert an ONNX file to a program, whose answers are those of the file in ONNX Runtime; `inputs` is an example request.

    Raises `ModelFileError` for a file that is damaged or refused, `CaptureError` for one that the importer does not take, or whose
    program answers differently, and `DataError` for `inputs` that do not fit.
    """
    graph = read_onnx_graph(path)
    module = OnnxModule(graph).eval()
    check_finite(module, path)
    session = _open(path)
    example = read_example(path, graph, inputs) if inputs else make_example(path, module.graph)
    try:
        program = _name_interface(_capture(module, example), graph)
    except CaptureError as error:
        symbols = {str(spec.shape[0]) for spec in graph.inputs if spec.shape}
        if inputs is None and len(symbols) > 1:
            raise CaptureError(
                f"{path.name} states different numbers of rows for its inputs ({list_names(sorted(symbols))}), and one number for all "
                f"is not answered ({str(error).rstrip('.')}): give an example request with --inputs sample.npz."
            ) from error
        raise
    failed = _compare(path, session, graph, program)
    difference = _describe_difference(graph, program.signature, failed)
    notes = [*describe_fixed_sizes(graph, example)]
    if difference:
        notes.insert(
            0,
            f"{path.name} {difference}. The dense model of a job, dense.onnx, is therefore the same graph written anew, not {path.name} "
            "itself.",
        )
    return ConvertedFile(program.with_notes(notes), not difference)


def _open(path: Path) -> "onnxruntime.InferenceSession":
    try:
        return make_session(path, torch.get_num_threads())
    except ExportError as error:
        raise ModelFileError(f"{str(error).rstrip('.')}: export the model again.") from error


def _capture(module: OnnxModule, example: tuple[Tensor, ...]) -> Program:
    """Capture the graph; where the file takes one number of rows, with its batch freed."""
    if find_fixed_rows(module.graph.inputs) is None:
        return capture(module, example)
    with silence_export(), torch.no_grad():
        exported = torch.export.export(module, example, strict=False)
    return convert_exported(exported)


def _name_interface(program: Program, graph: OnnxGraph) -> Program:
    """Name inputs and outputs as in the file; the capture has numbered them."""
    names = {i.name: graph.inputs[_find_place(i.name)].name for i in program.signature.inputs}
    inputs = []
    for spec in program.signature.inputs:
        jagged = spec.jagged
        if jagged is not None:
            values, rows = (graph.inputs[_find_place(name)].name for name in (jagged.values, jagged.rows))
            jagged = replace(jagged, present=names[jagged.present], values=values, rows=rows)
        inputs.append(replace(spec, name=names[spec.name], jagged=jagged))
    outputs = [replace(o, name=graph.outputs[_find_place(o.name)]) for o in program.signature.outputs]
    return program.with_signature(Signature(tuple(inputs), tuple(outputs)))


def _describe_difference(graph: OnnxGraph, signature: Signature, failed: str) -> str:
    """Say how a file is used otherwise than its program, which takes and gives float32 tensors of any number of rows; empty if it is not.

    `failed` says why ONNX Runtime does not answer one row from it.
    """
    if rows := find_fixed_rows(graph.inputs):
        return f"takes {rows} rows at a time; the new file takes any number"
    if shared := find_shared_inputs(graph.inputs):
        return (
            f"takes one row of {list_names(shared)} for all rows of the other inputs; the new file takes a row for each, or with "
            f"--shared-inputs {','.join(shared)} one for all"
        )
    if failed:
        return f"gives no answer to 1 row in ONNX Runtime ({failed.rstrip('.')}); the new file does"
    if has_jagged_inputs(signature):
        return "takes the elements of all rows as one vector, of which a job makes and reads rows"
    if _is_half(graph):
        return "computes in float16; the new file computes in float32"
    unread = [spec.name for spec in graph.inputs if spec.name not in {i.name for i in signature.inputs}]
    if unread:
        return f"has inputs that it does not read ({list_names(unread)}); the new file takes them no longer"
    if [(spec.name, str(spec.dtype)) for spec in graph.inputs] != [
        (spec.name, spec.dtype) for spec in signature.inputs
    ]:
        return "takes other types of numbers than the new file"
    return ""


def _is_half(graph: OnnxGraph) -> bool:
    """Return whether a file computes in half precision."""
    return any(array.dtype == np.float16 for array in graph.initializers.values())


def _find_place(name: str) -> int:
    found = _PLACE.search(name)
    return 0 if found is None else int(found[1])


def _compare(path: Path, session: "onnxruntime.InferenceSession", graph: OnnxGraph, program: Program) -> str:
    """Raise `CaptureError` where the program answers drawn requests in another way than the file in ONNX Runtime.

    Returns why ONNX Runtime fails on a single row, as a file does whose exporter removed an axis of one; empty where it does not.
    """
    failed = ""
    rows = find_fixed_rows(graph.inputs)
    half, shared = _is_half(graph), find_shared_inputs(graph.inputs)
    names = [output.name for output in program.signature.outputs]
    for number, count in enumerate(_COMPARED_ROWS if rows is None else [rows] * len(_COMPARED_ROWS)):
        request = sample_request_rows(program.signature, count, seed=number)
        request |= {name: request[name][:1].repeat_interleave(count, 0) for name in shared if name in request}
        with torch.no_grad():
            actual = list(program(request).values())
        try:
            expected = _run(session, graph, program.signature, {name: x.numpy() for name, x in request.items()})
        except Exception as error:  # onnxruntime's classes have no common base
            reason = describe_runtime_error(error)[:300]
            if count == 1 and rows is None:
                failed = reason
                continue
            raise CaptureError(
                f"ONNX Runtime does not answer {count} rows from {path} ({reason}): export the model again, with the batch free."
            ) from error
        if count == 1 and rows is None and [x.shape for x in actual] != [x.shape for x in expected]:
            failed = "its answer has no axis for the row"
            continue
        matches = half_outputs_match(actual, expected, expected) if half else outputs_match(actual, expected)
        if not matches:
            worst = max(
                zip(names, map(largest_difference, actual, expected, expected), strict=True), key=lambda pair: pair[1]
            )
            raise CaptureError(
                f"The program that is made of {path} does not answer {count} rows as ONNX Runtime answers from the file: '{worst[0]}' "
                f"differs by {worst[1]:.1e} of its size; give the PyTorch model that the file was made from."
            )
    return failed


def _run(
    session: "onnxruntime.InferenceSession",
    graph: OnnxGraph,
    signature: Signature,
    request: Mapping[str, np.ndarray],
) -> list[Tensor]:
    """Return the answers of the file to a request of the program; an input that the program does not read is zero."""
    count = len(next(iter(request.values())))
    unread = {spec.name: np.zeros([n if isinstance(n, int) else count for n in spec.shape]) for spec in graph.inputs}
    arrays = {**unread, **to_file_arrays(signature, request)}
    arrays |= {name: arrays[name][:1] for name in find_shared_inputs(graph.inputs)}
    names = [output.name for output in signature.outputs]
    answers = run_silently(session, names, {i.name: arrays[i.name].astype(i.dtype) for i in graph.inputs})
    return [torch.from_numpy(np.asarray(answer)) for answer in answers]
