"""Convert a captured graph to the canonical form that later stages read.

After `canonicalize` a graph has: flat inputs and outputs, no guards or assertions, no in-place operators, one
`get_attr` target for each distinct tensor, and everything that depends on neither the request nor a parameter
folded into a buffer. `stack` followed by a flattening of the stacked axis is written as `cat`, so that the
stacked tensors may later differ in width. No step changes the function.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from recprune_export.program.nodes import ancestors, arguments

aten = torch.ops.aten

_GUARDS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_async.msg,
        aten._assert_scalar.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
    }
)
_RANDOM = frozenset({aten.dropout.default, aten.rand.default, aten.randn.default, aten.bernoulli.default})
_FLATTENING = frozenset({aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten._unsafe_view.default})
_WRAPPERS = frozenset({torch.ops.higher_order.wrap_with_set_grad_enabled, torch.ops.higher_order.wrap_with_autocast})
_DETACHES = frozenset({aten.detach.default, aten.detach_.default})
_SQUEEZES = frozenset({aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims})


def canonicalize(module: fx.GraphModule) -> fx.GraphModule:
    """Return `module` in canonical form; the argument is modified.

    The graph must be functional except for in-place operators on values that no other node reads; see
    `has_unsafe_mutation`.
    """
    module.graph._codegen = CodeGen()
    steps = (
        inline_subgraphs,
        _keep_gradients,
        _drop_guards,
        _whole_numbers_to_buffers,
        _share_tied_tensors,
        _replace_in_place,
        _name_squeezed_axes,
        _fold_constants,
        _stack_to_cat,
        _state_epsilon,
    )
    for step in steps:
        step(module)
        remove_dead_code(module)
    module.graph.lint()
    # A new module holds only the tensors that the graph reads, and has none of torch.export's input checks.
    return fx.GraphModule(module, module.graph)


def remove_dead_code(module: fx.GraphModule) -> None:
    """Remove the nodes that no node reads; unlike torch.fx, also random operators such as dropout."""
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_in_place(node))


def add_constant(module: fx.GraphModule, prefix: str, value: Tensor) -> fx.Node:
    """Register a buffer under the next free name with a prefix, and return its node at the graph's insertion point."""
    name = f"{prefix}_{sum(name.startswith(prefix) for name, _ in module.named_buffers())}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def tensor_at(module: nn.Module, target: str) -> Tensor:
    """Return the parameter or buffer that a `get_attr` node names."""
    owner, _, name = target.rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), name)
    return value


def inline_subgraphs(module: fx.GraphModule) -> None:
    """Inline the subgraphs, at any depth, as which `with torch.no_grad():` and autocast in a forward are captured."""
    for node in list(module.graph.nodes):
        if node.target not in _WRAPPERS:
            continue
        args = arguments(node)
        position = next(p for p, a in enumerate(args) if isinstance(a, fx.Node) and _is_subgraph(module, a))
        inner = module.get_submodule(str(args[position].target))
        assert isinstance(inner, fx.GraphModule)
        inline_subgraphs(inner)  # first, as subgraphs of several levels have the same names
        inlined: dict[fx.Node, Any] = {}
        inputs = iter(args[position + 1 :])
        with module.graph.inserting_before(node):
            for inner_node in inner.graph.nodes:
                if inner_node.op == "placeholder":
                    inlined[inner_node] = next(inputs)
                elif inner_node.op != "output":
                    inlined[inner_node] = module.graph.node_copy(inner_node, inlined.__getitem__)
        (output,) = [inner_node for inner_node in inner.graph.nodes if inner_node.op == "output"]
        results = fx.node.map_arg(output.args[0], inlined.__getitem__)
        for user in list(node.users):
            user.replace_all_uses_with(results[arguments(user)[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        module.graph.erase_node(args[position])


def _is_subgraph(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(getattr(module, str(node.target), None), fx.GraphModule)


def _drop_guards(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        is_guard_module = node.op == "call_module" and str(node.target).startswith("_guards_fn")
        if is_guard_module or node.target in _GUARDS:
            module.graph.erase_node(node)


def _keep_gradients(module: fx.GraphModule) -> None:
    """Remove all detaches if they leave an answer without a gradient for any parameter, such as `scores.detach()`.

    Fine-tuning needs gradients. Detaches inside of a model that is trained otherwise are part of its training, and stay.
    """
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    if not any(_has_no_gradient(module, answer) for answer in output.all_input_nodes):
        return
    for node in [node for node in module.graph.nodes if node.target in _DETACHES]:
        node.replace_all_uses_with(node.all_input_nodes[0])
        module.graph.erase_node(node)


def _has_no_gradient(module: fx.GraphModule, answer: fx.Node) -> bool:
    """Return whether a detach stands between an answer and each parameter that it depends on."""
    read = ancestors([answer])
    detached = [node.all_input_nodes[0] for node in read if node.target in _DETACHES]
    with_gradient = ancestors([answer], until=_DETACHES)
    parameters = {node for node in ancestors(detached) if _is_parameter(module, node)}
    return bool(parameters) and not any(_is_parameter(module, node) for node in with_gradient)


def _is_parameter(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(tensor_at(module, str(node.target)), nn.Parameter)


def _whole_numbers_to_buffers(module: fx.GraphModule) -> None:
    """Convert integer parameters, such as masks and indices that were registered to be saved, to buffers."""
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if not (parameter.is_floating_point() or parameter.is_complex()):
            owner, _, attribute = name.rpartition(".")
            holder = module.get_submodule(owner)
            delattr(holder, attribute)
            holder.register_buffer(attribute, parameter.detach())


def _share_tied_tensors(module: fx.GraphModule) -> None:
    first: dict[int, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        shared = first.setdefault(id(tensor_at(module, node.target)), node)
        if shared is not node:
            node.replace_all_uses_with(shared)
            module.graph.erase_node(node)


def has_unsafe_mutation(module: fx.GraphModule) -> bool:
    """Return whether an in-place operator changes a value that another node aliases."""
    return any(is_in_place(node) and not _owns_its_input(node) for node in module.graph.nodes)


def is_in_place(node: fx.Node) -> bool:
    """Return whether an operator changes one of its inputs."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is aten.detach_.default:
        return False
    arguments = node.target._schema.arguments
    return any(a.alias_info is not None and a.alias_info.is_write for a in arguments)


def _owns_its_input(node: fx.Node) -> bool:
    """Return whether the mutated value is computed, is no view, and has no reader that is a view of it."""
    mutated = arguments(node)[0]
    if not isinstance(mutated, fx.Node) or mutated.op != "call_function" or _functional_twin(node) is None:
        return False
    readers = [user for user in mutated.users if user is not node]
    return not is_view(mutated) and not any(is_view(reader) for reader in readers)


def is_view(node: fx.Node) -> bool:
    """Return whether the value of a node may share the memory of its input."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or is_in_place(node):
        return False
    schema = node.target._schema
    may_alias = node.target in (aten.reshape.default, aten.flatten.using_ints, aten.contiguous.default, aten.to.dtype)
    return may_alias or any(r.alias_info is not None for r in schema.returns)


def _functional_twin(node: fx.Node) -> Callable[..., Any] | None:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None) if packet is not None else None


def _replace_in_place(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.target is aten.detach_.default:  # changes no value, only its gradient
            node.target = aten.detach.default
        if not (is_in_place(node) and _owns_its_input(node)):
            continue
        twin = _functional_twin(node)
        assert twin is not None
        node.target = twin
        nodes = list(module.graph.nodes)
        later = frozenset(nodes[nodes.index(node) + 1 :])
        arguments(node)[0].replace_all_uses_with(node, delete_user_cb=later.__contains__)


def _is_pure(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target not in _RANDOM and not is_in_place(node)


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute the nodes that depend on no input and no parameter, and store the results as buffers."""
    max_elements = 1 << 22  # a larger constant would enlarge the file
    values: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            tensor = tensor_at(module, node.target)
            if not isinstance(tensor, torch.nn.Parameter):
                values[node] = tensor
        elif _is_pure(node) and all(source in values for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((arguments(node), dict(node.kwargs)), lambda n: values[n])
            value = node.target(*args, **kwargs)
            if not isinstance(value, Tensor) or value.numel() <= max_elements:
                values[node] = value
    for node, value in values.items():
        needed = any(user not in values for user in node.users)
        if node.op == "call_function" and needed and isinstance(value, Tensor):
            _replace_by_buffer(module, node, value)


def _replace_by_buffer(module: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    name = f"constant_{node.name}"
    while hasattr(module, name):  # an earlier call may have made one of a node that had the same name
        name += "_"
    copy = value.detach().clone()
    module.register_buffer(name, copy.contiguous() if copy.layout == torch.strided else copy)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)


def _stack_to_cat(module: fx.GraphModule) -> None:
    """Rewrite `stack(xs, d)`, or `cat` of unsqueezed `xs`, as `cat(xs, d)` if axes d and d+1 of the result are then merged."""
    for node in list(module.graph.nodes):
        if node.target not in _FLATTENING or not isinstance(arguments(node)[0], fx.Node):
            continue
        stacked = _stacked_parts(arguments(node)[0])
        if stacked is None:
            continue
        tensors, axis = stacked
        before, after = _shape(arguments(node)[0]), _shape(node)
        merged = (
            [*before[:axis], before[axis] * before[axis + 1], *before[axis + 2 :]] if axis + 1 < len(before) else None
        )
        if merged is None or merged != after:
            continue
        with module.graph.inserting_before(node):
            flat = module.graph.call_function(aten.cat.default, (tensors, axis))
        flat.meta = dict(node.meta)
        node.replace_all_uses_with(flat)


def _stacked_parts(node: fx.Node) -> tuple[list[fx.Node], int] | None:
    """Return the operands of a stack and the stacked axis, or None."""
    if node.target is aten.stack.default:
        tensors, *rest = arguments(node)
        axis = rest[0] if rest else 0
        return list(tensors), _positive(axis, len(_shape(node)))
    if node.target is not aten.cat.default:
        return None
    tensors, *rest = arguments(node)
    axis = _positive(rest[0] if rest else 0, len(_shape(node)))
    unsqueezed = [source for tensor in tensors if (source := _unsqueezed(tensor, axis)) is not None]
    return (unsqueezed, axis) if len(unsqueezed) == len(tensors) else None


def _state_epsilon(module: fx.GraphModule) -> None:
    """Set the epsilon of an RMSNorm that has none to its dtype's, so that it is the same in another precision."""
    for node in module.graph.nodes:
        if node.target is aten.rms_norm.default and arguments(node)[3:] in ((), (None,)):
            weight = arguments(node)[2] if len(arguments(node)) > 2 else None
            node.args = (*arguments(node)[:2], weight, torch.finfo(node.meta["val"].dtype).eps)


def _name_squeezed_axes(module: fx.GraphModule) -> None:
    """Name the axes of `squeeze(x)`: those of static size 1, never the batch, even where that is 1."""
    for node in list(module.graph.nodes):
        if node.target not in _SQUEEZES:
            continue
        before = _shape(arguments(node)[0])
        axes = arguments(node)[1] if len(arguments(node)) > 1 else range(len(before))
        squeezed = {_positive(axis, len(before)) for axis in ([axes] if isinstance(axes, int) else axes)}
        node.target = aten.squeeze.dims
        node.args = (
            arguments(node)[0],
            [axis for axis in sorted(squeezed) if isinstance(before[axis], int) and before[axis] == 1],
        )


def _unsqueezed(node: fx.Node, axis: int) -> fx.Node | None:
    if node.target is not aten.unsqueeze.default:
        return None
    tensor, position = arguments(node)
    return tensor if _positive(position, len(_shape(node))) == axis else None


def _positive(axis: int, rank: int) -> int:
    return axis if axis >= 0 else axis + rank


def _shape(node: fx.Node) -> list[Any]:
    return list(node.meta["val"].shape)
