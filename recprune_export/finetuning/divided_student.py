"""A student in several processes: during tuning, long tables are in shards, and batch-norms use the rows of all processes."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from recprune_export.distributed.layers_over_ranks import batch_norm_over_ranks
from recprune_export.distributed.ranks import is_divided
from recprune_export.distributed.row_shards import RowShard, find_shard, gather_table, is_sharded_size, mark_shard
from recprune_export.distributed.sharded_lookup import sharded_lookup
from recprune_export.finetuning.curvature import Curvature, OuterProduct
from recprune_export.finetuning.sparse_updates import find_table_lookups
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program

aten = torch.ops.aten

Nodes = dict[fx.Node, tuple[Any, Any, Any]]


@contextmanager
def divided_student(programs: Sequence[Program], row_wise: Collection[str]) -> Iterator[frozenset[str]]:
    """Inside the block, hold the long `row_wise` tables in shards, and yield their names; restore whole tables after it.

    `programs` are the student and programs that share its parameters. Inside the block this process holds only its rows of these tables;
    afterwards all processes hold whole tables, in temporary files (`gather_table`). An error inside the block leaves the programs
    unusable. With one process nothing changes.
    """
    if not is_divided():
        yield frozenset()
        return
    programs = list({id(program): program for program in programs}.values())
    tables = _find_tables(programs, row_wise)
    changed = [_divide_graph(program, tables) for program in programs]
    for name in tables:
        weight = programs[0].parameters()[name]
        shard = RowShard.of(len(weight))
        own = nn.Parameter(shard.take(weight.detach()), requires_grad=weight.requires_grad)
        mark_shard(own, shard)
        del weight
        _set_parameter(programs, name, own)
        del own
    yield tables
    for program, nodes in zip(programs, changed, strict=True):
        _restore_graph(program, nodes)
    for name in tables:
        own = programs[0].parameters()[name]
        whole = gather_table(own, everywhere=True)
        assert whole is not None
        _set_parameter(programs, name, nn.Parameter(whole, requires_grad=own.requires_grad))


def shard_curvature(curvature: Curvature | None, tables: Collection[str], program: Program) -> Curvature | None:
    """Return the curvature of the rows of this process for the `tables` that `program` holds in shards."""
    if curvature is None or not tables:
        return curvature
    return {name: _take(value, program.parameters()[name]) for name, value in curvature.items()}


def _take(curvature: Tensor | OuterProduct, weight: Tensor) -> Tensor | OuterProduct:
    shard = find_shard(weight)
    if shard is None:
        return curvature
    if isinstance(curvature, OuterProduct):
        return OuterProduct(shard.take(curvature.rows), curvature.columns)
    return shard.take(curvature)


def lookup_in_shard(weight: Tensor, ids: Tensor, rows: int, padding_id: int) -> Tensor:
    """Look up `ids` in a table of `rows` rows, of which this process holds `weight`."""
    return sharded_lookup(weight, ids, RowShard.of(rows), padding_id)


def _find_tables(programs: Sequence[Program], names: Collection[str]) -> frozenset[str]:
    """Return the long tables that all programs only look up."""
    parameters = programs[0].parameters()
    long = {
        n
        for n in names
        if is_sharded_size(len(parameters[n]), prod(parameters[n].shape[1:]), parameters[n].element_size())
    }
    for program in programs:
        lookups = find_table_lookups(program)
        readers = {name: _readers(program, name) for name in long & lookups.keys()}
        long = {name for name, nodes in readers.items() if nodes == set(lookups[name])}
    return frozenset(long)


def _readers(program: Program, name: str) -> set[fx.Node]:
    nodes = (node for node in program.module.graph.nodes if node.op == "get_attr" and str(node.target) == name)
    return {user for node in nodes for user in node.users}


def _divide_graph(program: Program, tables: Collection[str]) -> Nodes:
    """Change lookups of `tables`, and batch-norms; return the former nodes."""
    lookups = find_table_lookups(program)
    originals: Nodes = {}
    for name in tables:
        rows = len(program.parameters()[name])
        for node in lookups[name]:
            originals[node] = (node.target, node.args, dict(node.kwargs))
            arguments = (argument(node, "weight"), argument(node, "indices"), rows, argument(node, "padding_idx"))
            node.target, node.args, node.kwargs = lookup_in_shard, arguments, {}
    for node in program.module.graph.nodes:
        if node.target is aten.batch_norm.default:
            originals[node] = (node.target, node.args, dict(node.kwargs))
            node.target = batch_norm_over_ranks
    program.module.recompile()
    return originals


def _restore_graph(program: Program, nodes: Nodes) -> None:
    for node, (target, args, kwargs) in nodes.items():
        node.target = target
        if target is not aten.batch_norm.default:  # the training flag of these nodes may have changed
            node.args, node.kwargs = args, kwargs
    program.module.recompile()


def _set_parameter(programs: Sequence[Program], name: str, parameter: nn.Parameter) -> None:
    owner, _, own_name = name.rpartition(".")
    for program in programs:
        setattr(program.module.get_submodule(owner), own_name, parameter)
