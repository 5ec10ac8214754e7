"""Ask a sequential recommender what follows after every item of a history, not after the last one alone.

A model that looks only backwards has an answer at each place of a history, and computes most of it anyway, though it is
served with the last one. Training uses all of them (Kang and McAuley 2018, section 3.6), so one history teaches as
often as it is long.
"""

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.program.signature import BATCH, Input, Signature

aten = torch.ops.aten

POSITIONS = "places"
PROBE_ROWS = 3
TOLERANCE = 1e-4


def make_all_positions_program(program: Program) -> Program | None:
    """Return a program of the same parameters that also takes `places`, int64 [N], and answers for each of them.

    A place is row × L + position in histories [B, L]; every output has N on axis 0 where it had B. None where the answer
    does not come from the last place of a sequence alone, or a place depends on what follows it: both are proved by running.
    """
    own = program.with_copied_graph()
    last = next((node for node in own.module.graph.nodes if _picks_last(node) and _is_all_that_is_used(node)), None)
    if last is None or POSITIONS in {i.name for i in program.signature.inputs}:
        return None
    length = int(argument(last, "self").meta["val"].shape[1])
    made = _pick_places(own, last)
    return made if _is_causal(program.with_copied_graph(), made, length) else None


def find_positions(known: Tensor) -> Tensor:
    """Return the places at which bool [B, L] holds.

    >>> find_positions(torch.tensor([[False, True], [True, True]])).tolist()
    [1, 2, 3]
    """
    return known.flatten().nonzero().flatten()


def _pick_places(program: Program, last: fx.Node) -> Program:
    """Put h [B, L, …] at the places of the request where h[:, -1] was."""
    graph = program.module.graph
    *_, final_input = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(final_input):
        places = graph.placeholder(POSITIONS)
    with graph.inserting_before(last):
        flat = graph.call_function(aten.flatten.using_ints, (argument(last, "self"), 0, 1))
        picked = graph.call_function(aten.index_select.default, (flat, 0, places))
    last.replace_all_uses_with(picked)
    graph.erase_node(last)
    program.module.recompile()
    signature = Signature((*program.signature.inputs, Input(POSITIONS, "int64", (BATCH,))), program.signature.outputs)
    return Program(program.module, signature)


def _picks_last(node: fx.Node) -> bool:
    """Whether a node is h[:, -1] of h [B, L, …]."""
    if node.target is not aten.select.int:
        return False
    shape = argument(node, "self").meta["val"].shape
    if len(shape) < 2 or isinstance(shape[0], int) or not isinstance(shape[1], int):
        return False
    return argument(node, "dim") in (1, 1 - len(shape)) and argument(node, "index") in (-1, shape[1] - 1)


def _is_all_that_is_used(last: fx.Node) -> bool:
    """Whether all that the outputs know of the request came through `last`, row by row."""
    after = {last}
    for node in last.graph.nodes:  # in the order of execution
        if node.op == "output":
            return all(value in after for value in node.all_input_nodes)
        if any(value in after for value in node.all_input_nodes):
            if not all(value in after or _is_constant(value) for value in node.all_input_nodes):
                return False
            after.add(node)
    return False


def _is_constant(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and all(isinstance(size, int) for size in value.shape)


def _is_causal(program: Program, all_positions: Program, length: int) -> bool:
    """Run both: the last place answers as before, and what follows a place is not seen from there."""
    names = [i.name for i in program.signature.inputs]
    one, other = (
        dict(zip(names, sample_request_tensors(program.signature, PROBE_ROWS, seed), strict=True)) for seed in (0, 1)
    )
    histories = [name for name in names if one[name].ndim > 1 and one[name].shape[1] == length]
    if not histories:
        return False
    position = torch.arange(length).repeat(PROBE_ROWS, 1)  # [B, L]
    program.set_training(False)
    all_positions.set_training(False)
    with torch.no_grad():
        if not _close(all_positions({**one, POSITIONS: find_positions(position == length - 1)}), program(one)):
            return False
        for end in {1, length // 2, length - 1}:
            changed = {
                name: _spliced(one[name], other[name], end) if name in histories else one[name] for name in names
            }
            before = {POSITIONS: find_positions(position < end)}
            if not _close(all_positions({**one, **before}), all_positions({**changed, **before})):
                return False
    return True


def _spliced(one: Tensor, other: Tensor, end: int) -> Tensor:
    """The first `end` items of one history and the others of another."""
    return torch.cat([one[:, :end], other[:, end:]], dim=1)


def _close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=TOLERANCE, atol=TOLERANCE) for name in one)
