"""Side effects of a request: writes to weights and state, random numbers, statistics of the request.

A file processes every request independently and in the same way. Writes that do not change outputs are dropped, writes of always the same
values are made once, and all others are refused with the line of the user's code.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from recprune_export.errors import CaptureError
from recprune_export.program.canonical import is_in_place, is_view, tensor_at
from recprune_export.program.nodes import ancestors, argument, arguments, find_source_line

aten = torch.ops.aten

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
_COUNTERS = "num_batches_tracked"  # of batch-norms, which no output depends on


@contextmanager
def inference_mode(graph: fx.Graph) -> Iterator[tuple[str, ...]]:
    """Switch dropout and batch-norms of a program that was exported in train mode to inference inside the block.

    Yields the note on them. Batch-norms without running statistics are not changed; `refuse_batch_statistics` refuses them.
    """
    switched = [
        (node, 2 if node.target in _DROPOUTS else 5)
        for node in graph.nodes
        if (node.target in _DROPOUTS and argument(node, "train") is True)
        or (_uses_batch_statistics(node) and argument(node, "running_mean") is not None)
    ]
    for node, position in switched:
        node.update_arg(position, False)
    try:
        yield _describe_switched([node for node, _ in switched])
    finally:
        for node, position in switched:
            node.update_arg(position, True)


def _describe_switched(switched: Sequence[fx.Node]) -> tuple[str, ...]:
    if not switched:
        return ()
    kinds = {"dropout" if node.target in _DROPOUTS else "batch-norm" for node in switched}
    return (
        f"The program was exported in train mode: its {' and '.join(sorted(kinds))} {_at(switched[0])}"
        f"{' and elsewhere ' if len(switched) > 1 else ''}{'are' if len(kinds) > 1 else 'is'} switched to inference.",
    )


def refuse_batch_statistics(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if a batch-norm normalizes by the statistics of the request."""
    for node in module.graph.nodes:
        if _uses_batch_statistics(node):
            raise CaptureError(
                f"The batch-norm {_at(node)}normalizes by the mean of the request, so each output would depend on the other rows: "
                "call model.eval() before torch.export.export, keep running statistics, and pass training=self.training to "
                "functional.batch_norm."
            )


def _uses_batch_statistics(node: fx.Node) -> bool:
    return node.target is aten.batch_norm.default and argument(node, "training") is True


def refuse_random_answers(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if an answer depends on random numbers."""
    for node in _read_by_answers(module):
        if _is_random(node):
            dropout = node.target in _DROPOUTS
            cure = (
                "pass training=self.training to functional.dropout"
                if dropout
                else "disable the noise in inference (`if self.training:`), or make it an input of the request"
            )
            name = str(node.target).removesuffix(".default").removesuffix("_")
            raise CaptureError(
                f"The outputs are random: {name} {_at(node)}draws new numbers for each request, in inference as well; {cure}."
            )


def _is_random(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target in _DROPOUTS:
        return argument(node, "train") is True and argument(node, "p") > 0
    is_tagged = torch.Tag.nondeterministic_seeded in node.target.tags
    rate = argument(node, "dropout_p") if is_tagged else None  # of attention, which draws nothing at 0
    if node.target in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input):
        return argument(node, "train") is True and argument(node, "dropout") > 0
    return is_tagged and rate != 0.0


def drop_unread_writes(module: fx.GraphModule) -> tuple[str, ...]:
    """Remove the writes to state that no output reads, in place; return the notes."""
    read = _read_by_answers(module)
    while True:  # values that are written to state that is read are also read
        writes = [
            node
            for node in module.graph.nodes
            if node not in read and node.op == "call_function" and is_in_place(node) and _find_root(node) in read
        ]
        if not writes:
            break
        read = ancestors([*read, *writes])
    written: dict[fx.Node, fx.Node] = {}
    for node in reversed(list(module.graph.nodes)):
        if node.op != "call_function" or not is_in_place(node) or node in read:
            continue
        root = _find_root(node)
        if root is None:
            continue
        node.replace_all_uses_with(arguments(node)[0])
        module.graph.erase_node(node)
        written[root] = node
    names = {str(root.target): node for root, node in written.items() if root.op == "get_attr"}
    return tuple(
        f"The model writes to '{name}' {_at(node)}with each request, and no output depends on it: the write is left out."
        for name, node in names.items()
        if not name.endswith(_COUNTERS)
    )


def fold_writes(module: fx.GraphModule) -> tuple[str, ...]:
    """Make writes of always the same values once, and drop those that no output reads, in place; return the notes.

    `module` is functional except for a `copy_` of each new value into its state, as after decompositions. The user's tensors are not
    changed. Raises `CaptureError` if an answer depends on state that requests change.
    """
    notes = []
    for node in [node for node in module.graph.nodes if node.target is aten.copy_.default]:
        state, value = arguments(node)[:2]
        if state.op not in ("get_attr", "placeholder") or not isinstance(value, fx.Node):
            continue
        name = str(state.target)
        where = _at(value) or _at(node)
        module.graph.erase_node(node)
        if state.op == "placeholder" or value is state:
            continue
        if _write_once(module, state, value):
            notes.append(
                f"The model writes to '{name}' {where}with each request, always with the same value: it is written once."
            )
        elif state not in _read_by_answers(module):
            if not name.endswith(_COUNTERS):
                notes.append(
                    f"The model writes to '{name}' {where}with each request, and no output depends on it: the write is left out."
                )
        else:
            raise CaptureError(
                f"The model changes '{name}' {where}with each request, and its outputs depend on it, but an ONNX file has "
                "no state: change it only in training (`if self.training:`), or make it an input of the request."
            )
    return tuple(notes)


def _write_once(module: fx.GraphModule, state: fx.Node, value: fx.Node) -> bool:
    """Write a value that depends only on the state into a copy of it; return whether a second write changes nothing."""
    sources = ancestors([value])
    if any(node.op == "placeholder" or _is_random(node) for node in sources):
        return False
    name = str(state.target)
    before = tensor_at(module, name)
    order = [node for node in module.graph.nodes if node in sources]
    with torch.no_grad():
        once = _evaluate(module, order, {})[value].detach().clone()
        twice = _evaluate(module, order, {name: once})[value]
        if once.shape != before.shape or not torch.allclose(once, twice, rtol=1e-5, atol=1e-7, equal_nan=True):
            return False
    new = nn.Parameter(once, requires_grad=before.requires_grad) if isinstance(before, nn.Parameter) else once
    for other, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if tensor is before:
            owner, _, attribute = other.rpartition(".")
            setattr(module.get_submodule(owner), attribute, new)
    value.replace_all_uses_with(state)
    return True


def _evaluate(module: fx.GraphModule, order: Iterable[fx.Node], instead: dict[str, Tensor]) -> dict[fx.Node, Any]:
    values: dict[fx.Node, Any] = {}
    for node in order:
        if node.op == "get_attr":
            values[node] = instead.get(str(node.target), tensor_at(module, str(node.target)))
            continue
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        values[node] = function(*args, **kwargs)
    return values


def _read_by_answers(module: fx.GraphModule) -> dict[fx.Node, None]:
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    return ancestors([value for value in output.args[0] if isinstance(value, fx.Node)])


def _find_root(node: fx.Node) -> fx.Node | None:
    """Return the tensor of the module, or of the request, that an in-place operator changes; None for a computed value."""
    source: Any = arguments(node)[0]
    while isinstance(source, fx.Node) and source.op == "call_function":
        if not (is_view(source) or is_in_place(source) or source.target is operator.getitem):
            return None
        source = arguments(source)[0]
    return source if isinstance(source, fx.Node) else None


def _at(node: fx.Node) -> str:
    line = find_source_line(node)
    return f"at {line} " if line else ""
