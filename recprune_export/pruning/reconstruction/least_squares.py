"""Refit: linear layers of a pruned program learn to answer as they did before, by least squares on calibration data.

For a layer whose inputs a (of the pruned program) stand for what the dense one had, and whose outputs y in the dense one
are known: W' = W + (Y - W A) Aᵀ (A Aᵀ + λI)⁻¹, bias included, so that the mean of what went is in the bias. Layers are
taken in the order of the graph, each on the inputs that the layers before it now give (ThiNet: Luo et al. 2017, section
3.3; Optimal Brain Compression: Frantar and Alistarh 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.recorder import record_values
from recprune_export.pruning.apply.masking import make_mask
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.reconstruction.batch_norm import (
    LayerReconstruction,
    find_batch_norms,
    recalibrate_batch_norm,
    record_call_inputs,
)
from recprune_export.pruning.statistics.moments import Batch

aten = torch.ops.aten

RIDGE = 1e-4  # of the mean of the diagonal: weights stay near what they were where the data says little
HELD_OUT = 4  # of how many batches one decides whether a layer is better off


@dataclass(frozen=True)
class _LinearCalls:
    """The calls of one weight in one program."""

    weight: str
    bias: str | None
    calls: tuple[str, ...]


def reconstruct_layers(
    dense: Program, plan: Plan, pruned: Program, batches: Sequence[Batch]
) -> tuple[LayerReconstruction, ...]:
    """Refit the linear layers of `pruned` in place; a layer that would not be better on held-out batches stays.

    `pruned` is `dense` after `plan`, whose transforms may have been applied before. Statistics of batch-norms are taken
    anew on the way, where they are better as well.
    """
    gone = make_mask(dense.analysis, plan.removed(dense.analysis)).slices
    known = {layer.weight: layer for layer in _layers(dense)}
    results = []
    fitting, judging = _divide(batches)
    norms = find_batch_norms(dense)
    layers = {layer.calls[0]: layer for layer in _layers(pruned)}
    own_norms = {norm.call: name for name, norm in find_batch_norms(pruned).items() if name in norms}
    for node in pruned.module.graph.nodes:
        layer = layers.get(node.name)
        before = known.get(layer.weight) if layer else None
        if layer and before and len(before.calls) == len(layer.calls):
            kept = _find_remaining_outputs(dense, layer.weight, gone)
            results.append(_refit_layer(dense, pruned, before, layer, kept, fitting, judging))
        elif node.name in own_norms:
            norm = norms[own_norms[node.name]]
            results.append(recalibrate_batch_norm(dense, plan, pruned, norm, node.name, fitting, judging))
    return tuple(result for result in results if result is not None)


def _divide(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Sequence[Batch]]:
    judging = [batch for number, batch in enumerate(batches) if number % HELD_OUT == HELD_OUT - 1]
    fitting = [batch for number, batch in enumerate(batches) if number % HELD_OUT != HELD_OUT - 1]
    return fitting or batches, judging or batches


def _layers(program: Program) -> list[_LinearCalls]:
    """Linear layers with a weight of their own that is read nowhere else, and no constant, in the order of the graph."""
    trained = program.parameters().keys()
    calls: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        weight = argument(node, "weight") if node.target is aten.linear.default else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and argument(node, "input").op != "get_attr":
            calls.setdefault(str(weight.target), []).append(node)
    layers = []
    for name, nodes in calls.items():
        weight, bias = argument(nodes[0], "weight"), argument(nodes[0], "bias")
        read_by_others = set(weight.users) - set(nodes)
        if not read_by_others and (bias is None or (bias.op == "get_attr" and set(bias.users) <= set(nodes))):
            target = None if bias is None else str(bias.target)
            if name not in trained or (target is not None and target not in trained):
                continue
            layers.append(_LinearCalls(name, target, tuple(node.name for node in nodes)))
    return layers


def _find_remaining_outputs(dense: Program, weight: str, gone: Mapping[tuple[str, int], Tensor]) -> Tensor:
    rows = dense.parameters()[weight].shape[0]
    removed = set(gone[weight, 0].tolist()) if (weight, 0) in gone else set()
    return torch.tensor([row for row in range(rows) if row not in removed])


def _refit_layer(
    dense: Program,
    pruned: Program,
    before: _LinearCalls,
    layer: _LinearCalls,
    kept: Tensor,
    fitting: Sequence[Batch],
    judging: Sequence[Batch],
) -> LayerReconstruction | None:
    parameters = pruned.parameters()
    weight = parameters[layer.weight]
    bias = parameters[layer.bias] if layer.bias is not None else None
    if len(kept) != weight.shape[0]:
        return None
    equations = _normal_equations(dense, pruned, before, layer, kept, fitting, bias is not None)
    if equations is None:
        return None
    gram, cross, _ = equations
    now = torch.cat([weight.detach().double(), bias.detach().double()[:, None]], 1) if bias is not None else None
    now = weight.detach().double() if now is None else now
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    step = torch.linalg.solve(gram + ridge, cross - gram @ now.T).T
    equations = _normal_equations(dense, pruned, before, layer, kept, judging, bias is not None)
    assert equations is not None
    gram, cross, rows = equations
    old, new = (_gain(gram, cross, candidate) for candidate in (now, now + step))
    if rows[0] == 0 or not new < old:
        return LayerReconstruction(
            layer.weight, float((old + rows[1]) / max(rows[0], 1)), float((old + rows[1]) / max(rows[0], 1))
        )
    with torch.no_grad():
        changed = (now + step).to(weight.dtype)
        weight.copy_(changed[:, : weight.shape[1]])
        if bias is not None:
            bias.copy_(changed[:, -1])
    return LayerReconstruction(layer.weight, float((old + rows[1]) / rows[0]), float((new + rows[1]) / rows[0]))


def _gain(gram: Tensor, cross: Tensor, weight: Tensor) -> Tensor:
    """The squared error without its constant, |Y|²."""
    return ((weight @ gram) * weight).sum() - 2.0 * (weight * cross.T).sum()


def _normal_equations(
    dense: Program,
    pruned: Program,
    before: _LinearCalls,
    layer: _LinearCalls,
    kept: Tensor,
    batches: Sequence[Batch],
    with_bias: bool,
) -> tuple[Tensor, Tensor, tuple[int, float]] | None:
    """Sums over rows: A Aᵀ [K, K], A Yᵀ [K, M], and the number of outputs with their squares, for K inputs with bias.

    None where the layer has fewer rows than before, since channels went on another axis of what it reads.
    """
    gram = cross = torch.zeros(())
    count, squares = 0, 0.0
    for request, _ in batches:
        outputs = record_values(dense, request, before.calls)
        inputs = record_call_inputs(pruned, request, layer.calls)
        for y, a in zip((outputs[name] for name in before.calls), inputs, strict=True):
            flat = a.reshape(-1, a.shape[-1]).double()
            flat = torch.cat([flat, torch.ones(len(flat), 1, dtype=flat.dtype)], 1) if with_bias else flat
            wanted = y.reshape(-1, y.shape[-1]).double()[:, kept]
            if len(wanted) != len(flat):
                return None
            gram, cross = gram + flat.T @ flat, cross + flat.T @ wanted
            count, squares = count + wanted.numel(), squares + float(wanted.square().sum())
    return gram, cross, (count, squares)
