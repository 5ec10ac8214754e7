"""Fusion of layer norms that a model computes step by step into `layer_norm`.

`(x - x.mean(-1)) / sqrt(((x - x.mean(-1)) ** 2).mean(-1) + ε)` centers x, so no channel is zero when masked, and none could
be removed before the sum. The fused operator is a norm over n channels (Ba et al. 2016, "Layer Normalization", section 3),
and the pruned model keeps the count n.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.nodes import argument, arguments

aten = torch.ops.aten


@dataclass(frozen=True)
class _Spread:
    """√(Σ(x - mean)² · scale + ε) of `source`, one number for each row of channels."""

    source: fx.Node
    scale: float
    epsilon: float


def fuse_layer_norms(module: fx.GraphModule) -> bool:
    """Replace hand-written norms over the last axis by `layer_norm`, in place; return whether there was one.

    Before: a centered value divided by the root of its mean square, or of the sum of its squares, with an ε inside the root.
    After: `layer_norm` without gain and bias, times 1/√n where it was the sum.
    """
    changed = False
    for node in list(module.graph.nodes):
        spread = _spread_below(node)
        if spread is None:
            continue
        n = spread.source.meta["val"].shape[-1]
        with module.graph.inserting_before(node):
            new = module.graph.call_function(
                aten.layer_norm.default, (spread.source, [n], None, None, spread.epsilon / (spread.scale * n))
            )
            if spread.scale != 1 / n:
                new = module.graph.call_function(aten.mul.Scalar, (new, 1 / math.sqrt(spread.scale * n)))
        node.replace_all_uses_with(new)
        changed = True
    remove_dead_code(module)
    return changed


def _spread_below(node: fx.Node) -> _Spread | None:
    """Return the divisor of `centered / spread` or `centered * (1 / spread)`, if both have the same source."""
    if node.target not in (aten.div.Tensor, aten.mul.Tensor) or not all(_is_node(a) for a in arguments(node)[:2]):
        return None
    pairs = [arguments(node)[:2]] if node.target is aten.div.Tensor else [arguments(node)[:2], arguments(node)[1::-1]]
    root = aten.sqrt.default if node.target is aten.div.Tensor else aten.rsqrt.default
    for centered, divisor in pairs:
        inside = arguments(_squeezed(divisor))[0] if _squeezed(divisor).target is root else None
        spread = _sum_of_squares(inside) if inside is not None else None
        if spread is not None and _centered(centered) is spread.source:
            return spread
    return None


def _sum_of_squares(node: fx.Node) -> _Spread | None:
    """Read `mean((x - m)²) + ε`, `sum((x - m)² + ε)` or `var(x) + ε` over the last axis."""
    node, outside = _shifted(_squeezed(node))
    node = _squeezed(node)
    if _is_biased_variance(node) and _over_last(node):
        source = arguments(node)[0]
        return _Spread(source, 1 / _channels(source), outside)
    if node.target not in (aten.mean.dim, aten.sum.dim_IntList) or not _over_last(node):
        return None
    squares, inside = _shifted(arguments(node)[0])
    centered = _centered(base) if (base := _squared(squares)) is not None else None
    if centered is None:
        return None
    n = _channels(centered)
    scale = 1 / n if node.target is aten.mean.dim else 1.0
    return _Spread(centered, scale, outside + inside * n * scale)


def _is_biased_variance(node: fx.Node) -> bool:
    """Return whether a variance divides by n, as norms do, and not by n - 1."""
    by_correction = node.target is aten.var.correction and argument(node, "correction") == 0
    return by_correction or (node.target is aten.var.dim and argument(node, "unbiased") is False)


def _centered(node: Any) -> fx.Node | None:
    """Return x of `x - mean(x)`."""
    if not _is_node(node) or node.target is not aten.sub.Tensor or node.kwargs:
        return None
    source, mean = arguments(node)
    mean = _squeezed(mean) if _is_node(mean) else mean
    if not _is_node(mean) or mean.target is not aten.mean.dim or arguments(mean)[0] is not source:
        return None
    return source if _over_last(mean) and isinstance(_channels(source), int) else None


def _squared(node: fx.Node) -> Any:
    if node.target is aten.square.default or (node.target is aten.pow.Tensor_Scalar and arguments(node)[1] == 2):
        return arguments(node)[0]
    if node.target is aten.mul.Tensor and arguments(node)[0] is arguments(node)[1]:
        return arguments(node)[0]
    return None


def _shifted(node: fx.Node) -> tuple[fx.Node, float]:
    """Split a value into a value and the number that is added to it."""
    if node.target in (aten.add.Tensor, aten.add.Scalar) and not node.kwargs and not _is_node(arguments(node)[1]):
        return arguments(node)[0], float(arguments(node)[1])
    return node, 0.0


def _squeezed(node: fx.Node) -> fx.Node:
    """Skip an `unsqueeze` of the last axis."""
    last = node.target is aten.unsqueeze.default and arguments(node)[1] % node.meta["val"].ndim
    return arguments(node)[0] if last and last == node.meta["val"].ndim - 1 else node


def _over_last(node: fx.Node) -> bool:
    source, axes = arguments(node)[0], argument(node, "dim")
    return axes is not None and [axis % source.meta["val"].ndim for axis in axes] == [source.meta["val"].ndim - 1]


def _channels(node: fx.Node) -> Any:
    return node.meta["val"].shape[-1]


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)
