"""The original program with zeros in place of what a plan removes: what pruning must not differ from."""

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program, example_tensors
from recprune_export.pruning.plan import Plan


def mask(program: Program, analysis: Analysis, plan: Plan) -> Program:
    """Return a copy of `program` with zeros in every parameter slice that the plan removes."""
    masked = program.copy()
    removed = plan.removed(analysis)
    indices: dict[tuple[str, int], list[int]] = {}
    for group in analysis.groups:
        for channel in group.channels:
            if channel.identity in removed:
                for s in channel.slices:
                    indices.setdefault((s.tensor, s.axis), []).append(s.index)
    with torch.no_grad():
        for (name, axis), gone in indices.items():
            tensor = tensor_at(masked.module, name)
            if isinstance(tensor, torch.nn.Parameter):
                tensor.index_fill_(axis, torch.tensor(gone), 0.0)
    return masked


def in_float64(program: Program) -> Program:
    """Return a copy that computes in double precision, whatever precision its graph names."""
    double = program.copy()
    double.module.double()
    for node in double.module.graph.nodes:
        wide = fx.node.map_aggregate(
            (node.args, dict(node.kwargs)), lambda a: torch.float64 if a is torch.float32 else a
        )
        node.args, node.kwargs = wide
    double.module.recompile()
    return double


def widen(tensor: Tensor) -> Tensor:
    """Return floats in double precision, others as they are."""
    return tensor.double() if tensor.is_floating_point() else tensor


class MaskedValues:
    """What nodes of `program` compute in float64 when the plan is masked, for one request; run when first asked."""

    def __init__(self, program: Program, analysis: Analysis, plan: Plan) -> None:
        self._program, self._analysis, self._plan = program, analysis, plan
        self._values: dict[str, Tensor] = {}

    def __call__(self, node: fx.Node) -> Tensor:
        """Return the value of a node, found by its name."""
        if not self._values:
            double = in_float64(mask(self._program, self._analysis, self._plan))
            tensors = (widen(t) for t in example_tensors(self._program.signature, batch=2))
            recorder = _Recorder(double.module)
            with torch.no_grad():
                recorder.run(*tensors)
            self._values = recorder.values
        return self._values[node.name]


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value
        return value
