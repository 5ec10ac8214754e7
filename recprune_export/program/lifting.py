"""Conversion of a graph with known shapes to an `ExportedProgram`, its tensors lifted to inputs, without tracing.

`torch.export.export` traces the graph once more and returns the same program.
"""

from typing import Any

import torch.utils._pytree as pytree
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from recprune_export.program.canonical import tensor_at


def lift(module: fx.GraphModule) -> ExportedProgram:
    """Return `module`, whose shapes were just propagated, as an `ExportedProgram` of the same parameters and buffers."""
    nodes = list(module.graph.nodes)
    tensors = [node for node in nodes if node.op == "get_attr"]
    placeholders = [node for node in nodes if node.op == "placeholder"]
    graph = fx.Graph()
    copies = {node: _input(graph, node, _lifted_name(module, node)) for node in tensors}
    copies |= {node: _input(graph, node, node.name) for node in placeholders}
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    (output,) = [node for node in graph.nodes if node.op == "output"]
    users = [InputSpec(InputKind.USER_INPUT, TensorArgument(copies[node].name), None) for node in placeholders]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(value.name), None) for value in output.args[0]]
    return ExportedProgram(
        root=nn.Module(),
        graph=graph,
        graph_signature=ExportGraphSignature([_spec(module, node, copies[node]) for node in tensors] + users, outputs),
        state_dict={str(node.target): tensor_at(module, str(node.target)) for node in tensors},
        range_constraints=_ranges(placeholders),
        module_call_graph=[_call([copies[node].name for node in placeholders], len(outputs))],
    )


def _input(graph: fx.Graph, node: fx.Node, name: str) -> fx.Node:
    placeholder = graph.placeholder(name)
    placeholder.target = placeholder.name
    placeholder.meta = dict(node.meta)
    return placeholder


def _lifted_name(module: fx.GraphModule, node: fx.Node) -> str:
    kind = "p" if isinstance(tensor_at(module, str(node.target)), nn.Parameter) else "b"
    return f"{kind}_{str(node.target).replace('.', '_')}"


def _spec(module: fx.GraphModule, node: fx.Node, placeholder: fx.Node) -> InputSpec:
    argument, name = TensorArgument(placeholder.name), str(node.target)
    if isinstance(tensor_at(module, name), nn.Parameter):
        return InputSpec(InputKind.PARAMETER, argument, name)
    return InputSpec(InputKind.BUFFER, argument, name, persistent=True)


def _ranges(placeholders: list[fx.Node]) -> dict[Any, Any]:
    """Return the bounds of each symbolic size."""
    environments = {id(e): e for node in placeholders if (e := node.meta["val"].fake_mode.shape_env) is not None}
    return {symbol: bounds for e in environments.values() for symbol, bounds in e.var_to_range.items()}


def _call(inputs: list[str], outputs: int) -> ModuleCallEntry:
    in_spec = pytree.tree_structure(((0,) * len(inputs), {}))
    return ModuleCallEntry(
        "", ModuleCallSignature([], [], in_spec, pytree.tree_structure((0,) * outputs), list(inputs))
    )
