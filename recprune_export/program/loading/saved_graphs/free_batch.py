"""Programs with a fixed batch size are captured again with a variable one.

The sizes in the graph are freed first (`list_freed`). The result is compared with the fixed program on several requests, so that a number
that equals the batch size only by chance is never mistaken for it unnoticed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from recprune_export.errors import CaptureError, RecpruneError
from recprune_export.program.capture._capture import capture, program_from_exported
from recprune_export.program.capture.export_module import silence_export
from recprune_export.program.loading.saved_graphs.free_sizes import list_freed
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.program.requests.example import compute_outputs, outputs_match
from recprune_export.program.requests.jagged_inputs import has_jagged_inputs
from recprune_export.program.signature import BATCH

_CHUNKS = 3  # requests of the fixed size that are compared with one request of all their rows


def convert_exported(exported: torch.export.ExportedProgram) -> Program:
    """Convert an `ExportedProgram`, whose batch size may be fixed, with a note.

    Raises `CaptureError` if the graph accepts only one batch size.
    """
    user_inputs = set(exported.graph_signature.user_inputs)
    values = [n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder" and n.name in user_inputs]
    sizes = [value.shape for value in values if isinstance(value, Tensor) and value.ndim]
    if not sizes or not all(isinstance(size, int) for shape in sizes for size in shape):
        return program_from_exported(exported)
    heads = [shape[0] for shape in sizes]
    rows = max(heads, key=heads.count)
    example = exported.example_inputs or _make_example(exported, values)
    fixed = make_graph_module(exported)
    errors = []
    for module in list_freed(fixed, example, rows):
        try:
            program = capture(module, *example)
            size = f"{rows} rows"
            if has_jagged_inputs(program.signature):  # `capture` has compared other numbers of rows and elements
                size = "one number of rows and elements"
            else:
                _compare(program, fixed, example, rows)
        except RecpruneError as error:
            errors.append(error)
            continue
        note = f"The program was exported for {size}; the batch was made dynamic, so any number of rows is accepted."
        return program.with_notes((note,))
    raise CaptureError(
        f"The program accepts requests of {rows} rows only, and this number cannot be made dynamic in "
        f"its graph ({str(errors[0]).rstrip('.')}): export it with dynamic_shapes that make the batch, axis 0 of every input, dynamic."
    ) from errors[0]


def make_graph_module(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return the graph of a program as a module that can be captured: with the names of its inputs, without guards."""
    with silence_export():
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return fx.GraphModule(module, module.graph)


def _make_example(
    exported: torch.export.ExportedProgram, values: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a request of ones, which are valid ids and lengths, where the program has none."""
    if exported.call_spec.in_spec is None:
        raise CaptureError(
            "The program does not describe the structure of its inputs; export it again with torch.export."
        )
    leaves = [torch.ones(v.shape, dtype=v.dtype) if isinstance(v, Tensor) else v for v in values]
    args, kwargs = pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    return args, kwargs


def _compare(program: Program, fixed: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]], rows: int) -> None:
    """Raise `CaptureError` if the answers to a request of several times `rows` rows differ from those to its parts."""
    signature = program.signature
    request = sample_request_tensors(signature, _CHUNKS * rows)
    with torch.no_grad():
        together = program.module(*request)
    parts = [
        compute_outputs(
            fixed,
            *_replace_tensors(
                example,
                [
                    tensor[start : start + rows] if spec.shape[:1] == (BATCH,) else tensor
                    for spec, tensor in zip(signature.inputs, request, strict=True)
                ],
            ),
        )
        for start in range(0, _CHUNKS * rows, rows)
    ]
    separate = [
        torch.cat(answers) if output.shape and isinstance(output.shape[0], str) else answers[0]
        for output, answers in zip(signature.outputs, zip(*parts, strict=True), strict=True)
    ]
    if not outputs_match(together, separate):
        raise CaptureError("the outputs of its rows change in a larger request")


def _replace_tensors(example: Any, tensors: Sequence[Tensor]) -> Any:
    remaining = iter(tensors)
    return pytree.tree_map(lambda leaf: next(remaining) if isinstance(leaf, Tensor) else leaf, example)
