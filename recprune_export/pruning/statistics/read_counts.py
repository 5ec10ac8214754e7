"""How often a row of a request reads each weight: rows looked up in tables, and rows that are multiplied by matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.recorder import ValueRecorder

aten = torch.ops.aten

_TRANSPOSES = frozenset({aten.t.default, aten.permute.default, aten.transpose.int, aten.numpy_T.default})
_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default})


@dataclass(frozen=True)
class ReadCounts:
    """By the name of a matrix: for one row of a request, the rows that are looked up in it, and the rows that are multiplied by it."""

    lookups: Mapping[str, float]
    products: Mapping[str, float]


def count_reads(program: Program, request: Mapping[str, Tensor]) -> ReadCounts:
    """Return the counts of a request, a mean over its rows. Takes one forward pass."""
    parameters, nodes = program.parameters(), list(program.module.graph.nodes)
    weights = [n for n in nodes if n.op == "get_attr" and str(n.target) in parameters]
    matrices = [n for n in weights if parameters[str(n.target)].ndim == 2]
    lookups = [(str(n.target), user.name) for n in matrices for user in n.users if _looks_up(n, user)]
    products = [(str(n.target), user.name) for n in matrices for user in _find_products(n)]
    recorder = ValueRecorder(
        program, [name for _, name in (*lookups, *products)], summarize=lambda _, value: _count_rows(value)
    )
    rows = recorder(request).values
    batch = len(request[program.signature.inputs[0].name])
    counts: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for by_weight, reads in zip(counts, (lookups, products), strict=True):
        for weight, name in reads:
            by_weight[weight] = by_weight.get(weight, 0.0) + rows[name] / batch
    return ReadCounts(*counts)


def _count_rows(value: Tensor) -> float:
    return value.numel() / max(value.shape[-1], 1) if value.ndim else 1.0


def _looks_up(weight: fx.Node, user: fx.Node) -> bool:
    return user.target is aten.embedding.default and argument(user, "weight") is weight


def _find_products(weight: fx.Node) -> Iterator[fx.Node]:
    for user in weight.users:
        if user.target in _PRODUCTS:
            yield user
        elif user.target in _TRANSPOSES:
            yield from (product for product in user.users if product.target in _PRODUCTS)
