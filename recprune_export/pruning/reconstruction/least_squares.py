"""Least-squares reconstruction of a pruned program's linear layers on calibration data.

For a layer with inputs A in the pruned program and outputs Y in the dense one: W' = W + (Y - W A) Aᵀ (A Aᵀ + λI)⁻¹, bias
included, so that the bias takes up the mean of the removed inputs. Layers are fitted in the order of the graph, each on
the outputs of the layers fitted before it (ThiNet: Luo et al. 2017, section 3.3; Optimal Brain Compression: Frantar and
Alistarh 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.data.batch import Batch
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

aten = torch.ops.aten


@dataclass(frozen=True)
class _LinearCalls:
    """The calls of one weight in one program."""

    weight: str
    bias: str | None
    calls: tuple[str, ...]


def reconstruct_layers(
    dense: Program, plan: Plan, pruned: Program, batches: Sequence[Batch]
) -> tuple[LayerReconstruction, ...]:
    """Refit the linear layers of `pruned` in place, except those that would not improve on held-out batches.

    `pruned` is `dense` after `plan`, whose transforms may have been applied before. Batch-norm statistics are
    recalibrated in the same order, where that improves them.
    """
    removed = make_mask(dense.analysis, plan.removed(dense.analysis)).slices
    dense_layers = {layer.weight: layer for layer in _layers(dense)}
    results = []
    fit_batches, held_out = _split(batches)
    norms = find_batch_norms(dense)
    layers = {layer.calls[0]: layer for layer in _layers(pruned)}
    pruned_norms = {norm.call: name for name, norm in find_batch_norms(pruned).items() if name in norms}
    for node in pruned.module.graph.nodes:
        layer = layers.get(node.name)
        before = dense_layers.get(layer.weight) if layer else None
        if layer and before and len(before.calls) == len(layer.calls):
            outputs = _find_remaining_outputs(dense, layer.weight, removed)
            results.append(_refit_layer(dense, pruned, before, layer, outputs, fit_batches, held_out))
        elif node.name in pruned_norms:
            norm = norms[pruned_norms[node.name]]
            results.append(recalibrate_batch_norm(dense, plan, pruned, norm, node.name, fit_batches, held_out))
    return tuple(result for result in results if result is not None)


def _split(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Sequence[Batch]]:
    period = 4  # every fourth batch is held out to decide whether a layer has improved
    held_out = [batch for number, batch in enumerate(batches) if number % period == period - 1]
    fit_batches = [batch for number, batch in enumerate(batches) if number % period != period - 1]
    return fit_batches or batches, held_out or batches


def _layers(program: Program) -> list[_LinearCalls]:
    """Return the linear layers whose weight has no other reader and whose input is no constant, in graph order."""
    trained = program.parameters().keys()
    calls: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        weight = argument(node, "weight") if node.target is aten.linear.default else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and argument(node, "input").op != "get_attr":
            calls.setdefault(str(weight.target), []).append(node)
    layers = []
    for name, nodes in calls.items():
        weight, bias = argument(nodes[0], "weight"), argument(nodes[0], "bias")
        other_readers = set(weight.users) - set(nodes)
        if not other_readers and (bias is None or (bias.op == "get_attr" and set(bias.users) <= set(nodes))):
            target = None if bias is None else str(bias.target)
            if name not in trained or (target is not None and target not in trained):
                continue
            layers.append(_LinearCalls(name, target, tuple(node.name for node in nodes)))
    return layers


def _find_remaining_outputs(dense: Program, weight: str, removed_slices: Mapping[tuple[str, int], Tensor]) -> Tensor:
    rows = dense.parameters()[weight].shape[0]
    removed = set(removed_slices[weight, 0].tolist()) if (weight, 0) in removed_slices else set()
    return torch.tensor([row for row in range(rows) if row not in removed])


def _refit_layer(
    dense: Program,
    pruned: Program,
    before: _LinearCalls,
    layer: _LinearCalls,
    outputs: Tensor,
    fit_batches: Sequence[Batch],
    held_out: Sequence[Batch],
) -> LayerReconstruction | None:
    # Of the mean of the diagonal: keeps weights near their old values where the data does not determine them.
    ridge_fraction = 1e-4
    parameters = pruned.parameters()
    weight = parameters[layer.weight]
    bias = parameters[layer.bias] if layer.bias is not None else None
    if len(outputs) != weight.shape[0]:
        return None
    equations = _normal_equations(dense, pruned, before, layer, outputs, fit_batches, bias is not None)
    if equations is None:
        return None
    gram, cross, _ = equations
    weights = torch.cat([weight.detach().double(), bias.detach().double()[:, None]], 1) if bias is not None else None
    weights = weight.detach().double() if weights is None else weights
    ridge = ridge_fraction * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    step = torch.linalg.solve(gram + ridge, cross - gram @ weights.T).T
    equations = _normal_equations(dense, pruned, before, layer, outputs, held_out, bias is not None)
    assert equations is not None
    gram, cross, rows = equations
    old, new = (_gain(gram, cross, candidate) for candidate in (weights, weights + step))
    if rows[0] == 0 or not new < old:
        return LayerReconstruction(
            layer.weight, float((old + rows[1]) / max(rows[0], 1)), float((old + rows[1]) / max(rows[0], 1))
        )
    with torch.no_grad():
        changed = (weights + step).to(weight.dtype)
        weight.copy_(changed[:, : weight.shape[1]])
        if bias is not None:
            bias.copy_(changed[:, -1])
    return LayerReconstruction(layer.weight, float((old + rows[1]) / rows[0]), float((new + rows[1]) / rows[0]))


def _gain(gram: Tensor, cross: Tensor, weight: Tensor) -> Tensor:
    """Return the squared error without its constant, |Y|²."""
    return ((weight @ gram) * weight).sum() - 2.0 * (weight * cross.T).sum()


def _normal_equations(
    dense: Program,
    pruned: Program,
    before: _LinearCalls,
    layer: _LinearCalls,
    remaining: Tensor,
    batches: Sequence[Batch],
    with_bias: bool,
) -> tuple[Tensor, Tensor, tuple[int, float]] | None:
    """Return sums over rows: A Aᵀ [K, K], A Yᵀ [K, M], and (count, squared sum) of the outputs, for K inputs with bias.

    None where the layer has fewer rows than before, because channels of another axis of its input were removed.
    """
    gram = cross = torch.zeros(())
    count, squares = 0, 0.0
    for request, _ in batches:
        outputs = record_values(dense, request, before.calls)
        inputs = record_call_inputs(pruned, request, layer.calls)
        for y, a in zip((outputs[name] for name in before.calls), inputs, strict=True):
            flat = a.reshape(-1, a.shape[-1]).double()
            flat = torch.cat([flat, torch.ones(len(flat), 1, dtype=flat.dtype)], 1) if with_bias else flat
            expected = y.reshape(-1, y.shape[-1]).double()[:, remaining]
            if len(expected) != len(flat):
                return None
            gram, cross = gram + flat.T @ flat, cross + flat.T @ expected
            count, squares = count + expected.numel(), squares + float(expected.square().sum())
    return gram, cross, (count, squares)
