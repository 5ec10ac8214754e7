"""The masked program: the original program with zeros in place of removed slices, the reference for pruning.

It runs in double precision without copying tables: rows are converted and masked after the lookup. A removed field is
masked where it is looked up, because other fields may use its table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.pruning.plan import Plan

aten = torch.ops.aten


@dataclass(frozen=True)
class Mask:
    """Masked indices by (tensor, axis), and masked ids of each row by the name of the lookup's node."""

    slices: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    ids: Mapping[str, Tensor] = field(default_factory=dict)


_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def make_mask(analysis: Analysis, removed: frozenset[int]) -> Mask:
    """Return the mask of the removed channels."""
    indices: dict[tuple[str, int], list[int]] = {}
    fields: list[int] = []
    for group in analysis.groups:
        for channel in group.channels:
            if channel.identity in removed:
                for s in channel.slices:
                    indices.setdefault((s.tensor, s.axis), []).append(s.index)
                fields += [analysis.fields.ordered.index(f) for f in channel.fields] if analysis.fields else []
    slices = {axis: torch.tensor(positions) for axis, positions in indices.items()}
    lookups = analysis.fields.lookups if analysis.fields and fields else {}
    return Mask(slices, {name: torch.isin(numbers, torch.tensor(fields)) for name, numbers in lookups.items()})


class Float64Interpreter(fx.Interpreter):
    """An interpreter that runs a program in float64, regardless of the dtypes in its graph, with zeros under a `mask`.

    Of tables only the rows that a request looks up are converted, so memory does not depend on their length.
    With `keep_values`, `values` holds the value of each node. It is not a `ValueRecorder`, because it changes dtypes and weights during
    the run.
    """

    def __init__(self, program: Program, mask: Mask | None = None, *, keep_values: bool = False) -> None:
        super().__init__(program.module)
        self._program = program
        self.values: dict[str, Tensor] = {}
        self._gone = mask or Mask()
        self._keep_values = keep_values
        self._looked_up = {node for node in program.module.graph.nodes if self._is_only_looked_up(node)}

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Answer a request, with floats converted to float64."""
        with torch.no_grad():
            answers: tuple[Tensor, ...] = self.run(*(_widen(t) for t in tensors))
        return answers

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and n not in self._looked_up and isinstance(value, Tensor):
            value = _widen(self._masked(str(n.target), value))
        if n.op == "call_function" and isinstance(value, Tensor):
            value = _widen(value)  # a zero fill specifies no precision
        table = _looked_up_table(n)
        if table is not None and table in self._looked_up:
            value = self._masked_rows(str(table.target), value)
        ids = self._gone.ids.get(n.name)
        if ids is not None:
            value = value.masked_fill(ids.reshape(1, *ids.shape, *[1] * (value.ndim - 1 - ids.ndim)), 0.0)
        if self._keep_values and isinstance(value, Tensor):
            self.values[n.name] = value
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        wide_args, wide_kwargs = fx.node.map_aggregate(
            (args, dict(kwargs)), lambda a: _WIDER.get(a, a) if isinstance(a, torch.dtype) else a
        )
        return super().call_function(target, wide_args, wide_kwargs)

    def _is_only_looked_up(self, node: fx.Node) -> bool:
        if node.op != "get_attr" or (str(node.target), 0) in self._gone.slices:
            return False
        is_weight = isinstance(tensor_at(self._program.module, str(node.target)), torch.nn.Parameter)
        return all(
            _looked_up_table(user) is node and (is_weight or user.target is aten.embedding.default)
            for user in node.users
        )

    def _masked_rows(self, name: str, rows: Tensor) -> Tensor:
        """Return looked-up rows, [..., *shape of a row], with zeros in the masked slices of the table."""
        ndim = tensor_at(self._program.module, name).ndim
        for axis in range(1, ndim):
            gone = self._gone.slices.get((name, axis))
            rows = rows if gone is None else rows.index_fill(axis - ndim, gone, 0.0)
        return rows

    def _masked(self, name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            return tensor
        for axis in range(tensor.ndim):
            gone = self._gone.slices.get((name, axis))
            tensor = tensor if gone is None else tensor.index_fill(axis, gone, 0.0)
        return tensor


def _looked_up_table(node: fx.Node) -> fx.Node | None:
    """Return the tensor of which a node looks up whole rows; None for another operator."""
    if node.target is aten.embedding.default:
        table: fx.Node = arguments(node)[0]
        return table
    if node.target is not aten.index.Tensor or len(arguments(node)[1]) != 1:
        return None
    ids = arguments(node)[1][0].meta.get("val")
    return arguments(node)[0] if isinstance(ids, Tensor) and ids.dtype != torch.bool else None


def _widen(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


class MaskedValues:
    """The float64 values of the nodes of the masked program for one request, computed on first use."""

    def __init__(self, program: Program, plan: Plan) -> None:
        self._program, self._plan = program, plan
        self._values: dict[str, Tensor] = {}

    def __call__(self, node: fx.Node) -> Tensor:
        """Return the value of a node."""
        if not self._values:
            mask = make_mask(self._program.analysis, self._plan.removed(self._program.analysis))
            original = Float64Interpreter(self._program, mask, keep_values=True)
            original(*sample_request_tensors(self._program.signature, batch=2))
            self._values = original.values
        return self._values[node.name]
