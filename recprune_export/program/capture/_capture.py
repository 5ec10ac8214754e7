"""Conversion of an `nn.Module` or an `ExportedProgram` to a `Program`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from recprune_export.program.capture.find_jagged import JaggedExample, find_jagged
from recprune_export.program.capture.flatten_interface import (
    drop_constant_inputs,
    drop_constant_outputs,
    input_names,
    list_leaf_paths,
    make_signature,
    name_leaves,
    output_names,
)
from recprune_export.program.capture.jagged_layout import JaggedModule
from recprune_export.program.capture.passes.constants_to_parameters import (
    constants_to_parameters,
    unfreeze_if_all_frozen,
)
from recprune_export.program.capture.passes.decompositions import decompose
from recprune_export.program.capture.passes.fold_max_norm import fold_max_norm
from recprune_export.program.capture.passes.fold_parameters import fold_parameters
from recprune_export.program.capture.passes.fuse_layer_norm import fuse_layer_norms
from recprune_export.program.capture.passes.jagged_operators import replace_jagged_operators
from recprune_export.program.capture.passes.replace_constant_masks import replace_constant_masks
from recprune_export.program.capture.passes.replace_embedding_bags import replace_embedding_bags
from recprune_export.program.capture.passes.split_of_cat import replace_split_of_cat
from recprune_export.program.capture.request_tree import FlatModule, RequestTree, register_dataclasses
from recprune_export.program.capture.source_lines import find_line_of_node, find_user_line
from recprune_export.program.program import Program
from recprune_export.program.propagation import Operand, find_graph_operands, recapture

_READS = frozenset({torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default})
GRAPH_PASSES = (
    replace_jagged_operators,
    decompose,
    fuse_layer_norms,
    fold_parameters,
    replace_constant_masks,
    replace_embedding_bags,
)


def capture(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Program:
    """Capture the computation of `module` on the example request `args`, `kwargs`.

    The batch is axis 0 of the example's tensors, of any size; it becomes symbolic. Requests may be nested
    tuples, lists and dicts of tensors, dataclasses, and classes that PyTorch's pytree knows: the program takes the tensors
    flat, each under the name that it has in the module. Rows may have different numbers of elements, as in a
    KeyedJaggedTensor, or beside a tensor of offsets: see `jagged_inputs.py`.

    Raises `CaptureError` with the line of the model's source at which `torch.export` failed.
    """
    training = module.training
    module.eval()
    try:
        request = (args, order_kwargs(module, kwargs or {}))
        register_dataclasses(request)
        check_example(module, *request)
        tree = RequestTree.of(module, *request)
        jagged = find_jagged(module, tree)
        if jagged is not None:
            return _capture_jagged(module, jagged)
        if tree.has_classes:
            return _capture_flat(module, tree)
        example = with_unambiguous_batch_size(module, request)
        program = program_from_exported(export_module(module, *example), module)
        with disable_attention_fastpath():
            _check_answers(module, program, example)
    finally:
        module.train(training)
    return program


def _capture_flat(module: nn.Module, tree: RequestTree) -> Program:
    """Capture a module whose request holds classes: each tensor is an input, under its own name."""
    flat = FlatModule(module, tree)
    args, kwargs = with_unambiguous_batch_size(flat, (tuple(tree.leaves[leaf] for leaf in tree.tensors), {}))
    names = name_leaves([tree.paths[leaf] for leaf in tree.tensors])
    program = program_from_exported(export_module(flat, args, kwargs), names=names)
    with disable_attention_fastpath():
        _check_answers(flat, program, (args, kwargs))
    return program


def _capture_jagged(module: nn.Module, example: JaggedExample) -> Program:
    """Capture a module of which rows of the request have different numbers of elements."""
    layout = example.layout
    flat = JaggedModule(module, layout)
    widths = {size for tensor in module.state_dict().values() if isinstance(tensor, Tensor) for size in tensor.shape}
    widths |= {size for leaf in layout.tree.tensors for size in layout.tree.leaves[leaf].shape[1:]}
    tensors = layout.tensors(example.unambiguous(widths))
    shapes = [i.shape for i in layout.program_inputs()]
    exported = export_module(flat, tensors, {}, shapes)
    program = program_from_exported(exported, jagged=example)
    with disable_attention_fastpath(), torch.no_grad():
        for seed in range(4):
            tensors = layout.tensors(example.draw(seed + 2, seed))
            if not outputs_match(program.module(*tensors), compute_outputs(flat, tensors, {})):
                raise CaptureError("The captured program does not answer rows of other lengths as the model does.")
    return program


def program_from_exported(
    exported: torch.export.ExportedProgram,
    module: nn.Module | None = None,
    *,
    names: Sequence[str] | None = None,
    jagged: JaggedExample | None = None,
) -> Program:
    """Convert an `ExportedProgram` to a `Program`; `module`, if known, provides the names of positional inputs.

    `names` are those of the inputs, if known. `jagged` is the example of a module that takes the elements and the lengths of
    each input; a program whose request holds such inputs in another form is captured again.
    """
    if jagged is None and names is None and _has_inner_structure(exported):
        return _capture_again(exported)
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
    layout = None if jagged is None else jagged.layout
    if jagged is not None and layout is not None:
        replace_split_of_cat(graph_module, [layout.tensors(jagged.draw(rows, rows)) for rows in (3, 4, 6)])
    rewritten = [repair(graph_module) for repair in GRAPH_PASSES]
    if layout is not None:
        specs = layout.program_inputs()
        operands = [(i.shape, getattr(torch, i.dtype)) for i in specs]
        graph_module = recapture_jagged(graph_module, operands)
        names = [i.name for i in specs]
    elif any(rewritten):
        graph_module = recapture(graph_module, graph_module.graph, find_graph_operands(graph_module.graph))
    constants_to_parameters(graph_module)
    unfreeze_if_all_frozen(graph_module)
    names = list(names or input_names(graph_module, inputs, module))
    answers = [f"{name}_output" if name in names else name for name in output_names(outputs)]
    example = _example_of(exported, graph_module)
    shapes = None if layout is None else [i.shape for i in layout.program_inputs()]
    signature = make_signature(graph_module, names, answers, example, shapes)
    if layout is not None:
        signature = replace(signature, inputs=layout.with_ids(signature.inputs))
    return Program(graph_module, signature)


def recapture_jagged(module: fx.GraphModule, operands: Sequence[Operand]) -> fx.GraphModule:
    """Recapture a graph of jagged inputs. Raises `CaptureError` where it does not run for rows of all lengths."""
    reading = next((node for node in module.graph.nodes if node.target in _READS), None)
    if reading is not None:
        line = find_line_of_node(reading)
        raise CaptureError(
            f"The model reads a number from the request{f' at {line}' if line else ''}, such as a length by .item() or .tolist(), and "
            "makes a tensor of that size: compute with all elements instead, or mask them."
        )
    try:
        return recapture(module, module.graph, operands)
    except Exception as error:  # of many classes
        message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        where = f" at {line}" if (line := find_user_line(error)) else ""
        raise CaptureError(
            f"The model computes a number of elements from the values of the request{where}, which no graph can hold: {message}"
        ) from error


def _has_inner_structure(exported: torch.export.ExportedProgram) -> bool:
    """Return whether the request of a program holds classes, or more sizes vary than the batch."""
    spec = exported.call_spec.in_spec
    if spec is None or exported.example_inputs is None:
        return False
    users = set(exported.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder" and node.name in users]
    sizes = {str(n) for value in values if isinstance(value, Tensor) for n in value.shape if not isinstance(n, int)}
    return len(sizes) > 1 or RequestTree(spec, (), ()).has_classes


def _capture_again(exported: torch.export.ExportedProgram) -> Program:
    """Capture the module of a program with its tensors as inputs.

    Raises `CaptureError` where sizes vary of which neither lengths nor offsets tell.
    """
    with silence_export():
        module = exported.module(check_guards=False)
    assert exported.example_inputs is not None
    args, kwargs = exported.example_inputs
    tree = RequestTree.of(module, args, kwargs)
    with silence_export():
        jagged = find_jagged(module, tree)
    if jagged is not None:
        return _capture_jagged(module, jagged)
    return _capture_flat(module, tree)


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
