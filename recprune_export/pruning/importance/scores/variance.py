"""Variance score: the next bias can replace a channel that hardly varies over requests."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis, AxisChannels
from recprune_export.program.canonical import tensor_at
from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs


def variance(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Return the variance over calibration requests of the outputs of a channel's tables and layers, summed over them.

    Rows of a table count as often as they are looked up (for outputs of hidden units: Polyak and Wolf 2015,
    "Channel-Level Acceleration of Deep Face Representations", section 3.1).
    """
    moments = _Moments(inputs)
    for request, _ in inputs.batches:
        moments.add(request)
    return moments.variances()


class _Moments:
    """Sums and sums of squares of each channel, which can be added over batches and machines."""

    def __init__(self, inputs: ScoreInputs) -> None:
        self._inputs = inputs
        self._position = {
            c.identity: (g.name, position)
            for g in inputs.program.analysis.groups
            for position, c in enumerate(g.channels)
        }
        self._sums: dict[tuple[str, int], list[Tensor]] = {}
        self._count: dict[tuple[str, int], int] = {}
        nodes = inputs.program.module.graph.nodes
        producers = [n.name for n in nodes if n.op == "call_function" and _reads_parameter(inputs.program.module, n)]
        self._recorder = ValueRecorder(
            inputs.program, producers, summarize=partial(_sum_by_channel, inputs.program.analysis)
        )

    def add(self, request: Mapping[str, Tensor]) -> None:
        for name, by_axis in self._recorder(request).values.items():
            for axis, (first, second, count) in by_axis.items():
                sums = self._sums.setdefault((name, axis), [torch.zeros(len(first)), torch.zeros(len(first))])
                sums[0] += first
                sums[1] += second
                self._count[name, axis] = self._count.get((name, axis), 0) + count

    def variances(self) -> dict[str, Tensor]:
        totals = {group.name: torch.zeros(group.width) for group in self._inputs.program.analysis.groups}
        for (name, axis), (first, second) in self._sums.items():
            count = self._count[name, axis]
            spread = (second / count - (first / count).square()).clamp_min(0.0)
            removed_by = cast(AxisChannels, self._inputs.program.analysis.removed_by[name])[axis]
            for index, channels in enumerate(removed_by or ()):
                for channel in channels:
                    group, position = self._position[channel]
                    totals[group][position] += float(spread[index])
        return totals


def _sum_by_channel(analysis: Analysis, node: fx.Node, value: Any) -> dict[int, tuple[Tensor, Tensor, int]]:
    """Return for each axis with channels the sum and sum of squares of each index, and the number of summands."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return {}
    by_axis = {}
    for axis, removed_by in enumerate(analysis.removed_by[node.name]):
        if removed_by is not None:
            flat = value.movedim(axis, 0).flatten(1) if value.ndim > 1 else value[:, None]
            by_axis[axis] = flat.sum(1), flat.square().sum(1), flat.shape[1]
    return by_axis


def _reads_parameter(module: fx.GraphModule, node: fx.Node) -> bool:
    sources = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return any(isinstance(tensor_at(module, str(source.target)), torch.nn.Parameter) for source in sources)
