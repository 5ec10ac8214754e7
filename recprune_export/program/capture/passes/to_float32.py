"""Conversion of a graph that computes in half precision, or under autocast, to float32.

ONNX Runtime on CPU has few operators in bfloat16 and float16, and the checks of pruning need more digits. `--quantize fp16` writes a file
with fewer bits.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from recprune_export.error_text import describe_place
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments, find_source_line
from recprune_export.program.propagation import find_graph_operands, recapture

aten = torch.ops.aten

HALF = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.to.device, aten.type_as.default})


def describe_half_precision(module: fx.GraphModule) -> str | None:
    """Return where a graph computes in half precision, or None; call it before subgraphs are inlined."""
    graphs = [inner.graph for inner in module.modules() if isinstance(inner, fx.GraphModule)]
    for graph in graphs:
        for node in graph.nodes:
            if node.target is torch.ops.higher_order.wrap_with_autocast and arguments(node)[2] is not False:
                body = graph.owning_module.get_submodule(str(arguments(node)[4].target))  # type: ignore[union-attr]
                lines = [find_source_line(inner) for inner in body.graph.nodes if inner.op == "call_function"]  # type: ignore[union-attr]
                line = next((line for line in lines if line), "")
                return f"under autocast{describe_place(line)}"
    for node in (node for graph in graphs for node in graph.nodes):
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dtype in HALF:
            line = "" if node.op in ("placeholder", "get_attr") else find_source_line(node)
            return f"in {HALF[value.dtype]}{describe_place(line)}"
    return None


def to_float32(module: fx.GraphModule) -> fx.GraphModule:
    """Return a canonical graph that computes in float32 wherever `module` computes in half precision.

    Inputs in half precision become float32. The user's tensors are not changed.
    """
    replaced: dict[int, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            _replace_tensor(module, str(node.target), replaced)
        elif node.op == "placeholder" and node.meta["val"].dtype in HALF:
            node.meta = {**node.meta, "val": node.meta["val"].to(torch.float32)}
        elif node.op == "call_function":
            node.args = fx.node.map_aggregate(node.args, _to_float32)
            node.kwargs = fx.node.map_aggregate(dict(node.kwargs), _to_float32)
    module = recapture(module, module.graph, find_graph_operands(module.graph))
    for node in list(module.graph.nodes):
        if node.target in _CASTS and _dtype(node) == _dtype(arguments(node)[0]):
            node.replace_all_uses_with(arguments(node)[0])
            module.graph.erase_node(node)
    return fx.GraphModule(module, module.graph)


def _to_float32(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in HALF else value


def _dtype(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


def _replace_tensor(module: fx.GraphModule, target: str, replaced: dict[int, Tensor]) -> None:
    """Replace a tensor in half precision by a copy in float32, the same for every name that it has."""
    tensor = tensor_at(module, target)
    if tensor.dtype not in HALF:
        return
    if id(tensor) not in replaced:
        copy = tensor.detach().to(torch.float32)
        replaced[id(tensor)] = (
            nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
        )
    owner, _, name = target.rpartition(".")
    setattr(module.get_submodule(owner), name, replaced[id(tensor)])
