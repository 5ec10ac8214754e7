"""Find the inner product at which two parts of a graph over disjoint inputs meet, by dataflow from the output back.

A score is separable if it is f(u · i), with u computed from some inputs, i from the others, and f increasing. Terms and factors that
depend on only one side become part of its vector: u · i + b(user) is [u, b] · [i, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from recprune_export.column_names import list_names
from recprune_export.derived.towers.score_formula import INCREASING, SCALE, SHIFT, Step
from recprune_export.errors import ModelError
from recprune_export.onnx.graph import find_producer, get_constant_array, get_constant_integers, get_dims

Support = frozenset[str]
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


@dataclass(frozen=True)
class Side:
    """One side of the inner product, in values of the graph.

    `vector` has `width` numbers per row; `factors` multiply them by one number per row, or divide if the second entry is true; `terms`
    are numbers per row that are added to the inner product, with their coefficients.
    """

    inputs: Support
    vector: ir.Value
    width: int
    factors: tuple[tuple[ir.Value, bool], ...] = ()
    terms: tuple[tuple[ir.Value, float], ...] = ()


@dataclass(frozen=True)
class SeparableScore:
    """A score that is `steps` of the inner product of two sides, which meet at the operator `meeting`.

    `weights` [width] are multiplied into the products of the numbers of both sides; None for 1.
    """

    sides: tuple[Side, Side]
    weights: np.ndarray | None
    steps: tuple[Step, ...]
    meeting: str


@dataclass
class _Walk:
    """The operators that were passed on the way from the output back to the current value."""

    steps: list[Step] = field(default_factory=list)  # from the output back
    factors: list[tuple[ir.Value, bool]] = field(default_factory=list)
    terms: list[tuple[ir.Value, float]] = field(default_factory=list)


def find_separable_score(graph: ir.Graph) -> SeparableScore:
    """Return the two sides of the only output of `graph`, the one with the first input first.

    Raises `ModelError` with the reason if it is not separable: inputs that reach both sides, or the operator at which they meet.
    """
    if len(graph.outputs) != 1:
        names = list_names(value.name or "" for value in graph.outputs)
        raise ModelError(
            f"The model returns {names}, but two towers compute one score: select one with --outputs NAME."
        )
    return _Finder(graph).find()


class _Finder:
    """Walks from the output of a graph back to the operator at which two sides meet."""

    def __init__(self, graph: ir.Graph) -> None:
        self._supports = _find_supports(graph)
        self._order = [value.name or "" for value in graph.inputs]
        (self._output,) = graph.outputs
        self._whole = self._supports[self._output]
        self._walk = _Walk()

    def find(self) -> SeparableScore:
        value: ir.Value = self._output
        if len(self._whole) < 2:
            read = f"'{next(iter(self._whole))}' alone" if self._whole else "no input"
            raise ModelError(f"The score '{value.name}' reads {read}, so the model does not have two towers.")
        if not self._has_one_number(value):
            raise ModelError(
                f"'{value.name}' contains several scores per row, but a pair of vectors gives one; use --top-k to "
                "rank all items in the file."
            )
        while True:
            product = self._read_product(value)
            if product is not None:
                return self._finish(*product)
            value = self._step_back(value)

    def _step_back(self, value: ir.Value) -> ir.Value:
        """Pass the operator that computes `value`; return the operand through which the sides meet."""
        node = value.producer()
        assert node is not None
        whole = [operand for operand in node.inputs if operand is not None and self._supports[operand] == self._whole]
        is_quotient = node.op_type == "Div" and len(whole) == 2
        if node.domain not in ("", "ai.onnx") or (len(whole) != 1 and not is_quotient):
            raise self._refuse(node)
        if node.op_type in _VIEWS and whole[0] is node.inputs[0]:
            return whole[0]
        if node.op_type in INCREASING:
            if self._walk.terms or self._walk.factors:
                raise self._refuse(node, "and a term of one side only is added or multiplied after it")
            self._walk.steps.append(Step(node.op_type))
            return whole[0]
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            return self._pass_arithmetic(node)
        raise self._refuse(node)

    def _pass_arithmetic(self, node: ir.Node) -> ir.Value:
        first, second = node.inputs
        assert first is not None and second is not None
        inner, other = (first, second) if self._supports[first] == self._whole else (second, first)
        constant = get_constant_array(other)
        if constant is not None and constant.size == 1:
            self._pass_constant(node, float(constant.reshape(())), inner is first)
            return inner
        if not self._has_one_number(other):
            raise self._refuse(node)
        if node.op_type in ("Add", "Sub"):
            coefficient = -1.0 if node.op_type == "Sub" and inner is first else 1.0
            if node.op_type == "Sub" and inner is second:
                self._add_step(SCALE, -1.0)
                coefficient = -1.0  # t - x is -(x - t)
            self._walk.terms.append((other, coefficient))
            return inner
        if self._walk.terms or (node.op_type == "Div" and inner is second):
            raise self._refuse(node)
        for factor in self._split_factor(node, other):
            self._walk.factors.append((factor, node.op_type == "Div"))
        return inner

    def _pass_constant(self, node: ir.Node, number: float, inner_is_first: bool) -> None:
        if node.op_type == "Mul":
            self._add_step(SCALE, number)
        elif node.op_type == "Div" and inner_is_first and number:
            self._add_step(SCALE, 1.0 / number)
        elif node.op_type == "Add":
            self._add_step(SHIFT, number)
        elif node.op_type == "Sub":
            self._add_step(SHIFT, -number if inner_is_first else number)
            if not inner_is_first:
                self._add_step(SCALE, -1.0)
        else:
            raise self._refuse(node)

    def _add_step(self, operator: str, number: float) -> None:
        self._walk.steps.append(Step(operator, number))
        if operator == SCALE:
            if number == 0.0:
                raise ModelError(f"'{self._output.name}' multiplies the inner product by 0, so it cannot rank items.")
            self._walk.terms = [(value, coefficient / number) for value, coefficient in self._walk.terms]

    def _split_factor(self, node: ir.Node, value: ir.Value) -> tuple[ir.Value, ...]:
        """Return a factor of one side, or the factors of both sides if it is their product."""
        if self._supports[value] != self._whole:
            return (value,)
        product = find_producer(value, "Mul")
        operands = () if product is None else tuple(v for v in product.inputs if v is not None)
        if not operands or any(self._supports[v] == self._whole for v in operands):
            raise self._refuse(node)
        return operands

    def _read_product(self, value: ir.Value) -> tuple[ir.Value, ir.Value, int, np.ndarray | None, str] | None:
        """Return the operands, their width and the weights of an inner product that computes `value`; None for other operators."""
        node = find_producer(value, "ReduceSum", "MatMul", "Gemm", "Einsum")
        if node is None:
            return None
        operands = [v for v in node.inputs if v is not None]
        if node.op_type == "ReduceSum":
            axes = get_constant_integers(operands[1]) if len(operands) > 1 else None
            return self._read_sum(node, operands[0]) if axes is not None and self._is_last(operands[0], axes) else None
        if node.op_type == "Einsum":
            return self._read_einsum(node, operands)
        weights = get_constant_array(operands[1])
        if weights is not None:
            if node.op_type == "Gemm":
                self._pass_gemm(node, operands)
                weights = weights.T if _is_set(node, "transB") else weights
            if weights.ndim > 2 or weights.size != len(weights) or _is_set(node, "transA"):
                raise self._refuse(node)
            return self._read_sum(node, operands[0], weights.reshape(-1))
        return self._read_matrix_product(node, operands)

    def _pass_gemm(self, node: ir.Node, operands: Sequence[ir.Value]) -> None:
        if len(operands) > 2 and (bias := get_constant_array(operands[2])) is not None and bias.size == 1:
            self._add_step(SHIFT, float(bias.reshape(())) * node.attributes.get_float("beta", 1.0))
        elif len(operands) > 2:
            raise self._refuse(node)
        if (alpha := node.attributes.get_float("alpha", 1.0)) != 1.0:
            self._add_step(SCALE, alpha)

    def _read_sum(
        self, node: ir.Node, products: ir.Value, weights: np.ndarray | None = None
    ) -> tuple[ir.Value, ir.Value, int, np.ndarray | None, str]:
        """Read the sum of `products`, which may be multiplied by constants."""
        while (product := find_producer(products, "Mul", "Div")) is not None:
            first, second = product.inputs
            assert first is not None and second is not None
            constant, inner = get_constant_array(second), first
            if constant is None and product.op_type == "Mul":
                constant, inner = get_constant_array(first), second
            if constant is None:
                break
            numbers = constant.reshape(-1) if product.op_type == "Mul" else 1.0 / constant.reshape(-1)
            weights, products = numbers if weights is None else weights * numbers, inner
        if product is None or product.op_type != "Mul":
            raise self._refuse(node)
        first, second = product.inputs
        assert first is not None and second is not None
        dims = get_dims(products) or []
        width = dims[-1] if dims else None
        if not isinstance(width, int) or any(isinstance(size, int) and size != 1 for size in dims[:-1]):
            raise self._refuse(node)
        if any(_get_width(operand) != width for operand in (first, second)):
            raise self._refuse(product)
        if weights is not None and weights.size == 1:
            weights = np.repeat(weights, width)
        return first, second, width, weights, f"{node.op_type} of Mul"

    def _read_einsum(
        self, node: ir.Node, operands: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value, int, np.ndarray | None, str]:
        equation = node.attributes.get_string("equation", "").replace(" ", "")
        terms, _, result = equation.partition("->")
        letters = terms.split(",")
        if len(operands) != 2 or len(set(letters)) != 1 or len(letters[0]) != 2 or result != letters[0][0]:
            raise self._refuse(node)
        width = _get_width(operands[0])
        if width is None:
            raise self._refuse(node)
        return operands[0], operands[1], width, None, "Einsum"

    def _read_matrix_product(
        self, node: ir.Node, operands: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value, int, np.ndarray | None, str]:
        """Read a product of rows [.., 1, width] with columns [.., width, 1], or of a matrix with one column."""
        if node.op_type == "Gemm" and _is_set(node, "transA"):
            raise self._refuse(node)
        rows, columns = get_dims(operands[0]), get_dims(operands[1])
        if rows is None or columns is None or len(rows) < 2 or len(columns) < 2:
            raise self._refuse(node)
        if node.op_type == "Gemm":
            self._pass_gemm(node, operands)
            if _is_set(node, "transB"):
                columns = [*columns[:-2], columns[-1], columns[-2]]
        width = rows[-1]
        one_row = len(rows) == 2 or rows[-2] == 1
        if not isinstance(width, int) or columns[-2:] != [width, 1] or not one_row or len(rows) != len(columns) > 3:
            raise self._refuse(node)
        return operands[0], operands[1], width, None, node.op_type

    def _finish(
        self, first: ir.Value, second: ir.Value, width: int, weights: np.ndarray | None, meeting: str
    ) -> SeparableScore:
        supports = [self._supports[first], self._supports[second]]
        if supports[0] & supports[1]:
            raise ModelError(
                f"{self._name_inputs(supports[0] & supports[1])} both sides of the {meeting} that makes '{self._output.name}', so "
                "the model cannot be split there."
            )
        if not all(supports):
            raise ModelError(
                f"One side of the {meeting} that makes '{self._output.name}' reads no input, so the model does not have two towers."
            )
        sides = [Side(support, vector, width) for support, vector in zip(supports, (first, second), strict=True)]
        for value, inverse in self._walk.factors:
            side = self._find_side(sides, value, meeting)
            sides[side] = replace(sides[side], factors=(*sides[side].factors, (value, inverse)))
        for value, coefficient in self._walk.terms:
            side = self._find_side(sides, value, meeting)
            sides[side] = replace(sides[side], terms=(*sides[side].terms, (value, coefficient)))
        steps = tuple(reversed(self._walk.steps))
        if np.prod([np.sign(step.number) for step in steps if step.operator == SCALE and step.number is not None]) < 0:
            raise ModelError(
                f"'{self._output.name}' decreases with the inner product, so an index of the largest inner products does not rank "
                "by it: negate one of the towers."
            )
        sides.sort(key=lambda side: min(self._order.index(name) for name in side.inputs))
        return SeparableScore((sides[0], sides[1]), weights, steps, meeting)

    def _find_side(self, sides: Sequence[Side], value: ir.Value, meeting: str) -> int:
        support = self._supports[value]
        for number, side in enumerate(sides):
            if support <= side.inputs:
                return number
        raise ModelError(
            f"{self._name_inputs(support)} a part of '{self._output.name}' in addition to the {meeting} that belongs to neither tower, so "
            "the model cannot be split there."
        )

    def _has_one_number(self, value: ir.Value) -> bool:
        """Return whether a value has one number in each row."""
        dims = get_dims(value)
        return dims is not None and all(size == 1 for size in dims[1:])

    def _is_last(self, value: ir.Value, axes: Sequence[int]) -> bool:
        dims = get_dims(value)
        return dims is not None and [axis % len(dims) for axis in axes] == [len(dims) - 1]

    def _name_inputs(self, support: Support) -> str:
        names = [name for name in self._order if name in support]
        quoted = list_names(f"'{name}'" for name in names)
        return f"{quoted} {'reaches' if len(names) == 1 else 'reach'}"

    def _refuse(self, node: ir.Node, reason: str = "") -> ModelError:
        reads = [self._supports[v] for v in node.inputs if v is not None and self._supports[v]]
        both = frozenset.intersection(*reads) if len(reads) > 1 else frozenset[str]()
        if both and both != self._whole:
            return ModelError(
                f"{self._name_inputs(both)} both sides of the {node.op_type} that makes '{self._output.name}', so the model cannot be "
                "split there."
            )
        meeting = self._find_meeting(node)
        return ModelError(
            f"The inputs {list_names(name for name in self._order if name in self._whole)} meet at the operator {meeting.op_type}"
            f"{', ' + reason if reason else ''}; a model can be split only if its two sides meet in one inner product or cosine."
        )

    def _find_meeting(self, node: ir.Node) -> ir.Node:
        """Return the first operator before `node` that reads all inputs through several operands."""
        while True:
            whole = [v for v in node.inputs if v is not None and self._supports[v] == self._whole]
            before = whole[0].producer() if whole else None
            if before is None:
                return node
            node = before


def _is_set(node: ir.Node, name: str) -> bool:
    """Return whether an attribute of a node is 1."""
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() == 1


def _get_width(value: ir.Value) -> int | None:
    """Return the size of the last axis; None if it is unknown."""
    dims = get_dims(value)
    return dims[-1] if dims and isinstance(dims[-1], int) else None


def _find_supports(graph: ir.Graph) -> dict[ir.Value, Support]:
    """Return the inputs on which each value of a graph depends."""
    supports: dict[ir.Value, Support] = {value: frozenset() for value in graph.initializers.values()}
    supports |= {value: frozenset([value.name or ""]) for value in graph.inputs}
    everything = frozenset(value.name or "" for value in graph.inputs)
    for node in graph:
        inner = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        reads = [supports.get(value, frozenset()) for value in node.inputs if value is not None]
        support = everything if inner else frozenset[str]().union(*reads)
        supports.update(dict.fromkeys(node.outputs, support))
    return supports
