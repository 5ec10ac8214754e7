"""Rotation rules: the effect of each operator on the form of a group's axis. Operators without a rule are ruled out."""

import operator

import torch
from torch import Tensor, fx

from recprune_export.channels.contractions import CONTRACTIONS, Contraction, read_contraction
from recprune_export.channels.rules.elementwise import ELEMENTWISE
from recprune_export.channels.rules.reduction import COMPETITIONS
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.operator_registry import OPERATORS, Facet
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS
from recprune_export.pruning.rotation.rotation_walk import (
    RotationWalk,
    rotation_rule,
    rule_out_all,
)

aten = torch.ops.aten


def _pass_on(tracing: RotationWalk, node: fx.Node) -> None:
    """Propagate forms through operators that move values, or scale all of them equally."""
    carriers_by_group = tracing.find_carriers(node)
    for group in tracing.axes(node):
        carriers = carriers_by_group.get(group, [])
        if len(carriers) == 1 and carriers[0].op == "get_attr" and node.target in _BY_INDEX:
            tracing.start_at_weight(node, group, carriers[0])  # rows of a table that is not an `nn.Embedding`
        elif carriers:
            tracing.follow_operands(node, group, carriers)
        elif _is_zero(node):
            tracing.set_form(node, group, "vector")


def _is_zero(node: fx.Node) -> bool:
    """Return whether a node is zeros that the graph makes, possibly moved or repeated."""
    while node.target in DATA_MOVEMENT_OPERATORS and isinstance(arguments(node)[0], fx.Node):
        node = arguments(node)[0]
    return node.target in _ZEROS


_BY_INDEX = frozenset({aten.index.Tensor, aten.index_select.default})
_ZEROS = frozenset({aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default})
_SCALING = (
    aten._conj.default,
    aten._to_copy.default,
    aten.alpha_dropout.default,
    aten.conj_physical.default,
    aten.deg2rad.default,
    aten.div.Scalar,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.imag.default,
    aten.mul.Scalar,
    aten.neg.default,
    aten.real.default,
    aten.resolve_conj.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
)
_STRETCHING = (aten.expand.default, aten.expand_as.default, aten.repeat.default, aten.tile.default)
# Linear along axes other than a group's: the channel rules freeze the axes along which these operators compute.
_ALONG_OTHER_AXES = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.diagonal.default,
    aten.fft_fft.default,
    aten.fft_ifft.default,
    aten.fft_irfft.default,
    aten.fft_rfft.default,
    aten.roll.default,
    aten.tril.default,
    aten.triu.default,
    aten.unfold.default,
    aten.view_as_complex.default,
    aten.view_as_real.default,
)
rotation_rule(*DATA_MOVEMENT_OPERATORS.difference(_STRETCHING), *_SCALING, *_ALONG_OTHER_AXES, *_ZEROS)(_pass_on)


@rotation_rule(aten.sym_size.int)
def _read_size(tracing: RotationWalk, node: fx.Node) -> None:
    """Allow rotation for every group: a size does not depend on values."""


@rotation_rule(
    aten.full.default,
    aten.full_like.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.ones.default,
    aten.ones_like.default,
)
def _fill(tracing: RotationWalk, node: fx.Node) -> None:
    for group in tracing.axes(node):
        tracing.set_form(node, group, "uniform")


@rotation_rule(aten.pad.default, aten.constant_pad_nd.default)
def _pad(tracing: RotationWalk, node: fx.Node) -> None:
    """Allow zeros or copies of values along any axis, and other constants only along the group's axis."""
    x, amounts = argument(node, "self"), argument(node, "pad")
    constant = (argument(node, "mode") or "constant") == "constant" and (argument(node, "value") or 0) != 0
    rank = x.meta["val"].ndim
    padded = {rank - 1 - position // 2 for position, amount in enumerate(amounts) if amount}
    for group, axis in tracing.axes(node).items():
        if constant and padded - {axis}:
            tracing.rule_out(group, node, "pads every channel with a constant")
        else:
            tracing.follow_operands(node, group, [x])


@rotation_rule(*_STRETCHING)
def _stretch(tracing: RotationWalk, node: fx.Node) -> None:
    x = arguments(node)[0]
    for group in tracing.axes(node):
        if tracing.carries(x, group):
            tracing.follow_operands(node, group, [x])
        else:
            tracing.set_form(node, group, "vector" if _is_zero(node) else "uniform")


def _getitem(tracing: RotationWalk, node: fx.Node) -> None:
    """Propagate forms from the operands of an operator with several outputs for one of them."""
    (source,) = node.all_input_nodes
    origins = [n for n in source.all_input_nodes if isinstance(n, fx.Node)]
    for group in tracing.axes(node):
        tracing.follow_operands(node, group, [o for o in origins if tracing.carries(o, group)])


rotation_rule(operator.getitem)(_getitem)


@rotation_rule(aten.gather.default, aten.take_along_dim.default)
def _gather(tracing: RotationWalk, node: fx.Node) -> None:
    source = arguments(node)[0]
    for group in tracing.axes(node):
        tracing.follow_operands(node, group, [source] if tracing.carries(source, group) else [])


@rotation_rule(aten.embedding.default)
def _look_up(tracing: RotationWalk, node: fx.Node) -> None:
    table, ids = arguments(node)[:2]
    for group in tracing.axes(node):
        if tracing.carries(ids, group):
            tracing.rule_out(group, node, "looks up by it")
        else:
            tracing.start_at_weight(node, group, table)


@rotation_rule(aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.lerp.Scalar)
def _add(tracing: RotationWalk, node: fx.Node) -> None:
    """Require that all addends carry the group: each has to be transformed."""
    if any(not isinstance(a, fx.Node) and a for a in arguments(node)[:2]):
        rule_out_all(tracing, node, "adds a constant to every channel")
    else:
        _write(tracing, node)


@rotation_rule(aten.index_add.default, aten.scatter_add.default, aten.scatter.src, aten.index_put.default)
def _write(tracing: RotationWalk, node: fx.Node) -> None:
    """Require that values added or written at some indices carry the group: each has to be transformed."""
    added = [a for a in arguments(node) if isinstance(a, fx.Node) and _is_number(a)] or [arguments(node)[0]]
    for group in tracing.axes(node):
        if all(tracing.carries(a, group) for a in added):
            tracing.follow_operands(node, group, added)
        else:
            tracing.rule_out(group, node, "adds a constant to every channel")


def _is_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


@rotation_rule(aten.mul.Tensor)
def _multiply(tracing: RotationWalk, node: fx.Node) -> None:
    for group in tracing.axes(node):
        carriers = [a for a in arguments(node)[:2] if tracing.carries(a, group)]
        varying = [a for a in carriers if tracing.form(a, group) != "uniform"]
        if len(varying) == 2:
            _square(tracing, node, group, *varying)
        elif carriers:
            tracing.follow_operands(node, group, varying or carriers)


def _square(tracing: RotationWalk, node: fx.Node, group: int, left: fx.Node, right: fx.Node) -> None:
    tracing.contract_values(node, group, left, right)
    if group not in tracing.ruled_out:
        tracing.set_form(node, group, "quadratic")


@rotation_rule(aten.square.default, aten.pow.Tensor_Scalar)
def _power(tracing: RotationWalk, node: fx.Node) -> None:
    x = arguments(node)[0]
    squares = node.target is aten.square.default or arguments(node)[1] == 2
    for group in tracing.axes(node):
        if squares:
            _square(tracing, node, group, x, x)
        else:
            tracing.rule_out(group, node, "takes a power of each channel")


@rotation_rule(aten.div.Tensor)
def _divide(tracing: RotationWalk, node: fx.Node) -> None:
    x, divisor = arguments(node)[:2]
    for group in tracing.axes(node):
        if tracing.carries(divisor, group) and tracing.form(divisor, group) != "uniform":
            tracing.rule_out(group, node, "divides channel by channel")
        else:
            tracing.follow_operands(node, group, [x])


@rotation_rule(aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default)
def _sum(tracing: RotationWalk, node: fx.Node) -> None:
    """Treat a sum over another axis as linear, and over the group's axis as an inner product of a quadratic value."""
    x = arguments(node)[0]
    for group in tracing.axes(x):
        if tracing.carries(node, group):
            tracing.follow_operands(node, group, [x])
        elif tracing.form(x, group) != "quadratic":
            tracing.rule_out(group, node, "sums over its channels")


@rotation_rule(aten.linalg_vector_norm.default, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.frobenius_norm.dim)
def _norm(tracing: RotationWalk, node: fx.Node) -> None:
    x = arguments(node)[0]
    order = next((value for name in ("ord", "p") if (value := argument(node, name)) is not None), 2)
    for group in tracing.axes(x):
        if tracing.carries(node, group) or order != 2:
            tracing.rule_out(group, node, "takes a norm that depends on the directions")
        else:
            tracing.contract_values(node, group, x, x)


@rotation_rule(aten.rms_norm.default)
def _rms_norm(tracing: RotationWalk, node: fx.Node) -> None:
    """Allow orthogonal matrices for `rms_norm(x, [D])` without gains: they do not change the norm that divides x."""
    x, sizes = argument(node, "input"), argument(node, "normalized_shape")
    last = x.meta["val"].ndim - 1
    for group, axis in tracing.axes(x).items():
        if argument(node, "weight") is not None or len(sizes) > 1 or axis != last:
            tracing.rule_out(group, node, "does not treat all directions alike")
            continue
        tracing.contract_values(node, group, x, x)
        if group not in tracing.ruled_out:
            tracing.follow_operands(node, group, [x])


@rotation_rule(aten.cosine_similarity.default)
def _cosine(tracing: RotationWalk, node: fx.Node) -> None:
    left, right = arguments(node)[:2]
    for group in {**tracing.axes(left), **tracing.axes(right)}:
        if tracing.carries(node, group):
            tracing.rule_out(group, node, "compares channel by channel")
            continue
        for one, other in ((left, right), (left, left), (right, right)):
            tracing.contract_values(node, group, one, other)


@rotation_rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(tracing: RotationWalk, node: fx.Node) -> None:
    x, mask, value = arguments(node)[:3]
    for group in tracing.axes(node):
        if tracing.carries(mask, group) or value != 0:
            tracing.rule_out(group, node, "fills channels with a constant")
        else:
            tracing.follow_operands(node, group, [x])


@rotation_rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def _where(tracing: RotationWalk, node: fx.Node) -> None:
    condition, *branches = arguments(node)
    for group in tracing.axes(node):
        carriers = [b for b in branches if tracing.carries(b, group)]
        constants = [b for b in branches if not tracing.carries(b, group)]
        zero = all(
            (not isinstance(b, fx.Node) and b == 0) or (isinstance(b, fx.Node) and _is_zero(b)) for b in constants
        )
        if tracing.carries(condition, group) or not carriers or not zero:
            tracing.rule_out(group, node, "chooses channel by channel")
        else:
            tracing.follow_operands(node, group, carriers)


@rotation_rule(*CONTRACTIONS)
def _contract(tracing: RotationWalk, node: fx.Node) -> None:
    contraction = read_contraction(node)
    assert contraction is not None
    groups = set(tracing.axes(node))
    for _, source in contraction.operands:
        groups |= set(tracing.axes(source))
    for group in sorted(groups):
        _contract_group(tracing, node, contraction, group)


def _contract_group(tracing: RotationWalk, node: fx.Node, contraction: Contraction, group: int) -> None:
    carriers = [
        (letters[tracing.axes(x)[group]], x) for letters, x in contraction.operands if tracing.carries(x, group)
    ]
    for letter in dict.fromkeys(letter for letter, _ in carriers):
        values = [x for axis_letter, x in carriers if axis_letter == letter]
        if letter in contraction.output:
            _keep_letter(tracing, node, contraction, group, values)
        elif len(values) == 2:
            weights = [x for x in values if x.op == "get_attr"]
            if len(weights) == 1 and "quadratic" in {tracing.form(x, group) for x in values}:
                tracing.weight_channels(node, group, weights[0], tracing.weight_block(weights[0], group))
            else:
                tracing.contract_values(node, group, *values)
        elif tracing.form(values[0], group) != "quadratic" or len(values) > 2:
            tracing.rule_out(group, node, "weighs its channels by constants")


def _keep_letter(
    tracing: RotationWalk, node: fx.Node, contraction: Contraction, group: int, values: list[fx.Node]
) -> None:
    bias = contraction.bias
    if bias is not None and not tracing.carries(bias, group):
        tracing.rule_out(group, node, "adds a constant to every channel")
    elif len(values) == 2:
        _square(tracing, node, group, *values)
    elif len(values) == 1 and values[0].op == "get_attr":
        tracing.start_at_weight(node, group, values[0])
        if bias is not None:
            tracing.sides.same((node, group), (bias, group))
    elif len(values) == 1:
        tracing.follow_operands(node, group, values if bias is None else [*values, bias])
    else:
        tracing.rule_out(group, node, "multiplies more than two values")


@rotation_rule(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding)
def _convolve(tracing: RotationWalk, node: fx.Node) -> None:
    x, weight, bias = (argument(node, name) for name in ("input", "weight", "bias"))
    for group in {**tracing.axes(x), **tracing.axes(node)}:
        if tracing.axes(x).get(group) == 1 and tracing.axes(weight).get(group) == 1 and argument(node, "groups") == 1:
            tracing.contract_values(node, group, x, weight)
        elif tracing.axes(weight).get(group) == 0 and not tracing.carries(x, group):
            tracing.start_at_weight(node, group, weight)
            if bias is not None:
                tracing.sides.same((node, group), (bias, group))
        else:
            tracing.rule_out(group, node, "moves a kernel over it")


@rotation_rule(aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def _recurrent(tracing: RotationWalk, node: fx.Node) -> None:
    """Treat the input of a recurrent layer as linear, and rule out its units."""
    x, weights = argument(node, "input"), argument(node, "params")
    first = {w: i for i, w in enumerate(weights)}
    directions = 2 if argument(node, "bidirectional") else 1
    per_direction = len(weights) // (argument(node, "num_layers") * directions)
    reading = [weights[direction * per_direction] for direction in range(directions)]
    for group in {g for source in (x, *first) for g in tracing.axes(source)}:
        if tracing.carries(x, group) and all(tracing.axes(w).get(group) == 1 for w in reading):
            for weight in reading:
                tracing.contract_values(node, group, x, weight)
        else:
            tracing.rule_out(group, node, "has it as its own units")


@rotation_rule(aten.gru_cell.default, aten.lstm_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default)
def _recurrent_cell(tracing: RotationWalk, node: fx.Node) -> None:
    x, weight = argument(node, "input"), argument(node, "w_ih")
    for group in {g for source in node.all_input_nodes for g in tracing.axes(source)}:
        if tracing.carries(x, group) and tracing.axes(weight).get(group) == 1:
            tracing.contract_values(node, group, x, weight)
        else:
            tracing.rule_out(group, node, "has it as its own units")


@rotation_rule(aten.scaled_dot_product_attention.default)
def _attend(tracing: RotationWalk, node: fx.Node) -> None:
    query, key, value = (argument(node, name) for name in ("query", "key", "value"))
    last = query.meta["val"].ndim - 1
    for group in {**tracing.axes(query), **tracing.axes(key), **tracing.axes(value)}:
        met = tracing.axes(query).get(group) == last and tracing.axes(key).get(group) == last
        if met:
            tracing.contract_values(node, group, query, key)
        if tracing.axes(value).get(group) == last and tracing.carries(node, group):
            tracing.follow_operands(node, group, [value])
        elif not met:
            tracing.rule_out(group, node, "attends by it")


@rotation_rule(aten.cumsum.default)
def _cumsum(tracing: RotationWalk, node: fx.Node) -> None:
    x = arguments(node)[0]
    over = arguments(node)[1] % x.meta["val"].ndim
    for group in tracing.axes(node):
        if tracing.axes(x).get(group) != over:
            tracing.follow_operands(node, group, [x])
        else:
            tracing.rule_out(group, node, "does not treat all directions alike")


# Nonlinear operators on each channel separately, or that compare channels.
_NOT_LINEAR = frozenset(
    {
        *ELEMENTWISE,
        *COMPETITIONS,
        aten._native_batch_norm_legit_no_training.default,
        aten.adaptive_max_pool1d.default,
        aten.adaptive_max_pool2d.default,
        aten.addcdiv.default,
        aten.batch_norm.default,
        aten.count_nonzero.dim_IntList,
        aten.glu.default,
        aten.group_norm.default,
        aten.instance_norm.default,
        aten.layer_norm.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.prelu.default,
        aten.where.Scalar,
    }
)
rotation_rule(*_NOT_LINEAR.difference(OPERATORS.rules(Facet.ROTATION)))(rule_out_all)
