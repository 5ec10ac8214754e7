"""Least-squares reconstruction of a pruned program's linear layers on calibration data.

For a layer with inputs A in the pruned program and outputs Y in the dense model: W' = W + (Y - W A) Aᵀ (A Aᵀ + λI)⁻¹, bias
included, so that the bias takes up the mean of the removed inputs. Layers are fitted in the order of the graph, each on
the outputs of the layers fitted before it (ThiNet: Luo et al. 2017, section 3.3; Optimal Brain Compression: Frantar and
Alistarh 2022).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.data.batch import Batch
from recprune_export.distributed.collectives import sum_integer, sum_over_ranks
from recprune_export.distributed.gradients import sum_tensors
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.requests.share_request import share_batch
from recprune_export.pruning.apply.masking import make_mask
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.reconstruction.batch_norm import (
    BatchNormCall,
    LayerReconstruction,
    find_batch_norms,
    recalibrate_batch_norm,
)
from recprune_export.pruning.reconstruction.paired_runs import CallSample, PairedRuns, SplitSamples
from recprune_export.pruning.statistics.moments import add_products, mirror_upper

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

    The time is that of one forward pass of each program on `batches`, and for a layer of K inputs and M outputs that is called
    with N rows, O(N K (K + M) + K³). Memory: the values of both programs that are live at one layer, for all batches. With several
    processes, each takes its share of every batch, and the sums of all are added in float64.
    """
    removed = make_mask(dense.analysis, plan.removed(dense.analysis)).slices
    pairs, norms = _find_pairs(dense, pruned), _find_norms(dense, pruned)
    batches = [share_batch(dense.signature, batch) for batch in batches]
    runs = PairedRuns(
        dense, pruned, batches, [*(before.calls for before, _ in pairs.values()), *([n.call] for n in norms.values())]
    )
    results = []
    for node in pruned.module.graph.nodes:
        if node.name in pairs:
            before, layer = pairs[node.name]
            outputs = _find_remaining_outputs(dense, layer.weight, removed)
            results.append(_refit_layer(pruned, layer, outputs, runs.sample(before.calls, layer.calls)))
        elif node.name in norms:
            norm = norms[node.name]
            results.append(
                recalibrate_batch_norm(dense.analysis, plan, pruned, norm, runs.sample([norm.call], [node.name]))
            )
    return tuple(result for result in results if result is not None)


def _find_pairs(dense: Program, pruned: Program) -> dict[str, tuple[_LinearCalls, _LinearCalls]]:
    """Return each layer of both programs as (dense, pruned), by the name of its first call in the pruned model."""
    dense_layers = {layer.weight: layer for layer in _layers(dense)}
    pairs = ((dense_layers[layer.weight], layer) for layer in _layers(pruned) if layer.weight in dense_layers)
    return {layer.calls[0]: (before, layer) for before, layer in pairs if len(before.calls) == len(layer.calls)}


def _find_norms(dense: Program, pruned: Program) -> dict[str, BatchNormCall]:
    """Return the batch-norms of the dense program that also exist in the pruned model, by the name of their call there."""
    norms = find_batch_norms(dense)
    return {norm.call: norms[name] for name, norm in find_batch_norms(pruned).items() if name in norms}


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
    pruned: Program,
    layer: _LinearCalls,
    outputs: Tensor,
    samples: SplitSamples,
) -> LayerReconstruction | None:
    # Of the mean of the diagonal: keeps weights near their old values where the data does not determine them.
    ridge_fraction = 1e-4
    parameters = pruned.parameters()
    weight = parameters[layer.weight]
    bias = parameters[layer.bias] if layer.bias is not None else None
    if len(outputs) != weight.shape[0]:
        return None
    equations = _normal_equations(samples.fit, outputs, bias is not None)
    if equations is None:
        return None
    gram, cross = equations
    weights = torch.cat([weight.detach().double(), bias.detach().double()[:, None]], 1) if bias is not None else None
    weights = weight.detach().double() if weights is None else weights
    ridge = ridge_fraction * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    step = torch.linalg.solve(gram + ridge, cross - gram @ weights.T).T
    before, after, count = _sum_squared_errors(samples.held_out, outputs, weights, weights + step)
    if count == 0 or not after < before:
        return LayerReconstruction(layer.weight, before / max(count, 1), before / max(count, 1))
    with torch.no_grad():
        changed = (weights + step).to(weight.dtype)
        weight.copy_(changed[:, : weight.shape[1]])
        if bias is not None:
            bias.copy_(changed[:, -1])
    return LayerReconstruction(layer.weight, before / count, after / count)


def _sum_squared_errors(
    samples: Iterable[CallSample], remaining: Tensor, before: Tensor, after: Tensor
) -> tuple[float, float, int]:
    """Return the squared errors of both weights, [M, K] with the bias as the last column, if any, and the number of outputs."""
    errors, count = torch.zeros(2, dtype=torch.float64), 0
    for sample in samples:
        for y, a in zip(sample.dense_outputs, sample.pruned_inputs, strict=True):
            inputs, expected = _make_rows(a, with_bias=before.shape[1] > a.shape[-1]), _select_outputs(y, remaining)
            errors += torch.stack([(inputs @ weight.T - expected).square().sum() for weight in (before, after)])
            count += expected.numel()
    sum_over_ranks(errors)
    return float(errors[0]), float(errors[1]), sum_integer(count)


def _make_rows(inputs: Tensor, *, with_bias: bool) -> Tensor:
    """Reshape [..., K] to [rows, K] in float64, with a column of ones for the bias."""
    rows = inputs.reshape(-1, inputs.shape[-1]).double()
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1) if with_bias else rows


def _select_outputs(outputs: Tensor, remaining: Tensor) -> Tensor:
    """Reshape [..., M] to [rows, remaining] in float64."""
    return outputs.reshape(-1, outputs.shape[-1]).double()[:, remaining]


def _normal_equations(
    samples: Iterable[CallSample], remaining: Tensor, with_bias: bool
) -> tuple[Tensor, Tensor] | None:
    """Return sums over rows: A Aᵀ [K, K] and A Yᵀ [K, M], for K inputs with bias.

    None if the layer has fewer rows than before, because channels of another axis of its input were removed.
    """
    gram = cross = torch.zeros(())
    for sample in samples:
        for y, a in zip(sample.dense_outputs, sample.pruned_inputs, strict=True):
            inputs, expected = _make_rows(a, with_bias=with_bias), _select_outputs(y, remaining)
            if len(expected) != len(inputs):
                return None
            gram = gram if gram.ndim else inputs.new_zeros(inputs.shape[1], inputs.shape[1])
            add_products(gram, inputs)
            cross = cross + inputs.T @ expected
    sum_tensors([gram, cross])
    return mirror_upper(gram) if gram.ndim else gram, cross
