"""Capture: an `nn.Module` and an example request become a `Program`."""

import contextlib
import inspect
import io
import itertools
import logging
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
import torch.utils._pytree as pytree
from sympy import Symbol
from torch import Tensor, fx, nn

from recprune_export.errors import CaptureError
from recprune_export.program.canonical import canonicalise, has_unsafe_mutation
from recprune_export.program.constant_masks import replace_constant_masks
from recprune_export.program.embedding_bags import replace_embedding_bags
from recprune_export.program.id_ranges import id_ranges
from recprune_export.program.packed_sequences import padded_steps
from recprune_export.program.precomputed import precompute_tables
from recprune_export.program.program import Program, batch_symbol
from recprune_export.program.signature import BATCH, Axis, IdRange, Input, Output, Signature

Path = Sequence[Any]
ROWS_OF_THEIR_OWN = 3
REPAIRS = (precompute_tables, replace_constant_masks, replace_embedding_bags)


def capture(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Program:
    """Capture `module` as it answers the example request `args`, `kwargs`.

    The batch is axis 0 of the example's tensors, of any size; it becomes symbolic. Requests may be nested
    tuples, lists and dicts of tensors: the program takes the tensors flat, each under the name by which the
    module knows it.

    Raises `CaptureError` with the line of the model's source where `torch.export` gave up.
    """
    training = module.training
    module.eval()
    try:
        example = _with_unmistakable_batch(module, (args, _in_order(module, kwargs or {})))
        program = program_from_exported(_export(module, *example), module)
        _check_answers(module, program, *example)
    finally:
        module.train(training)
    return program


def program_from_exported(exported: torch.export.ExportedProgram, module: nn.Module | None = None) -> Program:
    """Turn an `ExportedProgram` into a `Program`; `module`, where known, gives names to positional inputs."""
    if has_unsafe_mutation(exported.module(check_guards=False)):
        exported = exported.run_decompositions({})
    graph_module = exported.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    if exported.call_spec.in_spec is None or exported.call_spec.out_spec is None:
        raise CaptureError(
            "The program says nothing about the structure of its inputs; export it again with torch.export."
        )
    inputs = _drop_constant_inputs(graph_module, _paths(exported.call_spec.in_spec))
    outputs = _drop_constant_outputs(graph_module, _paths(exported.call_spec.out_spec))
    graph_module = canonicalise(graph_module)
    rewritten = [repair(graph_module) for repair in REPAIRS]
    if any(rewritten):
        graph_module = canonicalise(_export_again(graph_module))
    input_names = _input_names(graph_module, inputs, module)
    output_names = [f"{name}_output" if name in input_names else name for name in _output_names(outputs)]
    example = _example_of(exported, graph_module)
    return Program(graph_module, _signature(graph_module, input_names, output_names, example))


def _example_of(exported: torch.export.ExportedProgram, module: fx.GraphModule) -> tuple[Tensor, ...]:
    """The request that a program was captured with; of ones where it was not kept: 1 is an id and a length."""
    if exported.example_inputs is not None:
        return tuple(x for x in pytree.tree_leaves(exported.example_inputs) if isinstance(x, Tensor))
    placeholders = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(torch.ones([s if isinstance(s, int) else 2 for s in v.shape], dtype=v.dtype) for v in placeholders)


def _export_again(module: fx.GraphModule) -> fx.GraphModule:
    """Find the sizes of a graph that was changed."""
    symbol = batch_symbol()
    placeholders = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    rows = tuple(torch.zeros([s if isinstance(s, int) else 3 for s in v.shape], dtype=v.dtype) for v in placeholders)
    shapes = tuple({a: symbol for a, s in enumerate(v.shape) if not isinstance(s, int)} for v in placeholders)
    again = torch.export.export(fx.GraphModule(module, module.graph), rows, dynamic_shapes=shapes, strict=False)
    exported = again.module(check_guards=False)
    assert isinstance(exported, fx.GraphModule)
    return exported


def _in_order(module: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords in the order of the parameters of `forward`, in which `torch.export` makes them inputs."""
    known = [name for name in inspect.signature(module.forward).parameters if name in kwargs]
    return {name: kwargs[name] for name in (*known, *(name for name in kwargs if name not in known))}


def _with_unmistakable_batch(module: nn.Module, example: Any) -> Any:
    """Repeat rows of the example until their number is none of the model's widths.

    `torch.export` takes a batch of one for a constant, and a batch of 16 beside a width of 16 may be tied to it.
    """
    widths = {size for tensor in module.state_dict().values() if isinstance(tensor, Tensor) for size in tensor.shape}
    widths |= {size for x in pytree.tree_leaves(example) if isinstance(x, Tensor) for size in x.shape[1:]}
    batch = next(size for size in itertools.count(5) if size not in widths)
    return _take_rows(example, torch.arange(batch) % _batch_size(example))


def _take_rows(example: Any, rows: Tensor) -> Any:
    batch = _batch_size(example)
    return pytree.tree_map(lambda x: x[rows] if isinstance(x, Tensor) and x.ndim and len(x) == batch else x, example)


def _batch_size(example: Any) -> int:
    sizes = Counter(len(x) for x in pytree.tree_leaves(example) if isinstance(x, Tensor) and x.ndim)
    if not sizes:
        raise CaptureError(
            "The example request holds no tensor with a batch axis; give at least one tensor of shape (batch, ...)."
        )
    return sizes.most_common(1)[0][0]


def _check_answers(module: nn.Module, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compare what was captured with the model itself, on the whole example and on rows of their own."""
    batch = _batch_size((args, kwargs))
    for rows in (torch.arange(batch), *(torch.full((2,), row) for row in range(min(batch, ROWS_OF_THEIR_OWN)))):
        some_args, some_kwargs = _take_rows((args, kwargs), rows)
        try:
            with torch.no_grad():
                expected = [x for x in pytree.tree_leaves(module(*some_args, **some_kwargs)) if isinstance(x, Tensor)]
                again = [x for x in pytree.tree_leaves(module(*some_args, **some_kwargs)) if isinstance(x, Tensor)]
        except Exception as error:  # whatever the user's code raises
            where = _line_of(error)
            raise CaptureError(_explain(error, where)) from error
        if not _close(again, expected):
            raise CaptureError("The model answers the same request differently each time; switch its sampling off.")
        tensors = [x for x in pytree.tree_leaves((some_args, some_kwargs)) if isinstance(x, Tensor)]
        with torch.no_grad():
            captured = program.module(*tensors)
        if not _close(captured, expected):
            raise CaptureError(
                "The captured program does not answer as the model does when rows come in other company: the answer for one "
                "row must not depend on the others, nor on the longest of them (packed sequences, statistics of the batch)."
            )


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        f.shape == e.shape and torch.allclose(f.double(), e.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for f, e in zip(found, expected, strict=True)
    )


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    batch = _batch_size((args, kwargs))
    symbol = batch_symbol()

    def dynamic(x: Any) -> Any:
        return {0: symbol} if isinstance(x, Tensor) and x.ndim and len(x) == batch else None

    shapes = pytree.tree_map(dynamic, _by_parameter(module, args, kwargs))

    def export(strict: bool) -> torch.export.ExportedProgram:
        with _quiet_and_plain(), padded_steps():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=strict)

    try:
        return export(strict=False)
    except Exception as error:  # torch.export raises many unrelated classes for the same cause
        # Reading the bytecode, torch.export takes longer and knows less, but sees that len(x) varies with the batch.
        with contextlib.suppress(Exception):
            return export(strict=True)
        where = _line_of(error)
        if _fixes_batch(str(error)) and not _reads_values(str(error)):
            where = _line_that_fixes_the_batch(module, args, kwargs) or where
        raise CaptureError(_explain(error, where)) from error


@contextlib.contextmanager
def _quiet_and_plain() -> Iterator[None]:
    """Keep torch.export's own remarks off the user's screen, and attention in the operators that the analysis reads."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.backends.mha.set_fastpath_enabled(fast)


def _line_of(error: BaseException) -> str:
    """The innermost line outside of torch that led to an error: `file, line N`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THE_USERS)]
    in_text = [m for m in re.findall(r'File "([^"]+)", line (\d+)', str(error)) if not m[0].startswith(_NOT_THE_USERS)]
    places = [(f.filename, f.lineno) for f in frames] + in_text
    return f"{places[-1][0]}, line {places[-1][1]}" if places else ""


_NOT_THE_USERS = (str(FilePath(torch.__file__).parent), str(FilePath(__file__).parents[1]), "<")


def _fixes_batch(text: str) -> bool:
    return "pecialized" in text or "marked batch as dynamic" in text or "inferred to be a constant" in text


def _reads_values(text: str) -> bool:
    return "data-dependent" in text.lower() or "unbacked" in text.lower()


def _line_that_fixes_the_batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Where the model itself fails on one row more than it was made for; nothing where it does not."""
    batch = _batch_size((args, kwargs))
    args, kwargs = _take_rows((args, kwargs), torch.arange(batch + 1) % batch)
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:  # whatever the user's code raises
        return _line_of(error)
    return ""


def _by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Bind a call to the parameters of `forward`, as `torch.export` wants its dynamic shapes."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    arguments = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return arguments


def _explain(error: Exception, line: str) -> str:
    text = str(error)
    where = f" at {line}" if line else ""
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if _reads_values(text):
        return (
            f"The model decides by the values of a request{where}: replace a branch by torch.where, a selection of rows "
            f"by a mask, and packed sequences by padded ones ({first})."
        )
    if _fixes_batch(text):
        return (
            f"The model fixes the batch size{where}, so it cannot answer other batches: "
            f"use x.size(0) instead of a number ({first})."
        )
    return f"torch.export cannot capture the model{where}: {first}"


def _paths(spec: Any) -> list[Path]:
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def _drop_constant_inputs(module: fx.GraphModule, paths: list[Path]) -> list[Path]:
    """Remove the placeholders of what is no tensor; return the paths of the others."""
    kept = []
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, path in zip(placeholders, paths, strict=True):
        if isinstance(node.meta.get("val"), Tensor):
            kept.append(path)
            continue
        for user in list(node.users):
            if user.op == "call_module":
                module.graph.erase_node(user)
        if node.users:
            raise CaptureError(
                f"The input '{node.name}' is no tensor but the program computes with it; bind it in the model."
            )
        module.graph.erase_node(node)
    return kept


def _drop_constant_outputs(module: fx.GraphModule, paths: list[Path]) -> list[Path]:
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    values = output.args[0]
    pairs = [(value, path) for value, path in zip(values, paths, strict=True) if _is_tensor(value)]
    if not pairs:
        raise CaptureError("The model returns no tensor; return at least one.")
    output.args = (tuple(value for value, _ in pairs),)
    return [path for _, path in pairs]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def _input_names(graph_module: fx.GraphModule, paths: list[Path], module: nn.Module | None) -> list[str]:
    placeholders = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
    parameters = list(inspect.signature(module.forward).parameters) if module is not None else []

    def parts(path: Path, placeholder: str) -> list[str]:
        (_, first, *rest) = path
        index = getattr(first, "idx", None)
        if index is None:
            name = first.key
        elif index < len(parameters):
            name = parameters[index]
        else:  # a program of somebody else: torch.export named it after the parameter
            name = f"input_{index}" if rest else placeholder
        return [str(name), *(_key(k) for k in rest)]

    return _unique([parts(path, name) for path, name in zip(paths, placeholders, strict=True)])


def _output_names(paths: list[Path]) -> list[str]:
    return _unique([[_key(k) for k in path] or ["output"] for path in paths], numbered="output")


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def _unique(paths: list[list[str]], numbered: str = "input") -> list[str]:
    """The last part of each path where that is a unique word, else the whole path.

    >>> _unique([["request", "user"], ["request", "item"]]), _unique([["0"], ["1"]], "output")
    (['user', 'item'], ['output_0', 'output_1'])
    """
    last = [path[-1] for path in paths]
    if len(set(last)) == len(last) and all(name[:1].isalpha() for name in last):
        return last
    whole = ["_".join(path) for path in paths]
    return [name if name[:1].isalpha() else f"{numbered}_{name}" for name in whole]


def _signature(
    module: fx.GraphModule, input_names: list[str], output_names: list[str], example: Sequence[Tensor]
) -> Signature:
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    _check_batch(placeholders)
    ids = id_ranges(module, example)
    inputs = [
        Input(name, _dtype(node), _shape(node), ids.get(node.name, ()), _observed(values, ids.get(node.name, ())))
        for node, name, values in zip(placeholders, input_names, example, strict=True)
    ]
    outputs = [
        Output(name, _dtype(n), _shape_of_output(n)) for n, name in zip(output.args[0], output_names, strict=True)
    ]
    _check_rows(placeholders, outputs)
    return Signature(tuple(inputs), tuple(outputs))


def _observed(values: Tensor, ids: Sequence[IdRange | None]) -> tuple[float, float] | None:
    """The lowest and highest of the numbers that are no ids; None where they tell nothing, as a float that is always 0."""
    others = [column for column, pair in enumerate(ids) if pair is None] if ids else slice(None)
    numbers = values[..., others] if isinstance(others, list) else values
    if values.dtype == torch.bool or not numbers.numel() or not bool(numbers.isfinite().all()):
        return None
    low, high = float(numbers.min()), float(numbers.max())
    return (low, high) if low < high or not values.is_floating_point() else None


def _check_batch(placeholders: list[fx.Node]) -> None:
    """Only the batch may vary, and it must."""
    symbols = {str(size) for node in placeholders for size in node.meta["val"].shape if not isinstance(size, int)}
    if not symbols:
        sizes = {node.meta["val"].shape[0] for node in placeholders if node.meta["val"].ndim}
        raise CaptureError(
            f"The program answers requests of {', '.join(map(str, sorted(sizes))) or 'one fixed number of'} rows only; "
            "export it with dynamic_shapes that leave the batch, axis 0 of every input, free."
        )
    if len(symbols) > 1:
        varying = [
            node.name for node in placeholders if any(not isinstance(s, int) for s in node.meta["val"].shape[1:])
        ]
        raise CaptureError(
            f"More than the batch varies in {', '.join(varying) or 'the inputs'}; "
            "export it with one dimension free, the batch, and pad the others."
        )


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def _shape(node: fx.Node) -> tuple[Axis, ...]:
    shape = node.meta["val"].shape
    unknown = [str(size) for size in shape if not isinstance(size, int) and not str(size).isidentifier()]
    if unknown:
        raise CaptureError(f"'{node.name}' has an axis of size {unknown[0]}; only the batch itself may vary.")
    return tuple(size if isinstance(size, int) else BATCH for size in shape)


def _shape_of_output(node: fx.Node) -> tuple[Axis, ...]:
    """Scores of all items may be flattened: `12*batch`."""

    def axis(size: Any) -> Axis:
        if isinstance(size, int):
            return size
        return str(size.node.expr.subs({symbol: Symbol(BATCH) for symbol in size.node.expr.free_symbols}))

    return tuple(axis(size) for size in node.meta["val"].shape)


def _check_rows(placeholders: list[fx.Node], outputs: list[Output]) -> None:
    """There is an answer for each row; else axis 0 of the example was not the batch."""
    if not any(isinstance(size, str) for output in outputs for size in output.shape):
        varying = [n.name for n in placeholders if any(not isinstance(size, int) for size in n.meta["val"].shape)]
        raise CaptureError(
            f"No output has a row for each row of {', '.join(varying)}: give an example request whose tensors have the batch "
            "on axis 0, and lists of ids of different lengths as a padded matrix."
        )
