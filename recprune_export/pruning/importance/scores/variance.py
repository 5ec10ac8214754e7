"""Variance score: the next bias can replace a channel that hardly varies over requests."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import AxisChannels
from recprune_export.program.canonical import tensor_at
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


class _Moments(fx.Interpreter):
    """Sums and sums of squares of each channel, which can be added over batches and machines."""

    def __init__(self, inputs: ScoreInputs) -> None:
        super().__init__(inputs.program.module)
        self._inputs = inputs
        self._position = {
            c.identity: (g.name, position)
            for g in inputs.program.analysis.groups
            for position, c in enumerate(g.channels)
        }
        self._sums: dict[tuple[str, int], list[Tensor]] = {}
        self._count: dict[tuple[str, int], int] = {}

    def add(self, request: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.run(*(request[i.name] for i in self._inputs.program.signature.inputs))

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point() and _reads_parameter(n):
            for axis, removed_by in enumerate(self._inputs.program.analysis.removed_by[n.name]):
                if removed_by is not None:
                    self._accumulate(n.name, axis, value)
        return value

    def _accumulate(self, name: str, axis: int, value: Tensor) -> None:
        flat = value.movedim(axis, 0).flatten(1) if value.ndim > 1 else value[:, None]
        sums = self._sums.setdefault((name, axis), [torch.zeros(len(flat)), torch.zeros(len(flat))])
        sums[0] += flat.sum(1)
        sums[1] += flat.square().sum(1)
        self._count[name, axis] = self._count.get((name, axis), 0) + flat.shape[1]

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


def _reads_parameter(node: fx.Node) -> bool:
    module = node.graph.owning_module
    assert module is not None
    sources = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return any(isinstance(tensor_at(module, str(source.target)), torch.nn.Parameter) for source in sources)
