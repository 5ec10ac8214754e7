"""Operators, arguments, ancestors and source lines of the nodes of a graph."""

import contextlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return the positional arguments of a node as `Any`; `fx` types each as a union of twenty classes."""
    return node.args


def argument(node: fx.Node, name: str) -> Any:
    """Return an argument of an operator by its name in the schema, or its default, or None for an unknown name."""
    if name in node.kwargs:
        return node.kwargs[name]
    for position, parameter in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if parameter.name == name:
            return node.args[position] if position < len(node.args) else parameter.default_value
    return None


def operator_name(node: fx.Node) -> str:
    """Return the name of the operator that a node calls, such as `aten::cat`, an empty string for other nodes."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name)


def ancestors(nodes: Iterable[fx.Node], until: Collection[Any] = ()) -> dict[fx.Node, None]:
    """Return the nodes and all nodes that they are computed from; the inputs of operators in `until` are left out."""
    visited = dict.fromkeys(nodes)
    pending = list(visited)
    while pending:
        node = pending.pop()
        new = [n for n in node.all_input_nodes if n not in visited and node.target not in until]
        visited.update(dict.fromkeys(new))
        pending.extend(new)
    return visited


# Code that calls the user's code, and generated code.
_CALLERS = tuple(str(Path(__file__).parent / folder) for folder in ("capture", "requests"))
_NOT_THE_USERS = (str(Path(torch.__file__).parent), *_CALLERS, contextlib.__file__, "<")


def find_source_line(node: fx.Node) -> str:
    """Return the source of a node: `"file", line N` of the user's code, else the submodule, else an empty string."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    written_by_user = [(file, line) for file, line in frames if not file.startswith(_NOT_THE_USERS)]
    if written_by_user:
        file, line = written_by_user[-1]
        return f'"{file}", line {line}'
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return modules[-1] if modules else ""
