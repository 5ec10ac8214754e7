"""Conversion of an `nn.Module` or an `ExportedProgram` to a `Program`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from recprune_export.column_names import list_names
from recprune_export.error_text import describe_place, first_line
from recprune_export.errors import CaptureError
from recprune_export.program.canonical import canonicalize, has_unsafe_mutation, inline_subgraphs
from recprune_export.program.capture.answers import find_cached_leaves, return_plain_answers
from recprune_export.program.capture.export_module import (
    disable_attention_fastpath,
    export_module,
    run_uncompiled,
    silence_export,
    skip_slow_bookkeeping,
)
from recprune_export.program.capture.flatten_interface import (
    drop_cached_outputs,
    drop_constant_inputs,
    drop_constant_outputs,
    input_names,
    list_leaf_paths,
    make_signature,
    name_leaves,
    output_names,
    with_observed,
)
from recprune_export.program.capture.passes.constants_to_parameters import (
    constants_to_parameters,
    unfreeze_if_all_frozen,
)
from recprune_export.program.capture.passes.decompositions import decompose
from recprune_export.program.capture.passes.fold_max_norm import fold_max_norm
from recprune_export.program.capture.passes.fold_parameters import fold_parameters
from recprune_export.program.capture.passes.fuse_layer_norm import fuse_layer_norms
from recprune_export.program.capture.passes.jagged_operators import replace_jagged_operators
from recprune_export.program.capture.passes.read_sizes import READS, replace_read_sizes
from recprune_export.program.capture.passes.replace_constant_masks import replace_constant_masks
from recprune_export.program.capture.passes.replace_embedding_bags import replace_embedding_bags
from recprune_export.program.capture.passes.row_repeats import REPEATS
from recprune_export.program.capture.passes.split_of_cat import replace_split_of_cat
from recprune_export.program.capture.passes.to_float32 import HALF, describe_half_precision, to_float32
from recprune_export.program.capture.raising_branches import PassRaisingBranches, find_raising_branches
from recprune_export.program.capture.side_effects import (
    drop_unread_writes,
    fold_writes,
    inference_mode,
    refuse_batch_statistics,
    refuse_random_answers,
)
from recprune_export.program.capture.source_lines import find_user_line, keep_lines
from recprune_export.program.capture.unsupported_modules import check_supported
from recprune_export.program.capture.unwrap_module import unwrap_module
from recprune_export.program.capture.value_sizes import refuse_read_values, refuse_sizes_by_values
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.nodes import argument, find_source_line, operator_name
from recprune_export.program.output_selection import describe_unread_inputs, describe_unserved, keep_outputs
from recprune_export.program.program import Program
from recprune_export.program.propagation import Operand, find_graph_operands, recapture
from recprune_export.program.requests.example import (
    check_example,
    compute_outputs,
    find_batch_size,
    half_outputs_match,
    largest_difference,
    order_kwargs,
    outputs_match,
    take_rows,
    with_unambiguous_batch_size,
)
from recprune_export.program.requests.example_precision import match_precision
from recprune_export.program.requests.find_jagged import JaggedExample, find_jagged
from recprune_export.program.requests.jagged_layout import JaggedModule
from recprune_export.program.requests.request_tree import (
    FlatModule,
    RequestTree,
    register_dataclasses,
    takes_any_keyword,
)

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
    tuples, lists and dicts of tensors, dataclasses, and classes that PyTorch's pytree knows: the program takes the tensors flat, each
    under its name in the module. Rows may have different numbers of elements, as in a KeyedJaggedTensor, or with a tensor of offsets: see
    `jagged_inputs.py`.

    Raises `CaptureError` with the line of the model's source at which `torch.export` failed.
    """
    module = unwrap_module(module)
    check_supported(module)
    training = module.training
    module.eval()
    try:
        register_dataclasses((args, kwargs))
        with run_uncompiled():
            prepared = match_precision(module, args, order_kwargs(module, kwargs or {}))
            request = (prepared.args, prepared.kwargs)
            check_example(prepared.module, *request)
            with return_plain_answers(prepared.module, *request) as left_out:
                program = _capture_past_refusals(prepared.module, *request)
    finally:
        module.train(training)
    notes = (
        f"The output '{name}' is of the class {kind}, which an ONNX file cannot return: it is left out."
        for name, kind in left_out.items()
    )
    return program.with_notes((*prepared.notes, *notes))


def _capture_past_refusals(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """Capture a module; branches on values that only refuse requests are left out."""
    try:
        return _capture_request(module, args, kwargs)
    except CaptureError:
        branches = find_raising_branches(module, args, kwargs)
        if not branches:
            raise
    with PassRaisingBranches(branches):
        program = _capture_request(module, args, kwargs)
    return program.with_notes([branch.describe() for branch in branches])


def _capture_request(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    tree = RequestTree.of(module, args, kwargs)
    jagged = find_jagged(module, tree)
    if jagged is not None:
        return _capture_jagged(module, jagged)
    # torch.export takes no dynamic shapes of `**name`.
    flat = tree.has_classes or takes_any_keyword(module, kwargs)
    return _capture_flat(module, tree) if flat else _capture_rows(module, args, kwargs)


def _capture_flat(module: nn.Module, tree: RequestTree) -> Program:
    """Capture a module whose request holds classes: each tensor is an input, under its own name."""
    names = name_leaves([tree.paths[leaf] for leaf in tree.tensors])
    return _capture_rows(FlatModule(module, tree), tuple(tree.leaves[leaf] for leaf in tree.tensors), {}, names)


def _capture_rows(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str] | None = None
) -> Program:
    """Capture a module if each tensor of its request has the batch on axis 0; `names` are those of its inputs."""
    example = with_unambiguous_batch_size(module, (args, kwargs))
    exported = export_module(module, *example)
    with explain_failures("The transformation of the captured graph", CaptureError, REPORT):
        captured = _convert(exported, module, names=names)
    with disable_attention_fastpath():
        difference = _check_answers(module, captured, example)
    half = () if captured.half is None else (_describe_float32(captured.half, difference),)
    program = captured.program.with_notes(half)
    return program.with_signature(with_observed(program.signature, captured.read((args, kwargs))))


def _capture_jagged(module: nn.Module, example: JaggedExample) -> Program:
    """Capture a module if rows of its request have different numbers of elements."""
    layout = example.layout
    flat = JaggedModule(module, layout)
    widths = {size for tensor in module.state_dict().values() if isinstance(tensor, Tensor) for size in tensor.shape}
    widths |= {size for leaf in layout.tree.tensors for size in layout.tree.leaves[leaf].shape[1:]}
    tensors = layout.tensors(example.unambiguous(widths))
    shapes = [i.shape for i in layout.program_inputs()]
    exported = export_module(flat, tensors, {}, shapes)
    with explain_failures("The transformation of the captured graph", CaptureError, REPORT):
        captured = _convert(exported, flat, jagged=example)
    with disable_attention_fastpath(), torch.no_grad():
        for seed in range(4):
            tensors = layout.tensors(example.draw(seed + 2, seed))
            if not outputs_match(captured.answer(tensors), captured.among(compute_outputs(flat, tensors, {}))):
                raise CaptureError("The captured program and the model differ for rows of other lengths.")
    return captured.program


def program_from_exported(exported: torch.export.ExportedProgram, module: nn.Module | None = None) -> Program:
    """Convert an `ExportedProgram` to a `Program`; `module`, if known, provides the names of positional inputs.

    A program whose request holds classes, or rows of different lengths, is captured again. Outputs without a row for each row
    of the request, such as a loss, are left out, as are inputs that only they read, with a note in `Program.notes`.
    """
    if module is None and _has_inner_structure(exported):
        return _capture_again(exported)
    captured = _convert(exported, module)
    half = () if captured.half is None else (_describe_float32(captured.half),)
    return captured.program.with_notes(half)


@dataclass(frozen=True)
class _Captured:
    """A program, and the positions of its inputs and outputs among the tensors of the model's requests and answers.

    `half` describes where the model computes in half precision, but the program in float32; None if it does not.
    """

    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    half: str | None

    def read(self, example: Any) -> list[Tensor]:
        """Return the tensors of a request of the model that the program takes."""
        tensors = [x for x in pytree.tree_leaves(example) if isinstance(x, Tensor)]
        read = [tensors[position] for position in self.inputs]
        return [x.to(torch.float32) if self.half and x.dtype in HALF else x for x in read]

    def answer(self, example: Any) -> Sequence[Tensor]:
        with torch.no_grad():
            answers: Sequence[Tensor] = self.program.module(*self.read(example))
        return answers

    def among(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """Return those of the model's outputs that the program returns."""
        return [answers[position] for position in self.outputs]

    def matches(self, actual: Sequence[Tensor], expected: Sequence[Tensor], whole: Sequence[Tensor]) -> bool:
        """Return whether the program's outputs equal the model's, up to rounding; `whole` are those for the whole example."""
        return half_outputs_match(actual, expected, whole) if self.half else outputs_match(actual, expected)


def _convert(
    exported: torch.export.ExportedProgram,
    module: nn.Module | None,
    *,
    names: Sequence[str] | None = None,
    jagged: JaggedExample | None = None,
) -> _Captured:
    """Convert an exported program; `names` are those of its inputs, if known.

    `jagged` is the example of a module that takes the elements and the lengths of each input.
    """
    if module is not None:  # in inference mode already, where it has one
        return _convert_in_inference(exported, module, (), names, jagged)
    with inference_mode(exported.graph) as notes:
        return _convert_in_inference(exported, module, notes, names, jagged)


def _convert_in_inference(
    exported: torch.export.ExportedProgram,
    module: nn.Module | None,
    notes: tuple[str, ...],
    given_names: Sequence[str] | None,
    jagged: JaggedExample | None,
) -> _Captured:
    graph_module = _to_graph(exported)
    half = describe_half_precision(graph_module)
    inline_subgraphs(graph_module)
    refuse_batch_statistics(graph_module)
    fold_max_norm(graph_module)
    notes += drop_unread_writes(graph_module)
    if has_unsafe_mutation(graph_module):
        with silence_export():
            exported = exported.run_decompositions({})
        graph_module = _to_graph(exported)
        inline_subgraphs(graph_module)
        fold_max_norm(graph_module)
        notes += fold_writes(graph_module)
    refuse_random_answers(graph_module)
    if jagged is None and replace_read_sizes(graph_module):
        graph_module = recapture(graph_module, graph_module.graph, find_graph_operands(graph_module.graph))
    if jagged is None and not _has_jagged_operators(graph_module):
        refuse_sizes_by_values(graph_module)
        refuse_read_values(graph_module)
    if exported.call_spec.in_spec is None or exported.call_spec.out_spec is None:
        raise CaptureError(
            "The program does not describe the structure of its inputs; export it again with torch.export."
        )
    inputs = drop_constant_inputs(graph_module, list_leaf_paths(exported.call_spec.in_spec))
    notes += drop_cached_outputs(graph_module, find_cached_leaves(exported.call_spec.out_spec))
    outputs = drop_constant_outputs(graph_module, list_leaf_paths(exported.call_spec.out_spec))
    specs = None if jagged is None else jagged.layout.program_inputs()
    names = list(given_names or ([i.name for i in specs] if specs else input_names(graph_module, inputs, module)))
    answers = [f"{name}_output" if name in names else name for name in output_names(outputs)]
    served, read, left_out = _keep_served(graph_module, names, answers, all_inputs=jagged is not None)
    constants_to_parameters(graph_module)  # before views of a constant are folded into copies of it
    graph_module = canonicalize(graph_module)
    if half is not None and jagged is not None:
        raise CaptureError(
            f"The model computes {half}, and its rows have different numbers of elements: convert it to float32 with model.float(), "
            "and remove torch.autocast from its forward."
        )
    if half is not None:
        graph_module = to_float32(graph_module)
    operands = None if specs is None else [(i.shape, getattr(torch, i.dtype)) for i in specs]
    if jagged is not None and operands is not None:
        requests = [jagged.layout.tensors(jagged.draw(rows, rows)) for rows in (3, 4, 6)]
        changed = replace_split_of_cat(graph_module, requests, jagged.layout.lengths_of_elements())
        if not _packs_rows(graph_module):
            refuse_read_numbers(graph_module)
            graph_module = recapture_jagged(graph_module, operands) if changed else graph_module
    rewritten = [repair(graph_module) for repair in GRAPH_PASSES]
    if operands is not None:
        refuse_read_numbers(graph_module)
        graph_module = recapture_jagged(graph_module, operands)
    elif any(rewritten):
        graph_module = recapture(graph_module, graph_module.graph, find_graph_operands(graph_module.graph))
    constants_to_parameters(graph_module)
    unfreeze_if_all_frozen(graph_module)
    example = tuple(
        x.to(torch.float32) if half and x.dtype in HALF else x for x in _example_of(exported, graph_module, read)
    )
    shapes = None if specs is None else [i.shape for i in specs]
    signature = make_signature(graph_module, [names[i] for i in read], [answers[i] for i in served], example, shapes)
    if jagged is not None:
        signature = replace(signature, inputs=jagged.layout.with_ids(signature.inputs))
    program = Program(graph_module, signature, (*notes, *left_out))
    return _Captured(program, tuple(read), tuple(served), half)


def _keep_served(
    module: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str], *, all_inputs: bool
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Leave out the outputs without a row for each row of the request, and inputs that only they read, if not `all_inputs`.

    Returns the positions of the outputs and inputs that are kept, and the notes. If no output has such rows, all are kept.
    """
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    reasons = [describe_unserved(name, value.meta["val"]) for name, value in zip(outputs, output.args[0], strict=True)]
    if all(reasons) or not any(reasons):
        return [*range(len(outputs))], [*range(len(inputs))], ()
    read = keep_outputs(module, [reason is None for reason in reasons], all_inputs=all_inputs)
    notes = [reason for reason in reasons if reason is not None]
    unread = [name for position, name in enumerate(inputs) if position not in read]
    if unread:
        left_out = list_names(repr(name) for name, reason in zip(outputs, reasons, strict=True) if reason is not None)
        notes.append(describe_unread_inputs(unread, f"by {left_out} alone"))
    return [position for position, reason in enumerate(reasons) if reason is None], read, tuple(notes)


def refuse_read_numbers(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if a graph of jagged inputs creates tensors whose size depends on the values of the request."""
    reading = next((node for node in module.graph.nodes if node.target in READS), None)
    if reading is not None:
        raise CaptureError(
            f"The model reads a number from the request{describe_place(find_source_line(reading))}, such as a length by "
            ".item() or .tolist(), and creates a tensor of this size: compute with all elements instead, or mask them."
        )
    repeats = (node for node in module.graph.nodes if node.target in REPEATS)
    repeating = next((node for node in repeats if argument(node, "output_size") is None), None)
    if repeating is not None:
        raise CaptureError(
            f"repeat_interleave{describe_place(find_source_line(repeating))} returns a number of rows that depends on "
            "the values of the request: give output_size=values.size(0), where `values` are the elements that the lengths divide."
        )


def recapture_jagged(module: fx.GraphModule, operands: Sequence[Operand]) -> fx.GraphModule:
    """Recapture a graph of jagged inputs. Raises `CaptureError` if it does not run for rows of all lengths."""
    try:
        return recapture(module, module.graph, operands)
    except Exception as error:  # of many classes
        where = describe_place(find_user_line(error))
        raise CaptureError(
            f"The model computes a number of elements from the values of the request{where}, which a graph cannot "
            f"contain: {first_line(error)}"
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

    Raises `CaptureError` if sizes vary that neither lengths nor offsets determine.
    """
    with inference_mode(exported.graph) as notes:
        with silence_export():
            module = exported.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        assert exported.example_inputs is not None
        args, kwargs = exported.example_inputs
        tree = RequestTree.of(module, args, kwargs)
        with silence_export():
            jagged = find_jagged(module, tree)
        with keep_lines(module):
            program = _capture_flat(module, tree) if jagged is None else _capture_jagged(module, jagged)
    return program.with_notes(notes)


def _has_jagged_operators(module: fx.GraphModule) -> bool:
    return any(getattr(node.target, "namespace", None) == "fbgemm" for node in module.graph.nodes)


def _packs_rows(module: fx.GraphModule) -> bool:
    """Return whether rows are packed by fbgemm, which `replace_jagged_operators` has to replace first."""
    return any(operator_name(node) == "fbgemm::dense_to_jagged" for node in module.graph.nodes)


def _to_graph(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    with skip_slow_bookkeeping():
        graph_module = exported.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return graph_module


def _example_of(
    exported: torch.export.ExportedProgram, module: fx.GraphModule, read: Sequence[int]
) -> tuple[Tensor, ...]:
    """Return the request of the capture, or ones if it was not saved: 1 is a valid id and a valid length.

    `read` are the positions of the inputs of `module` among the tensors of the request.
    """
    if exported.example_inputs is not None:
        tensors = [x for x in pytree.tree_leaves(exported.example_inputs) if isinstance(x, Tensor)]
        return tuple(tensors[position] for position in read)
    placeholders = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(torch.ones([s if isinstance(s, int) else 2 for s in v.shape], dtype=v.dtype) for v in placeholders)


def _check_answers(module: nn.Module, captured: _Captured, example: tuple[tuple[Any, ...], dict[str, Any]]) -> float:
    """Compare the captured program with the model, on the whole example and on single rows.

    Returns the largest difference, as a fraction of the largest number of an output.
    """
    max_rows = 3
    batch = find_batch_size(example)
    expected = captured.among(compute_outputs(module, *example))
    if not outputs_match(captured.among(compute_outputs(module, *example)), expected):
        raise CaptureError("The outputs of the model for the same request differ between calls; turn off its sampling.")
    actual = captured.answer(example)
    if not captured.matches(actual, expected, expected):
        raise CaptureError(_describe_difference(captured, *_find_worst(captured.program, actual, expected)))
    whole = expected
    for row in range(min(batch, max_rows)):
        alone = take_rows(example, torch.tensor([row, row]))
        try:
            expected = captured.among(compute_outputs(module, *alone))
        except Exception:  # any error of the user's code: its rows depend on each other
            break
        if not captured.matches(captured.answer(alone), expected, whole):
            raise CaptureError(
                "The captured program and the model differ for a single row: an output must not depend "
                "on the longest row of the batch (packed sequences), nor on the number of rows."
            )
    return _find_worst(captured.program, actual, whole)[1]


def _describe_float32(half: str, difference: float | None = None) -> str:
    """Return the note on a program in float32 of a model in half precision."""
    if difference is None:
        by = "may differ by rounding"
    else:
        by = f"differ by up to {difference:.1e} of the largest here" if difference else "do not differ here"
    return f"The model computes {half}; the job and the file use float32, whose outputs {by}."


def _find_worst(program: Program, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[str, float]:
    """Return the output with the largest difference, and the difference as a fraction of its largest number."""
    names = [output.name for output in program.signature.outputs]
    return max(zip(names, map(largest_difference, actual, expected, expected), strict=True), key=lambda pair: pair[1])


def _describe_difference(captured: _Captured, name: str, difference: float) -> str:
    reason = (
        "the model computes in half precision, the program in float32: convert the model to float32 with model.float(), "
        "remove torch.autocast from its forward, and check that its outputs are still correct"
        if captured.half
        else "let its outputs depend only on the request"
    )
    return (
        f"The captured program and the model differ for the example request: '{name}' differs by {difference:.1e} of its "
        f"size; {reason}."
    )
