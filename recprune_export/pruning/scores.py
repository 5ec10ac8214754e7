"""Scores: which channels of each group go first.

A score takes `ScoreInputs` and returns one number for each channel, `{group name: Tensor[width]}`; the lowest go first. To
add one, write the function and decorate it. `output-error` looks deeper and gives whole rankings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis, AxisSets
from recprune_export.channels.groups import Group
from recprune_export.errors import UsageError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program
from recprune_export.pruning.moments import Batch, Probe
from recprune_export.pruning.output_error import rank_by_output_error
from recprune_export.pruning.ranking import Ranking, rank_by

Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class ScoreInputs:
    """What a score may look at: the dense program, its groups, batches of calibration data, and the loss on them."""

    program: Program
    analysis: Analysis
    batches: Sequence[Batch]
    loss: Loss
    probe: Probe
    seed: int = 0


Score = Callable[[ScoreInputs], dict[str, Tensor]]
SCORES: dict[str, Callable[[ScoreInputs], dict[str, Ranking]]] = {}


def score(name: str) -> Callable[[Score], Score]:
    """Register a score under the name by which it is asked for."""

    def register(function: Score) -> Score:
        SCORES[name] = lambda inputs: rank_by(function(inputs))
        return function

    return register


def rankings_by(name: str, inputs: ScoreInputs) -> dict[str, Ranking]:
    """Rank the channels of every group. Raises `UsageError` for a name that is not known."""
    if name not in SCORES:
        raise UsageError(f"There is no score '{name}'; choose one of {', '.join(sorted(SCORES))}.")
    return SCORES[name](inputs)


@score("random")
def random(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Chance: the floor that every other score has to beat."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return {g.name: torch.rand(g.width, generator=generator) for g in inputs.analysis.groups}


@score("magnitude-l1")
def magnitude_l1(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Sum of absolute weights of the channel's slices (Li et al. 2017, "Pruning Filters for Efficient ConvNets", 3.1)."""
    return _over_weights(inputs, lambda weight: weight.abs())


@score("magnitude-l2")
def magnitude_l2(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Sum of squared weights of the channel's slices, each tensor relative to its mean square.

    Without that a large table would outvote the layers it is tied to.
    """
    return _over_weights(inputs, lambda weight: weight.square() / weight.square().mean().clamp_min(1e-30))


@score("variance")
def variance(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Variance over calibration requests of what the channel's tables and layers put out, summed over them.

    Rows of a table count as often as they are looked up.
    """
    moments = _Moments(inputs)
    for request, _ in inputs.batches:
        moments.add(request)
    return moments.variances()


@score("taylor")
def taylor(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Squared change of the loss, to first order, when the channel is zeroed, averaged over batches.

    (Σ w·∂L/∂w)² for each slice, summed over slices: Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", equations 7 and 8, in their group form.
    """
    parameters = inputs.program.parameters()
    totals = {group.name: torch.zeros(group.width) for group in inputs.analysis.groups}
    for request, labels in inputs.batches:
        loss = inputs.loss(inputs.program(request), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            sensitivity = {n: p * g for (n, p), g in zip(parameters.items(), gradients, strict=True) if g is not None}
            for group in inputs.analysis.groups:
                totals[group.name] += _per_channel(group, sensitivity, square=True)
    return totals


SCORES["output-error"] = lambda inputs: rank_by_output_error(
    inputs.program, inputs.analysis, inputs.batches, inputs.probe, inputs.seed
)


def _over_weights(inputs: ScoreInputs, measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        parameters = inputs.program.parameters()
        touched = {tensor for group in inputs.analysis.groups for tensor, _ in group.axes()}
        measured = {name: measure(p) for name, p in parameters.items() if name in touched}
        return {g.name: _per_channel(g, measured, square=False) for g in inputs.analysis.groups}


def _per_channel(group: Group, values: Mapping[str, Tensor], square: bool) -> Tensor:
    """Add up, for each channel, the sums of `values` over its slices (or the squares of those sums)."""
    total = torch.zeros(group.width)
    for tensor, axis in group.axes():
        if tensor not in values:
            continue
        value = values[tensor]
        sums = value.sum([a for a in range(value.ndim) if a != axis]) if value.ndim > 1 else value
        sums = sums.square() if square else sums
        channel, index = _positions(group, tensor, axis)
        total.index_add_(0, channel, sums[index].to(total.dtype))
    return total


def _positions(group: Group, tensor: str, axis: int) -> tuple[Tensor, Tensor]:
    pairs = [
        (position, s.index)
        for position, channel in enumerate(group.channels)
        for s in channel.slices
        if (s.tensor, s.axis) == (tensor, axis)
    ]
    channel, index = torch.tensor(pairs, dtype=torch.int64).T
    return channel, index


class _Moments(fx.Interpreter):
    """Sums and sums of squares of each produced channel, so that batches, and later machines, can be added up."""

    def __init__(self, inputs: ScoreInputs) -> None:
        super().__init__(inputs.program.module)
        self._inputs = inputs
        self._position = {
            c.identity: (g.name, position) for g in inputs.analysis.groups for position, c in enumerate(g.channels)
        }
        self._sums: dict[tuple[str, int], list[Tensor]] = {}
        self._count: dict[tuple[str, int], int] = {}

    def add(self, request: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.run(*(request[i.name] for i in self._inputs.program.signature.inputs))

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point() and _reads_parameter(n):
            for axis, removed_by in enumerate(self._inputs.analysis.removed_by[n.name]):
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
        totals = {group.name: torch.zeros(group.width) for group in self._inputs.analysis.groups}
        for (name, axis), (first, second) in self._sums.items():
            count = self._count[name, axis]
            spread = (second / count - (first / count).square()).clamp_min(0.0)
            removed_by = cast(AxisSets, self._inputs.analysis.removed_by[name])[axis]
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
