"""Describe the first difference between the model of a bundle and another one; None for other weights of the same model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.error_text import describe_place
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument, find_source_line
from recprune_export.program.program import Program
from recprune_export.program.signature import Input, Output, Signature
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.plan import Plan


def compare_signatures(one: Signature, other: Signature) -> str | None:
    """Return the first difference of the inputs and outputs, except rules and figures that follow from rows or the example."""
    return _compare_lists("input", one.inputs, other.inputs) or _compare_lists("output", one.outputs, other.outputs)


def _compare_lists(kind: str, ones: Sequence[Input | Output], others: Sequence[Input | Output]) -> str | None:
    for before, after in zip(ones, others, strict=False):
        difference = _compare_tensors(before, after)
        if difference is not None:
            return f"the {kind} {difference}"
    longer, owner = (ones, "the bundle") if len(ones) > len(others) else (others, "the new model")
    surplus = longer[min(len(ones), len(others)) :]
    return f"{owner} alone has the {kind} '{surplus[0].name}'" if surplus else None


def _compare_tensors(one: Input | Output, other: Input | Output) -> str | None:
    if one.name != other.name:
        return f"'{other.name}' stands in the place of '{one.name}'"
    aspects: dict[str, Callable[[Any], Any]] = {"dtype": lambda t: t.dtype}
    if isinstance(one, Input) and one.jagged is not None:
        aspects["form of jagged rows"] = _describe_jagged
    else:
        aspects["shape"] = lambda t: list(t.shape)
    if isinstance(one, Input):
        aspects["range of ids"] = _describe_ids
    for aspect, read in aspects.items():
        before, after = read(one), read(other)
        if before != after:
            return f"'{one.name}' has the {aspect} {after}, and in the bundle {before}"
    return None


def _describe_ids(spec: Input) -> str:
    ranges = ["none" if pair is None else f"{pair[0]} to {pair[1]}" for pair in spec.ids]
    return ", ".join(dict.fromkeys(ranges)) if len(set(ranges)) == 1 else ", ".join(ranges) or "none"


def _describe_jagged(spec: Input) -> str:
    return "none" if spec.jagged is None else str(replace(spec.jagged, counts=(0, 0)).to_dict())


def compare_architectures(pruned: Program, plan: Plan, projected: Program) -> str | None:
    """Return how `projected`, the other model after the projections of `plan`, differs from the model that `plan` pruned to `pruned`.

    The plan of one stage is applied unchanged, but without rotations, and its result is compared with `pruned` operator by operator, so
    that a bundle need not contain the graph of its dense model.
    """
    widths = {group.name: group.width for group in projected.analysis.groups}
    for group in plan.groups:
        width = widths.get(group.group)
        if width != group.width:
            found = "is missing" if width is None else f"has {width}"
            return f"'{group.group}' {found}, where the model of the bundle has {group.width} channels"
    return _compare_graphs(pruned, apply_plan(projected, plan))


def _compare_graphs(one: Program, other: Program) -> str | None:
    """Return the first difference in operators, their order, operands and constants, and in shapes of tensors."""
    for before, after in zip_longest(_describe_nodes(one), _describe_nodes(other)):
        if before is None or after is None:
            node, owner = (after[0], "the new model") if before is None else (before[0], "the bundle")
            return f"{owner} alone computes {_name_operator(node)}{describe_place(find_source_line(node))}"
        if before[1] != after[1]:
            place = describe_place(find_source_line(after[0]))
            return f"the new model computes {_describe(*after)}{place}, where that of the bundle computes {_describe(*before)}"
    return None


def _describe_nodes(program: Program) -> Iterator[tuple[fx.Node, tuple[Any, ...]]]:
    """Yield each node with its operator and arguments, without names, which may differ in a loaded program."""
    numbers: dict[fx.Node, int] = {}
    for number, node in enumerate(program.module.graph.nodes):
        numbers[node] = number
        if node.op == "get_attr":
            tensor = tensor_at(program.module, str(node.target))
            yield node, (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            continue
        target = str(node.target) if node.op == "call_function" else node.op
        yield node, (target, _number_nodes(_bind_arguments(node), numbers))


def _bind_arguments(node: fx.Node) -> dict[str, Any]:
    """Return all arguments by name, including defaults, which `torch.export.save` leaves out."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(place): value for place, value in enumerate(node.args)}, **node.kwargs}
    return {parameter.name: argument(node, parameter.name) for parameter in schema.arguments}


def _number_nodes(value: Any, numbers: dict[fx.Node, int]) -> Any:
    """Return arguments as comparable values, with the position of each node in the graph."""
    if isinstance(value, fx.Node):
        return "node", numbers[value]
    if isinstance(value, dict):
        return tuple((name, _number_nodes(item, numbers)) for name, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_number_nodes(item, numbers) for item in value)
    return str(value) if isinstance(value, torch.dtype | torch.device | Tensor) else value


def _name_operator(node: fx.Node) -> str:
    return f"'{node.target}'"


def _describe(node: fx.Node, content: tuple[Any, ...]) -> str:
    if node.op == "get_attr":
        shape, dtype = content
        return f"with '{node.target}' of shape {list(shape)} in {dtype}"
    constants = [str(value) for value in (*node.args, *node.kwargs.values()) if not isinstance(value, fx.Node)]
    return _name_operator(node) + (f" with {', '.join(constants)}" if constants else "")
