"""Quantization-aware fine-tuning: a program that reads its weights as the ONNX file will store them.

The forward pass rounds every weight that has few bits; the backward pass treats the rounding as the identity, the straight-through
estimator (Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons", section 3; quantization-aware training:
Jacob et al. 2018, section 3).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.rounding import round_layer_weight, round_table_rows
from recprune_export.stored_bits import StoredBits, has_one_scale

aten = torch.ops.aten


def with_rounded_weights(program: Program, bits: StoredBits) -> Program:
    """Return a program that shares the parameters of `program` and answers with rounded weights, trainable.

    Rows of a table are rounded where they are looked up, so that the time depends on the rows of a batch; a table that is
    also multiplied is rounded as a whole.
    """
    rounded = program.with_copied_graph()
    graph = rounded.module.graph
    for node in list(graph.nodes):
        name = str(node.target) if node.op == "get_attr" else ""
        if bits.get_table(name) < 32:
            scaled_by = _detach_single_column(graph, node, program.parameters()[name], bits.get_table(name))
            for value in _find_rounded_values(node):
                _insert_after(graph, value, _round_table_straight_through, bits.get_table(name), *scaled_by)
        elif name and bits.get_layer(name) < 32:
            _insert_after(graph, node, _round_layer_straight_through, bits.get_layer(name))
    rounded.module.recompile()
    return rounded


def _find_rounded_values(table: fx.Node) -> list[fx.Node]:
    """Return the looked-up rows of a table, or the whole table if other operators also read it."""
    readers = [reader for reader in table.users if reader.target is not aten.detach.default]
    all_lookups = all(r.target is aten.embedding.default and argument(r, "weight") is table for r in readers)
    return readers if all_lookups else [table]


def _detach_single_column(graph: fx.Graph, table: fx.Node, weight: Tensor, bits: int) -> list[fx.Node]:
    """Return a node with the whole table if all rows share one scale, which the looked-up rows do not determine; otherwise nothing."""
    if not has_one_scale(weight.shape[1], bits):
        return []
    with graph.inserting_after(table):
        return [graph.call_function(aten.detach.default, (table,))]


def _insert_after(
    graph: fx.Graph, value: fx.Node, function: Callable[..., Tensor], bits: int, *operands: fx.Node
) -> None:
    """Make all readers of `value` read the result of `function`, which is called with `value`, `bits` and `operands`."""
    arguments: tuple[Any, ...] = (value, bits, *operands)
    with graph.inserting_after(value):
        new = graph.call_function(function, arguments)
    new.meta.update(value.meta)
    value.replace_all_uses_with(new)
    new.args = arguments


def _round_table_straight_through(rows: Tensor, bits: int, table: Tensor | None = None) -> Tensor:
    """Round rows [..., D], scaled as those of `table`; the gradient is that of `rows`."""
    return rows + (round_table_rows(rows.detach(), bits, table) - rows.detach())


def _round_layer_straight_through(weight: Tensor, bits: int) -> Tensor:
    """Round a layer's weight [outputs, inputs]; the gradient is that of `weight`."""
    return weight + (round_layer_weight(weight.detach(), bits) - weight.detach())
