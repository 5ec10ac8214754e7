"""`apply_plan`: the same program with fewer channels."""

import torch
from torch import fx

from recprune_export.channels.liveness import find_live_nodes
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program

# Importing these registers how their operators are resized.
from recprune_export.pruning.apply import resize_fields, resize_normalization  # noqa: F401
from recprune_export.pruning.apply.masking import MaskedValues
from recprune_export.pruning.apply.resize import GraphResizer, resize
from recprune_export.pruning.plan import Plan


def apply_plan(program: Program, plan: Plan) -> Program:
    """Return a smaller program of its own parameters; `program` is left as it is.

    Parameters are sliced once, operators that name sizes are given the new ones, and shapes are propagated, so that
    each of them is checked. An input of which nothing is looked up any more stays, and is ignored. The same
    plan gives the same program, to the bit.
    """
    masked = MaskedValues(program, plan)
    resizing = GraphResizer(program, plan.removed(program.analysis), masked)
    left = find_live_nodes(program.module.graph, resizing.remaining_operands)
    tensors: dict[str, torch.Tensor] = {}
    for node in program.module.graph.nodes:
        if node not in left and node.op != "placeholder":
            continue
        resizing.new[node] = resize(resizing, node)
        if node.op == "get_attr":
            tensors[str(node.target)] = _slice_tensor(resizing, node)
    return Program.from_graph(resizing.graph, {**tensors, **resizing.buffers}, program.signature)


def tables_left(program: Program, pruned: Program) -> frozenset[str]:
    """Return the tables of `pruned`, which `apply_plan` made of `program`: those that still have a reader."""
    return program.analysis.tables & pruned.parameters().keys()


def _slice_tensor(resizing: GraphResizer, node: fx.Node) -> torch.Tensor:
    original, kept = tensor_at(resizing.module, str(node.target)), resizing.resize_tensor(node)
    kept = kept.detach().clone() if kept is original else kept.detach()
    if isinstance(original, torch.nn.Parameter):
        return torch.nn.Parameter(kept, requires_grad=original.requires_grad)
    return kept
