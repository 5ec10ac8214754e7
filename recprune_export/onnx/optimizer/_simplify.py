"""The simplification that the exporter applies after translation, without the rules that are not exact."""

import copy
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    OutputFixPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import MatchResult, RewriteRule, rewrite
from onnxscript.rewriter.rules import common

ROUNDS = 2  # a folded constant may enable a rule, and a rule may create another constant

# In the order of onnxscript.rewriter, without the rules for x + 0, x - 0, x · 1 and x / 1: they treat a constant below
# 1e-8 as 0, and would remove the epsilon of a division.
RULES = (
    common.dropout_zero_rule,
    common.dropout_inference_rule,
    common.two_reshapes_matmul_reshape_rule,
    common.one_reshape_matmul_reshape_rule,
    common.cast_constant_of_shape_rule,
    common.cast_constant_of_shape_without_value_rule,
    common.collapse_slice_rule,
    common.collapse_slice2_rule,
    common.materialize_reshape_shape_rule,
    common.min_min_rule,
    common.max_max_rule,
    common.min_max_rule,
    common.max_min_rule,
    common.successive_clip_relu_rule,
    common.successive_relu_clip_rule,
    common.successive_relu_rule,
    common.successive_clip_rule,
    common.cast_cast_rule,
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.flatten_to_reshape_rule,
    common.reshape_reshape_rule,
    common.slice_split_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.unsqueeze_unsqueeze_rule,
    common.squeeze_reshape_1d_rule,
    common.no_op_dynamic_scatter_nd_rule,
    common.no_op_static_scatter_nd_rule,
    common.normalize_pad_format_conv_rule,
    common.fuse_pad_into_conv_rule,
    common.fuse_batchnorm_into_conv_rule,
    common.fuse_batchnorm_into_gemm_rule,
    common.remove_optional_bias_from_conv_rule,
    common.remove_optional_bias_from_gemm_rule,
)

_FINISH = (
    RemoveUnusedNodesPass(),
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    LiftSubgraphInitializersToMainGraphPass(),
    DeduplicateInitializersPass(),
    CommonSubexpressionEliminationPass(),
    RemoveUnusedFunctionsPass(),
    RemoveUnusedOpsetsPass(),
    OutputFixPass(),
    NameFixPass(),
)


def simplify(model: ir.Model) -> None:
    """Inline functions, fold constants, remove redundant nodes; the graph computes the same function.

    Time: in proportion to the nodes, and for graphs in which two Slices read one value, to their square. Memory: constants
    of at most 1024 elements are copied.
    """
    InlinePass()(model)
    for _ in range(ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True)
        rewrite(model, _copy_rules(_find_applicable_rules(model)))
    for graph_pass in _FINISH:
        graph_pass(model)


def _copy_rules(rules: Sequence[RewriteRule]) -> Sequence[RewriteRule]:
    """Return copies of rules, since a rule refers to the last graph that it matched, and so to all of its weights.

    The graph that `torch.onnx.export` matched earlier in this process is not copied: it may be large, and contain tensors without data.
    """
    holders = [part for rule in rules for part in (rule, *vars(rule).values()) if hasattr(part, "__dict__")]
    matched = [
        value
        for holder in holders
        for value in vars(holder).values()
        if isinstance(value, ir.Graph | ir.Function | ir.Node | ir.Value | MatchResult)
    ]
    return copy.deepcopy(rules, {id(value): value for value in matched})


def _find_applicable_rules(model: ir.Model) -> Sequence[RewriteRule]:
    """Return the rules; the rule that matches pairs of Slices in quadratic time is left out if no value is sliced twice."""
    sliced = [node.inputs[0] for graph in model.graphs() for node in graph if node.op_type == "Slice"]
    if len(set(sliced)) < len(sliced):
        return RULES
    return [rule for rule in RULES if rule is not common.slice_split_rule]
