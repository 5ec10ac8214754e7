"""`apply_plan`: removal of the channels that a plan does not keep."""

import torch
from torch import fx

from recprune_export.channels.liveness import find_live_nodes
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program

# Importing these modules registers the resize rules of their operators.
from recprune_export.pruning.apply import resize_fields, resize_normalization  # noqa: F401
from recprune_export.pruning.apply.masking import MaskedValues
from recprune_export.pruning.apply.resize import GraphResizer, resize
from recprune_export.pruning.plan import Plan


def apply_plan(program: Program, plan: Plan, *, shared: frozenset[str] = frozenset()) -> Program:
    """Return a smaller program with separate parameters; `program` is not changed.

    Parameters in `shared` from which nothing is removed share the memory of the original, and must not be changed in place. Parameters
    are sliced once, operators that name sizes get the new ones, and shapes are propagated, which checks each of them. An input that is no
    longer looked up is kept, and ignored. The same plan gives the same program, bit for bit.
    """
    masked = MaskedValues(program, plan)
    resizing = GraphResizer(program, plan.removed(program.analysis), masked)
    live = find_live_nodes(program.module.graph, resizing.remaining_operands)
    tensors: dict[str, torch.Tensor] = {}
    for node in program.module.graph.nodes:
        if node not in live and node.op != "placeholder":
            continue
        resizing.new[node] = resize(resizing, node)
        if node.op == "get_attr":
            tensors[str(node.target)] = _slice_tensor(resizing, node, shared)
    return Program.from_graph(resizing.graph, {**tensors, **resizing.buffers}, program.signature)


def tables_left(program: Program, pruned: Program) -> frozenset[str]:
    """Return the tables of `program` that still have a reader in `pruned`, the result of `apply_plan`."""
    return program.analysis.tables & pruned.parameters().keys()


def _slice_tensor(resizing: GraphResizer, node: fx.Node, shared: frozenset[str]) -> torch.Tensor:
    original, sliced = tensor_at(resizing.module, str(node.target)), resizing.resize_tensor(node)
    is_copied = sliced is original and str(node.target) not in shared
    sliced = sliced.detach().clone() if is_copied else sliced.detach()
    if isinstance(original, torch.nn.Parameter):
        return torch.nn.Parameter(sliced, requires_grad=original.requires_grad)
    return sliced
