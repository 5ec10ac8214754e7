"""Inputs and outputs of a captured graph: their names, shapes, and valid ids."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from sympy import Symbol
from torch import Tensor, fx, nn

from recprune_export.column_names import list_names
from recprune_export.errors import CaptureError
from recprune_export.program.capture.id_ranges import find_id_ranges
from recprune_export.program.capture.unwrap_module import forward_parameters
from recprune_export.program.requests.request_tree import key_name
from recprune_export.program.signature import BATCH, Axis, IdRange, Input, Output, Signature

Path = Sequence[Any]


def list_leaf_paths(spec: Any) -> list[Path]:
    """Return the path of each leaf; in classes that cannot be constructed from numbers, indices replace the keys."""
    try:
        tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    except Exception:  # any error of a class that checks its arguments
        return _list_positions(spec)
    return [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def _list_positions(spec: Any) -> list[Path]:
    if spec.is_leaf():
        return [()]
    keys: list[Any] = list(range(len(spec.children())))
    key_class: Any = pytree.SequenceKey
    if spec.type is dict or _are_names(spec.context, len(keys)):
        keys, key_class = list(spec.context), pytree.MappingKey
    return [
        (key_class(key), *path)
        for key, child in zip(keys, spec.children(), strict=True)
        for path in _list_positions(child)
    ]


def _are_names(context: Any, count: int) -> bool:
    """Return whether the context of a class, such as a Hugging Face answer, lists the names of its parts."""
    return isinstance(context, list | tuple) and len(context) == count and all(isinstance(key, str) for key in context)


def name_leaves(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return a name for each tensor of a request: the last step of its path if these steps are unique words, otherwise the path.

    >>> name_leaves([("features", "_user"), ("features", "_item")])
    ['user', 'item']
    """
    return _unique([[step.strip("_") or step for step in path] for path in paths])


def drop_constant_inputs(module: fx.GraphModule, paths: list[Path]) -> list[Path]:
    """Remove the placeholders that are not tensors; return the paths of the others."""
    tensor_paths = []
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, path in zip(placeholders, paths, strict=True):
        if isinstance(node.meta.get("val"), Tensor):
            tensor_paths.append(path)
            continue
        for user in list(node.users):
            if user.op == "call_module":
                module.graph.erase_node(user)
        if node.users:
            raise CaptureError(
                f"The input '{node.name}' is not a tensor, but the program computes with it; make it a constant of the model."
            )
        module.graph.erase_node(node)
    return tensor_paths


def drop_constant_outputs(module: fx.GraphModule, paths: list[Path]) -> list[Path]:
    """Remove the outputs that are not tensors; return the paths of the others."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    values = output.args[0]
    pairs = [(value, path) for value, path in zip(values, paths, strict=True) if _is_tensor(value)]
    if not pairs:
        raise CaptureError("The model returns no tensor; it must return at least one.")
    output.args = (tuple(value for value, _ in pairs),)
    return [path for _, path in pairs]


def drop_cached_outputs(module: fx.GraphModule, cached: Sequence[bool]) -> tuple[str, ...]:
    """Replace the outputs that are part of a cache by None if others are left; return the note."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    if not any(cached) or all(cached):
        return ()
    values = zip(output.args[0], cached, strict=True)
    output.args = (tuple(None if leave_out else value for value, leave_out in values),)
    return (
        "The cache of keys and values that the program returns is for a later call of the same module: it is left out.",
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def input_names(graph_module: fx.GraphModule, paths: list[Path], module: nn.Module | None) -> list[str]:
    placeholders = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
    parameters = list(forward_parameters(module)) if module is not None else []

    def components(path: Path, placeholder: str) -> list[str]:
        (_, first, *rest) = path
        index = getattr(first, "idx", None)
        if index is None:
            name = first.key
        elif index < len(parameters):
            name = parameters[index]
        else:  # a program of another tool: torch.export named the placeholder after the parameter
            name = f"input_{index}" if rest else placeholder
        return [str(name), *(key_name(k) for k in rest)]

    names = [components(path, name) for path, name in zip(paths, placeholders, strict=True)]
    return _unique(names, given=all(_is_given(path[-1]) for path in paths))


def output_names(paths: list[Path]) -> list[str]:
    names = [[key_name(k) for k in path] or ["output"] for path in paths]
    return _unique(names, numbered="output", given=all(path and _is_given(path[-1]) for path in paths))


def _is_given(key: Any) -> bool:
    """Return whether the last step of a path is a name of the model's own, such as a column '0' or '_c0', and no position."""
    return isinstance(key, pytree.MappingKey) and isinstance(key.key, str) and bool(key.key)


def _unique(paths: list[list[str]], numbered: str = "input", *, given: bool = False) -> list[str]:
    """Return the last component of each path where these are unique, and words or all `given` as names, else the whole paths.

    >>> _unique([["request", "user"], ["request", "item"]]), _unique([["0"], ["1"]], "output")
    (['user', 'item'], ['output_0', 'output_1'])
    """
    last = [path[-1] for path in paths]
    if len(set(last)) == len(last) and (given or all(name[:1].isalpha() for name in last)):
        return last
    whole = ["_".join(path) for path in paths]
    return [name if name[:1].isalpha() else f"{numbered}_{name}" for name in whole]


def make_signature(
    module: fx.GraphModule,
    input_names: list[str],
    output_names: list[str],
    example: Sequence[Tensor],
    known_shapes: Sequence[tuple[Axis, ...]] | None = None,
) -> Signature:
    """Return names, dtypes, shapes and valid ids; `known_shapes` are those of inputs with further variable sizes in addition to the
    batch."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    if known_shapes is None:
        _check_batch(placeholders)
    else:
        _check_answers_by_row(placeholders, known_shapes, output.args[0])
    shapes = known_shapes or [_shape(node) for node in placeholders]
    ids = find_id_ranges(module, example)
    inputs = [
        Input(
            name,
            _dtype(node),
            shape,
            ids.get(node.name, ()),
            _observed(values, ids.get(node.name, ())),
            observed_columns=_observed_columns(values),
        )
        for node, name, shape, values in zip(placeholders, input_names, shapes, example, strict=True)
    ]
    outputs = [
        Output(name, _dtype(n), _shape_of_output(n)) for n, name in zip(output.args[0], output_names, strict=True)
    ]
    _check_rows(placeholders, input_names, outputs)
    return Signature(tuple(inputs), tuple(outputs))


def with_observed(signature: Signature, tensors: Sequence[Tensor]) -> Signature:
    """Return the signature with the ranges of numbers in a whole example request, of which a capture traces a few rows."""
    inputs = [
        replace(spec, observed=_observed(values, spec.ids), observed_columns=_observed_columns(values))
        for spec, values in zip(signature.inputs, tensors, strict=True)
    ]
    return replace(signature, inputs=tuple(inputs))


def _observed(values: Tensor, ids: Sequence[IdRange | None]) -> tuple[float, float] | None:
    """Return the range of the numbers that are not ids; None if it carries no information, as for a constant float."""
    columns = [column for column, pair in enumerate(ids) if pair is None] if ids else slice(None)
    numbers = values[..., columns] if isinstance(columns, list) else values
    if values.dtype == torch.bool or not numbers.numel() or not bool(numbers.isfinite().all()):
        return None
    low, high = float(numbers.min()), float(numbers.max())
    return (low, high) if low < high or not values.is_floating_point() else None


def _observed_columns(values: Tensor) -> tuple[tuple[float, float], ...]:
    """Return the range of each column of a matrix of integers, if columns differ, since each may be a separate field."""
    if values.ndim != 2 or values.is_floating_point() or values.dtype == torch.bool or not values.numel():
        return ()
    ranges = list(zip(values.amin(0).tolist(), values.amax(0).tolist(), strict=True))
    return tuple((float(low), float(high)) for low, high in ranges) if len(set(ranges)) > 1 else ()


def _check_batch(placeholders: list[fx.Node]) -> None:
    """Raise `CaptureError` unless the batch, and no other size, varies."""
    symbols = {str(size) for node in placeholders for size in node.meta["val"].shape if not isinstance(size, int)}
    if not symbols:
        sizes = {node.meta["val"].shape[0] for node in placeholders if node.meta["val"].ndim}
        raise CaptureError(
            f"The program accepts requests of {', '.join(map(str, sorted(sizes))) or 'one fixed number of'} rows only; "
            "export it with dynamic_shapes that make the batch, axis 0 of every input, dynamic."
        )
    if len(symbols) > 1:
        varying = [
            node.name for node in placeholders if any(not isinstance(s, int) for s in node.meta["val"].shape[1:])
        ]
        raise CaptureError(
            f"More than the batch varies in {', '.join(varying) or 'the inputs'}; "
            "export it with one dynamic dimension, the batch, and pad the others."
        )


def _check_answers_by_row(placeholders: list[fx.Node], shapes: Sequence[tuple[Axis, ...]], outputs: Any) -> None:
    """Raise `CaptureError` if an output has a size that depends on the elements of the rows."""
    batch = next(n.meta["val"].shape[0] for n, shape in zip(placeholders, shapes, strict=True) if shape[:1] == (BATCH,))
    for number, output in enumerate(outputs):
        symbols = {
            s for size in output.meta["val"].shape if not isinstance(size, int) for s in size.node.expr.free_symbols
        }
        if symbols - batch.node.expr.free_symbols:
            raise CaptureError(
                f"Output {number} of the model has a size that depends on the number of elements in the rows; return a result of "
                "a fixed size for each row."
            )


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def _shape(node: fx.Node) -> tuple[Axis, ...]:
    shape = node.meta["val"].shape
    unknown = [str(size) for size in shape if not isinstance(size, int) and not str(size).isidentifier()]
    if unknown:
        raise CaptureError(f"'{node.name}' has an axis of size {unknown[0]}; only the batch may vary.")
    return tuple(size if isinstance(size, int) else BATCH for size in shape)


def _shape_of_output(node: fx.Node) -> tuple[Axis, ...]:
    """Return the shape of an output; flattened scores of all items have a size such as `12*batch`."""

    def axis(size: Any) -> Axis:
        if isinstance(size, int):
            return size
        return str(size.node.expr.subs({symbol: Symbol(BATCH) for symbol in size.node.expr.free_symbols}))

    return tuple(axis(size) for size in node.meta["val"].shape)


_LABELS = re.compile(r"(.*_)?(label|target|truth|click|rating|y|y_true)s?", re.IGNORECASE)


def _check_rows(placeholders: list[fx.Node], inputs: Sequence[str], outputs: list[Output]) -> None:
    """Raise `CaptureError` if no output has a row for each input row: a loss, or axis 0 of the example is not the batch."""
    if any(isinstance(size, str) for output in outputs for size in output.shape):
        return
    if all(size == 1 for output in outputs for size in output.shape):
        names = list_names(repr(output.name) for output in outputs)
        labels = [name for name in inputs if _LABELS.fullmatch(name)]
        without = f"leave {list_names(map(repr, labels))} out of the example request, or let" if labels else "let"
        raise CaptureError(
            f"The model returns only {names}, one number for the whole request, such as a loss: {without} the model return "
            "its scores, one or more per row."
        )
    varying = [n.name for n in placeholders if any(not isinstance(size, int) for size in n.meta["val"].shape)]
    raise CaptureError(
        f"No output has one row per row of {', '.join(varying)}: give an example request whose tensors have the batch "
        "on axis 0, and lists of ids of different lengths as a padded matrix."
    )
