"""Conversion of an `nn.Module` or an `ExportedProgram` to a `Program`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from recprune_export.errors import CaptureError
from recprune_export.program.canonical import canonicalize, has_unsafe_mutation
from recprune_export.program.capture.example import (
    check_example,
    compute_outputs,
    find_batch_size,
    order_kwargs,
    outputs_match,
    take_rows,
    with_unambiguous_batch_size,
)
from recprune_export.program.capture.export_module import (
    disable_attention_fastpath,
    export_module,
    silence_export,
    skip_slow_bookkeeping,
)
from recprune_export.program.capture.flatten_interface import (
    drop_constant_inputs,
    drop_constant_outputs,
    input_names,
    list_leaf_paths,
    make_signature,
    output_names,
)
from recprune_export.program.capture.passes.constants_to_parameters import (
    constants_to_parameters,
    unfreeze_if_all_frozen,
)
from recprune_export.program.capture.passes.decompositions import decompose
from recprune_export.program.capture.passes.fold_max_norm import fold_max_norm
from recprune_export.program.capture.passes.fold_parameters import fold_parameters
from recprune_export.program.capture.passes.fuse_layer_norm import fuse_layer_norms
from recprune_export.program.capture.passes.replace_constant_masks import replace_constant_masks
from recprune_export.program.capture.passes.replace_embedding_bags import replace_embedding_bags
from recprune_export.program.capture.unsupported_modules import check_supported
from recprune_export.program.capture.unwrap_module import unwrap_module
from recprune_export.program.program import Program
from recprune_export.program.propagation import find_graph_operands, recapture

GRAPH_PASSES = (decompose, fuse_layer_norms, fold_parameters, replace_constant_masks, replace_embedding_bags)


def capture(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Program:
    """Capture the computation of `module` on the example request `args`, `kwargs`.

    The batch is axis 0 of the example's tensors, of any size; it becomes symbolic. Requests may be nested
    tuples, lists and dicts of tensors: the program takes the tensors flat, each under the name that it has in the
    module.

    Raises `CaptureError` with the line of the model's source at which `torch.export` failed.
    """
    module = unwrap_module(module)
    check_supported(module)
    training = module.training
    module.eval()
    try:
        check_example(module, args, kwargs or {})
        example = with_unambiguous_batch_size(module, (args, order_kwargs(module, kwargs or {})))
        program = program_from_exported(export_module(module, *example), module)
        with disable_attention_fastpath():
            _check_answers(module, program, example)
    finally:
        module.train(training)
    return program


def program_from_exported(exported: torch.export.ExportedProgram, module: nn.Module | None = None) -> Program:
    """Convert an `ExportedProgram` to a `Program`; `module`, if known, provides the names of positional inputs."""
    graph_module = _to_graph(exported)
    fold_max_norm(graph_module)
    if has_unsafe_mutation(graph_module):
        with silence_export():
            exported = exported.run_decompositions({})
        graph_module = _to_graph(exported)
        fold_max_norm(graph_module)
    if exported.call_spec.in_spec is None or exported.call_spec.out_spec is None:
        raise CaptureError(
            "The program does not describe the structure of its inputs; export it again with torch.export."
        )
    inputs = drop_constant_inputs(graph_module, list_leaf_paths(exported.call_spec.in_spec))
    outputs = drop_constant_outputs(graph_module, list_leaf_paths(exported.call_spec.out_spec))
    constants_to_parameters(graph_module)  # before views of a constant are folded into copies of it
    graph_module = canonicalize(graph_module)
    rewritten = [repair(graph_module) for repair in GRAPH_PASSES]
    if any(rewritten):
        graph_module = recapture(graph_module, graph_module.graph, find_graph_operands(graph_module.graph))
    constants_to_parameters(graph_module)
    unfreeze_if_all_frozen(graph_module)
    names = input_names(graph_module, inputs, module)
    answers = [f"{name}_output" if name in names else name for name in output_names(outputs)]
    example = _example_of(exported, graph_module)
    return Program(graph_module, make_signature(graph_module, names, answers, example))


def _to_graph(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    with skip_slow_bookkeeping():
        graph_module = exported.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return graph_module


def _example_of(exported: torch.export.ExportedProgram, module: fx.GraphModule) -> tuple[Tensor, ...]:
    """Return the request of the capture, or ones where it was not saved: 1 is a valid id and a valid length."""
    if exported.example_inputs is not None:
        return tuple(x for x in pytree.tree_leaves(exported.example_inputs) if isinstance(x, Tensor))
    placeholders = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(torch.ones([s if isinstance(s, int) else 2 for s in v.shape], dtype=v.dtype) for v in placeholders)


def _check_answers(module: nn.Module, program: Program, example: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Compare the captured program with the model, on the whole example and on single rows."""
    max_rows = 3
    batch = find_batch_size(example)
    expected = compute_outputs(module, *example)
    if not outputs_match(compute_outputs(module, *example), expected):
        raise CaptureError("The model answers the same request differently each time; switch its sampling off.")
    if not outputs_match(_answer_captured(program, example), expected):
        raise CaptureError("The captured program does not answer the example request as the model does.")
    for row in range(min(batch, max_rows)):
        alone = take_rows(example, torch.tensor([row, row]))
        try:
            expected = compute_outputs(module, *alone)
        except Exception:  # any error of the user's code: its rows depend on each other
            return
        if not outputs_match(_answer_captured(program, alone), expected):
            raise CaptureError(
                "The captured program does not answer as the model does when a row is alone: its answer must not depend "
                "on the longest row beside it (packed sequences), nor on how many there are."
            )


def _answer_captured(program: Program, example: Any) -> Sequence[Tensor]:
    with torch.no_grad():
        answers: Sequence[Tensor] = program.module(*(x for x in pytree.tree_leaves(example) if isinstance(x, Tensor)))
    return answers
