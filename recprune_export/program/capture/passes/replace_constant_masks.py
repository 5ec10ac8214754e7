"""Replacement of boolean masks that are the same for every request by lists of positions.

`masked_select(products, mask)` with a constant mask is the usual way to select pairs of fields. Neither `torch.export` nor
the ONNX exporter can infer the size of its result, although it is the number of ones in the mask.
"""

from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import add_constant, remove_dead_code
from recprune_export.program.capture.passes.row_constants import evaluate_for_batch_size
from recprune_export.program.nodes import arguments

aten = torch.ops.aten

BATCH_OF_THE_TRIAL = 3


def find_boolean_indexing(module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that index with a boolean mask."""
    return [node for node in module.graph.nodes if _masks(node)]


def find_constant_indexing(module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that index with a boolean mask that is the same for every request: their size is a number."""
    return [
        node
        for node in find_boolean_indexing(module)
        if all(
            all(isinstance(size, int) for size in mask.meta["val"].shape)
            and evaluate_for_batch_size(mask, BATCH_OF_THE_TRIAL) is not None
            for mask in _masks(node)
        )
    ]


def replace_constant_masks(module: fx.GraphModule) -> bool:
    """Replace each indexing by a constant mask by an indexing by positions, in place; return whether there was one.

    Shapes in the graph are not updated: `recapture` it.
    """
    replaced = False
    for node in find_boolean_indexing(module):
        masks = {mask: evaluate_for_batch_size(mask, BATCH_OF_THE_TRIAL) for mask in _masks(node)}
        if any(value is None for value in masks.values()):
            continue
        with module.graph.inserting_before(node):
            new = _select_by_positions(module, node, masks) if _is_select(node) else _index(module, node, masks)
        if new is not None:
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
            replaced = True
    remove_dead_code(module)
    return replaced


def _is_select(node: fx.Node) -> bool:
    return node.target is aten.masked_select.default


def _masks(node: fx.Node) -> list[fx.Node]:
    if _is_select(node):
        return [arguments(node)[1]]
    if node.target is not aten.index.Tensor:
        return []
    return [i for i in arguments(node)[1] if i is not None and i.meta["val"].dtype == torch.bool]


def _select_by_positions(module: fx.GraphModule, node: fx.Node, masks: dict[fx.Node, Any]) -> fx.Node | None:
    """Rewrite `masked_select(x: B×F×F, m: F×F)` as the same positions of every row, flattened."""
    x, mask = arguments(node)
    shape = list(x.meta["val"].shape)
    if len(shape) < 2 or isinstance(shape[0], int) or not all(isinstance(size, int) for size in shape[1:]):
        return None
    rows: Tensor = masks[mask].broadcast_to([BATCH_OF_THE_TRIAL, *shape[1:]])
    if bool((rows != rows[:1]).any()):
        return None
    positions = add_constant(module, f"positions_{node.name}", rows[0].flatten().nonzero().flatten())
    flat = module.graph.call_function(aten.flatten.using_ints, (x, 1, -1))
    selected = module.graph.call_function(aten.index_select.default, (flat, 1, positions))
    return module.graph.call_function(aten.flatten.using_ints, (selected, 0, -1))


def _index(module: fx.GraphModule, node: fx.Node, masks: dict[fx.Node, Any]) -> fx.Node | None:
    """Rewrite `x[:, m]` with a mask of static shape as the positions of its ones, an index for each of its axes."""
    x, indices = arguments(node)
    result: list[Any] = []
    for index in indices:
        if index not in masks:
            result.append(index)
            continue
        if not all(isinstance(size, int) for size in index.meta["val"].shape):
            return None
        result += [
            add_constant(module, f"positions_{node.name}", positions)
            for positions in masks[index].nonzero(as_tuple=True)
        ]
    return module.graph.call_function(aten.index.Tensor, (x, result))
