"""Recurrent layers: a hidden unit is removed with its rows in every gate, its columns in the recurrence, and its state.

A masked unit remains zero: a GRU's is z·h + (1 - z)·tanh(0), an LSTM's cell f·c + i·tanh(0), an RNN's tanh(0) or relu(0),
each zero if the previous state is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import untagged_like
from recprune_export.channels.tags import TensorTags, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

_GATES: dict[Any, int] = {aten.gru.input: 3, aten.lstm.input: 4, aten.rnn_tanh.input: 1, aten.rnn_relu.input: 1}
_CELLS: dict[Any, int] = {
    aten.gru_cell.default: 3,
    aten.lstm_cell.default: 4,
    aten.rnn_tanh_cell.default: 1,
    aten.rnn_relu_cell.default: 1,
}
_UNIT = "it is a unit of a recurrent layer that keeps its width"


@rule(*_GATES)
def recurrent(walk: Walk, node: fx.Node) -> NodeTags:
    """`gru(x: L×B×I, h: 1×B×H, [W: 3H×I, U: 3H×H, b: 3H, c: 3H], ...)`: L×B×H, unit h with rows h, H+h and 2H+h.

    The layers of one call share the tensor of their initial states, so they lose the same units.
    """
    x = walk.tags(argument(node, "input"))
    assert x is not None
    states = _states(walk, node)
    weights = [tags for source in argument(node, "params") if (tags := walk.tags(source)) is not None]
    directions = 2 if argument(node, "bidirectional") else 1
    per_direction = len(weights) // (argument(node, "num_layers") * directions)
    hidden = states[0].removed_by[-1]
    if per_direction != (4 if argument(node, "has_biases") else 2) or len(states[-1].removed_by[-1]) != len(hidden):
        return _freeze(walk, node, [x, *states, *weights])
    flows, zero = x.removed_by[-1], x.zero_when_masked[-1]
    for layer in range(argument(node, "num_layers")):
        for direction in range(directions):
            start = (layer * directions + direction) * per_direction
            _tie(walk, node, flows, zero, hidden, weights[start : start + per_direction], _GATES[node.target])
        flows, zero = (torch.cat([hidden] * directions),) * 2
    _require_zero_states(walk, node, states)
    output = TensorTags((*_blank(walk, node, 0)[:2], flows), (*_blank(walk, node, 0)[:2], zero))
    last = TensorTags((*_blank(walk, node, 1)[:2], hidden), (*_blank(walk, node, 1)[:2], hidden))
    return (output, *[last] * len(states))


@rule(*_CELLS)
def recurrent_cell(walk: Walk, node: fx.Node) -> NodeTags:
    """`gru_cell(x: B×I, h: B×H, W: 3H×I, U: 3H×H, b, c)`: B×H, one step of the layer."""
    x = walk.tags(argument(node, "input"))
    assert x is not None
    states = _states(walk, node)
    weights = [tags for name in ("w_ih", "w_hh", "b_ih", "b_hh") if (tags := walk.tags(argument(node, name)))]
    hidden = states[0].removed_by[-1]
    _tie(walk, node, x.removed_by[-1], x.zero_when_masked[-1], hidden, weights, _CELLS[node.target])
    _require_zero_states(walk, node, states)
    blank = untagged_like(states[0].removed_by[0])
    step = TensorTags((blank, hidden), (blank, hidden))
    return (step, step) if node.target is aten.lstm_cell.default else step


def _states(walk: Walk, node: fx.Node) -> list[TensorTags]:
    hx = argument(node, "hx")
    sources = hx if isinstance(hx, (list, tuple)) else [hx]
    states = [tags for source in sources if (tags := walk.tags(source)) is not None]
    for other in states[1:]:
        walk.equate(node, states[0].removed_by[-1], other.removed_by[-1], _UNIT)
    for tags in states:
        for ids in tags.removed_by[:-1]:
            walk.freeze(node, ids, _UNIT)
    return states


def _tie(
    walk: Walk, node: fx.Node, flows: Tensor, zero: Tensor, hidden: Tensor, weights: Sequence[TensorTags], gates: int
) -> None:
    input_weight, recurrence, *biases = weights
    walk.equate(node, flows, input_weight.removed_by[1], "a recurrent layer reads it")
    walk.require_zero(
        node,
        flows,
        walk.sets.union(zero, input_weight.zero_when_masked[1]),
        "a recurrent layer reads it, and it would not be zero",
    )
    walk.equate(node, hidden, recurrence.removed_by[1], _UNIT)
    for tags in (input_weight, recurrence, *biases):
        for rows in tags.removed_by[0].chunk(gates):
            walk.equate(node, hidden, rows, _UNIT)


def _require_zero_states(walk: Walk, node: fx.Node, states: Sequence[TensorTags]) -> None:
    for tags in states:
        walk.require_zero(
            node, tags.removed_by[-1], tags.zero_when_masked[-1], "its first state would not be zero when masked"
        )


def _freeze(walk: Walk, node: fx.Node, everything: Sequence[TensorTags]) -> NodeTags:
    for tags in everything:
        for ids in tags.removed_by:
            walk.freeze(node, ids, "the recurrent layer projects its state")
    return walk.make_untagged(walk.env[node])


def _blank(walk: Walk, node: fx.Node, output: int) -> tuple[Tensor, ...]:
    return tuple(make_untagged_axis(size) for size in walk.env[node][output].shape)
