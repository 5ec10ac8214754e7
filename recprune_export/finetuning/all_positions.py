"""Create programs that predict the next item at every position of a history, not only at the last one.

A causal model has an answer at each position of a history, and computes most of it anyway, although only the last one is
served. Training uses all of them (Kang and McAuley 2018, section 3.6): one history gives as many examples as it has items.
"""

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program, sample_request_rows
from recprune_export.program.signature import BATCH, Input, Signature

aten = torch.ops.aten

POSITIONS = "places"


def make_all_positions_program(program: Program) -> Program | None:
    """Return a program with the same parameters that also takes `places`, int64 [N], and answers for each of them.

    A place is row × L + position in histories [B, L]; every output has N instead of B on axis 0. None if the answer does not depend only
    on the last position of a sequence, or if a position depends on later ones: both are verified by running the program.
    """
    copy = program.with_copied_graph()
    last = next((node for node in copy.module.graph.nodes if _selects_last(node) and _is_only_source(node)), None)
    if last is None or POSITIONS in {i.name for i in program.signature.inputs}:
        return None
    length = int(argument(last, "self").meta["val"].shape[1])
    all_positions = _select_positions(copy, last)
    return all_positions if _is_causal(program.with_copied_graph(), all_positions, length) else None


def find_positions(known: Tensor) -> Tensor:
    """Return the places, row × L + position, at which bool [B, L] is True.

    >>> find_positions(torch.tensor([[False, True], [True, True]])).tolist()
    [1, 2, 3]
    """
    return known.flatten().nonzero().flatten()


def _select_positions(program: Program, last: fx.Node) -> Program:
    """Replace h[:, -1] of h [B, L, …] by h at the places of the request."""
    graph = program.module.graph
    *_, final_input = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(final_input):
        places = graph.placeholder(POSITIONS)
    with graph.inserting_before(last):
        flat = graph.call_function(aten.flatten.using_ints, (argument(last, "self"), 0, 1))
        selected = graph.call_function(aten.index_select.default, (flat, 0, places))
    last.replace_all_uses_with(selected)
    graph.erase_node(last)
    program.module.recompile()
    signature = Signature((*program.signature.inputs, Input(POSITIONS, "int64", (BATCH,))), program.signature.outputs)
    return Program(program.module, signature)


def _selects_last(node: fx.Node) -> bool:
    """Return whether a node is h[:, -1] of h [B, L, …]."""
    if node.target is not aten.select.int:
        return False
    shape = argument(node, "self").meta["val"].shape
    if len(shape) < 2 or isinstance(shape[0], int) or not isinstance(shape[1], int):
        return False
    return argument(node, "dim") in (1, 1 - len(shape)) and argument(node, "index") in (-1, shape[1] - 1)


def _is_only_source(last: fx.Node) -> bool:
    """Return whether the outputs depend on the request only through `last`, row by row."""
    dependents = {last}
    for node in last.graph.nodes:  # in the order of execution
        if node.op == "output":
            return all(value in dependents for value in node.all_input_nodes)
        if any(value in dependents for value in node.all_input_nodes):
            if not all(value in dependents or _is_constant(value) for value in node.all_input_nodes):
                return False
            dependents.add(node)
    return False


def _is_constant(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and all(isinstance(size, int) for size in value.shape)


def _is_causal(program: Program, all_positions: Program, length: int) -> bool:
    """Return whether the answers at the last positions equal those of `program`, and no position depends on later ones, by running
    both."""
    probe_rows = 3
    names = [i.name for i in program.signature.inputs]
    request, other_request = (sample_request_rows(program.signature, probe_rows, seed) for seed in (0, 1))
    histories = [name for name in names if request[name].ndim > 1 and request[name].shape[1] == length]
    if not histories:
        return False
    position = torch.arange(length).repeat(probe_rows, 1)  # [B, L]
    program.set_training(False)
    all_positions.set_training(False)
    with torch.no_grad():
        if not _close(all_positions({**request, POSITIONS: find_positions(position == length - 1)}), program(request)):
            return False
        for end in {1, length // 2, length - 1}:
            changed = {
                name: _splice(request[name], other_request[name], end) if name in histories else request[name]
                for name in names
            }
            before = {POSITIONS: find_positions(position < end)}
            if not _close(all_positions({**request, **before}), all_positions({**changed, **before})):
                return False
    return True


def _splice(one: Tensor, other: Tensor, end: int) -> Tensor:
    """Return the first `end` items of `one` and the later ones of `other`, [B, L]."""
    return torch.cat([one[:, :end], other[:, end:]], dim=1)


def _close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-4) for name in one)
