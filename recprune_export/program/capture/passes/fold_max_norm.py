"""Folding of `nn.Embedding(..., max_norm=1.0)`, whose lookups change the table.

PyTorch scales the rows that a request looks up, in place, to at most that norm. A scaled row does not change again, so
all rows are scaled once, and the lookups become plain lookups.
"""

import torch
from torch import Tensor, fx, nn

from recprune_export.errors import CaptureError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments

aten = torch.ops.aten

_RENORMING = frozenset({aten.embedding_renorm_.default, aten.embedding_renorm.default})
_ALLOWED_READERS = _RENORMING | {aten.embedding.default, aten.detach.default, aten.copy_.default}


def fold_max_norm(module: fx.GraphModule) -> None:
    """Replace the tables of `module` that have a `max_norm` by scaled copies; the user's parameters are not changed.

    Raises `CaptureError` if another operator reads such a table as well, because its result in PyTorch depends on the
    rows that were looked up before.
    """
    for node in list(module.graph.nodes):
        if node.target not in _RENORMING:
            continue
        table, _, max_norm, order = arguments(node)
        while table.target is aten.detach.default:
            (table,) = arguments(table)
        if table.op != "get_attr":
            continue
        if readers := [
            user
            for user in module.graph.nodes
            if _reads(user, str(table.target)) and user.target not in _ALLOWED_READERS
        ]:
            raise CaptureError(
                f"The table '{table.target}' has a max_norm, and is read by '{readers[0].target}' as well, whose result depends "
                "on earlier lookups: scale its rows once with torch.renorm, and leave out max_norm."
            )
        _replace(module, tensor_at(module, str(table.target)), float(max_norm), float(order))
        for user in list(node.users):
            if user.target is aten.copy_.default and arguments(user)[0] is table:
                module.graph.erase_node(user)
        node.replace_all_uses_with(table)
        module.graph.erase_node(node)


def _reads(node: fx.Node, table: str) -> bool:
    return node.op == "call_function" and any(s.op == "get_attr" and s.target == table for s in node.all_input_nodes)


def _replace(module: fx.GraphModule, table: Tensor, max_norm: float, order: float) -> None:
    """Replace the table by a scaled copy under every name that it has."""
    tiny = 1e-7  # PyTorch adds it to the norm
    with torch.no_grad():
        norms = torch.linalg.vector_norm(table, order, dim=1, keepdim=True)
        scaled = torch.where(norms > max_norm, table * (max_norm / (norms + tiny)), table)
    new = nn.Parameter(scaled, requires_grad=table.requires_grad) if isinstance(table, nn.Parameter) else scaled
    for name, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if tensor_at(module, name) is table:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, new)
