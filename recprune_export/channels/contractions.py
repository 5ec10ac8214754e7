"""Operators that multiply and sum over shared axes, described as in `einsum`: one letter for each axis.

An axis whose letter is not in the output is summed over. The channel analysis and the rotations use this description of
linear layers and products.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from recprune_export.program.nodes import argument
from recprune_export.program.operator_registry import OPERATORS, Facet

aten = torch.ops.aten

Letters = tuple[object, ...]
K, N, M = "k", "n", "m"


@dataclass(frozen=True)
class Contraction:
    """The operands of a product with a letter for every axis, the letters of the result, and the bias added to it."""

    operands: tuple[tuple[Letters, fx.Node], ...]
    output: Letters
    bias: fx.Node | None = None


ContractionReader = Callable[[fx.Node], Contraction]
_READINGS: Mapping[Any, ContractionReader] = OPERATORS.rules(Facet.CONTRACTION)
_reads = partial(OPERATORS.register, Facet.CONTRACTION)


def read_contraction(node: fx.Node) -> Contraction | None:
    """Return the contraction that a node computes, or None for other operators."""
    reading = _READINGS.get(node.target)
    return reading(node) if reading is not None else None


def _rank(node: fx.Node) -> int:
    return int(node.meta["val"].ndim)


def _outer(node: fx.Node, inner: int) -> Letters:
    """Return letters of the axes before the last `inner`, numbered from the right as in broadcasting."""
    return tuple(("batch", position) for position in range(_rank(node) - inner, 0, -1))


@_reads(aten.linear.default)
def linear(node: fx.Node) -> Contraction:
    """`linear(x: ...×K, W: M×K, b: M)`: K is contracted, M is a new width."""
    x, weight = argument(node, "input"), argument(node, "weight")
    outer = _outer(x, 1)
    new = (M,) if _rank(weight) == 2 else ()
    return Contraction((((*outer, K), x), ((*new, K), weight)), (*outer, *new), argument(node, "bias"))


@_reads(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(node: fx.Node) -> Contraction:
    """`x: B×F×D @ y: B×D×G`: D is contracted, F and G stay."""
    return _product(node.args[0], node.args[1], None)


@_reads(aten.addmm.default, aten.baddbmm.default)
def add_matmul(node: fx.Node) -> Contraction:
    """`b + x @ y`: the product, then the bias."""
    return _product(node.args[1], node.args[2], node.args[0])


def _product(left: Any, right: Any, bias: Any) -> Contraction:
    rows = (N,) if _rank(left) > 1 else ()
    columns = (M,) if _rank(right) > 1 else ()
    outer_left, outer_right = _outer(left, len(rows) + 1), _outer(right, len(columns) + 1)
    outer = max(outer_left, outer_right, key=len)
    operands = (((*outer_left, *rows, K), left), ((*outer_right, K, *columns), right))
    return Contraction(operands, (*outer, *rows, *columns), bias)


@_reads(aten.outer.default)
def outer_product(node: fx.Node) -> Contraction:
    """`outer(x: N, y: M)`: N×M."""
    return Contraction((((N,), argument(node, "self")), ((M,), argument(node, "vec2"))), (N, M))


@_reads(aten.bilinear.default)
def bilinear(node: fx.Node) -> Contraction:
    """`bilinear(x: ...×N, y: ...×K, W: M×N×K, b: M)`: N and K are contracted, M is a new width."""
    left, right, weight = (argument(node, name) for name in ("input1", "input2", "weight"))
    outer = _outer(left, 1)
    operands = (((*outer, N), left), ((*outer, K), right), ((M, N, K), weight))
    return Contraction(operands, (*outer, M), argument(node, "bias"))


@_reads(aten.tensordot.default)
def tensordot(node: fx.Node) -> Contraction:
    """`tensordot(x: B×F×D, y: D×E, [2], [0])`: the listed axes are contracted pair by pair."""
    left, right = argument(node, "self"), argument(node, "other")
    pairs = zip(argument(node, "dims_self"), argument(node, "dims_other"), strict=True)
    shared = {a % _rank(left): b % _rank(right) for a, b in pairs}
    left_letters: list[object] = [("left", axis) for axis in range(_rank(left))]
    right_letters: list[object] = [("right", axis) for axis in range(_rank(right))]
    for a, b in shared.items():
        right_letters[b] = left_letters[a]
    output = [letter for axis, letter in enumerate(left_letters) if axis not in shared]
    output += [letter for letter in right_letters if letter not in left_letters]
    return Contraction(((tuple(left_letters), left), (tuple(right_letters), right)), tuple(output))


@_reads(aten.einsum.default)
def einsum(node: fx.Node) -> Contraction:
    """`einsum("bhd,bmd->bhmd", x, y)`: the letters of the equation."""
    tensors = argument(node, "tensors")
    terms, output = einsum_letters(argument(node, "equation"), [_rank(tensor) for tensor in tensors])
    return Contraction(tuple(zip(terms, tensors, strict=True)), output)


def einsum_letters(equation: str, ranks: Sequence[int]) -> tuple[list[Letters], Letters]:
    """Return the letters of each operand and of the result; axes under an ellipsis are numbered from the right.

    >>> einsum_letters("...d,d->...", [3, 1])
    ([(2, 1, 'd'), ('d',)], (2, 1))
    """
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = [_expand_ellipsis(term, rank) for term, rank in zip(inputs.split(","), ranks, strict=True)]
    letters = [letter for term in terms for letter in term]
    outer = sorted({letter for letter in letters if isinstance(letter, int)}, reverse=True)
    if not arrow:
        return terms, (*outer, *sorted({c for c in letters if isinstance(c, str) and letters.count(c) == 1}))
    before, dots, after = result.partition("...")
    return terms, (*before, *(outer if dots else []), *after)


def _expand_ellipsis(term: str, rank: int) -> Letters:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return (*before, *range(hidden, 0, -1), *after)


CONTRACTIONS = frozenset(_READINGS)
