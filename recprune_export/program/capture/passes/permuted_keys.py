"""Replacement of fbgemm's `permute_2D_sparse_data`, by which a KeyedJaggedTensor takes some of its keys, in another order."""

from collections.abc import Callable

import torch
from torch import fx

from recprune_export.program.capture.passes.runs_on_requests import RunsOnRequests
from recprune_export.program.nodes import argument, operator_name

aten = torch.ops.aten


def replace_permuted_keys(runs: RunsOnRequests, node: fx.Node, find_joined: Callable[[fx.Node], list[fx.Node]]) -> bool:
    """Replace a node that permutes keys, if the elements of each key are known; return whether it was replaced.

    `find_joined` returns the tensors that a node joins. Lengths: [keys, rows], values and weights: the elements of all keys.
    """
    if operator_name(node) != "fbgemm::permute_2D_sparse_data":
        return False
    order, lengths = argument(node, "permute"), argument(node, "lengths")
    orders = [run[order].tolist() for run in runs.runs]
    numbers = [run[lengths].sum(1).tolist() for run in runs.runs]
    if any(other != orders[0] for other in orders):
        return False
    members = {1: argument(node, "values"), 2: argument(node, "weights")}
    joined = {number: find_joined(member) for number, member in members.items() if isinstance(member, fx.Node)}
    for found in joined.values():
        sizes = [runs.sizes(part) for part in found]
        if [list(of_run) for of_run in zip(*sizes, strict=True)] != numbers:
            return False
    index = runs.call(aten.to.dtype, order, torch.int64)
    new = {0: runs.call(aten.index_select.default, lengths, 0, index)}
    for number, found in joined.items():
        taken = [found[key] for key in orders[0]]
        new[number] = taken[0] if len(taken) == 1 else runs.call(aten.cat.default, taken)
    for user in list(node.users):
        if user.args[1] in new:
            user.replace_all_uses_with(new[user.args[1]])  # type: ignore[index]
    return True
