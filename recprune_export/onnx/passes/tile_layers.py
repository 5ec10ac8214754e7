"""Linear layers with tile sparsity as products of the weights that are left, features before the batch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import array_of, constant, like, only_user, rank, redirect
from recprune_export.onnx.layers import Linear, linear_of
from recprune_export.onnx.rewriting import ByPlace
from recprune_export.onnx.tiles import NOTHING, Tiles, find_tiles
from recprune_export.onnx.work import ALIASED_BYTES

ONES = 8  # columns: a whole number of vectors keeps the rows of a request aligned as they were
# One feature at a time, and finite for any finite number: what fills up a tile goes through them as well.
_ACTIVATIONS = {
    "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Gelu", "Erf",
    "Softplus", "Softsign", "Mish", "Neg", "Abs", "Identity",
}  # fmt: skip
_KEEPS_ONE = {"Relu", "LeakyRelu", "Elu", "Celu", "Abs", "Identity"}  # of the activations: what is 1 stays 1
_OF_TWO = {"Add": 0.0, "Sub": 0.0, "Mul": 0.0, "Div": 1.0, "PRelu": 0.0}  # and the constant that fills up


def find_tiled(model: ir.Model) -> list[str]:
    """Return the names of the weights that have tiles, the smallest first."""
    found = _tiled(model.graph)
    return sorted(found, key=lambda name: model.graph.initializers[name].const_value.nbytes)  # type: ignore[union-attr]


def _tile_layers(model: ir.Model, weights: Collection[str]) -> int:
    """Compute only what tile sparsity leaves of linear layers, their activations feature-major from the first to the last.

    Before: a linear layer of a value with two axes, whose outputs fall into tiles that read the same inputs, the other
    weights zero; its bias may be one row that was computed from shared inputs. After:
    `Gather(Xᵀ, inputs [tiles, k], axis=0) → MatMul(W [tiles, tile, k], ·) → Reshape`, [batch, inputs] transposed before,
    [outputs, batch] after. A product of three axes takes no bias, and to add a column costs more than an activation: where
    it can be had, one more row of the source is 1, and the bias is its weights. Units are in the order of the tiles, which
    the layer that reads them absorbs. Activations in between stay as they are; a dense layer behind becomes `Gemm(W, Xᵀ)`, and so does one
    before that has no more inputs than outputs. So there is one transpose at each end of an MLP.

    Returns the number of layers that are tiled.
    """
    tiles = {name: each for name, each in _tiled(model.graph).items() if name in weights}
    if tiles:
        _FeatureMajor(model.graph, tiles).apply()
    return len(tiles)


tile_layers = ByPlace("tile_layers", find_tiled, _tile_layers)


def _layer_of(node: ir.Node) -> Linear | None:
    """A linear layer that can be turned: the batch is one axis, and nothing else reads its weights."""
    layer = linear_of(node, computed_bias=True)
    return layer if layer is not None and rank(layer.operand) == 2 and layer.owns_weight else None


def _tiled(graph: ir.Graph) -> dict[str, Tiles]:
    layers = [layer for node in graph if (layer := _layer_of(node)) is not None]
    found = {layer.weight.name or "": find_tiles(_stored(layer)) for layer in layers}
    return {name: tiles for name, tiles in found.items() if tiles is not None}


def _stored(layer: Linear) -> np.ndarray:
    """W, [inputs, outputs], as it lies in the file."""
    array = array_of(layer.weight)
    assert array is not None
    return array.T if layer.transposed else array


@dataclass(frozen=True)
class _Turned:
    """A value [batch, features] with the features first: `value` [count, batch], each feature at its place in `rows`.

    The row `one`, where there is such a row, is 1 whatever the request.
    """

    value: ir.Value
    rows: np.ndarray
    count: int
    one: int | None = None

    @property
    def in_order(self) -> bool:
        return self.count == len(self.rows) and bool((self.rows == np.arange(self.count)).all())

    def column(self, row: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """A constant of each feature as [count, 1]."""
        column = np.full((self.count, 1), fill, dtype=np.float32)
        column[self.rows, 0] = row
        return column


class _FeatureMajor:
    """Goes along the graph once; every value that is turned has a twin, and whoever needs it as it was gets it back."""

    def __init__(self, graph: ir.Graph, tiles: Mapping[str, Tiles]) -> None:
        self._graph, self._tiles = graph, tiles
        self._turned: dict[ir.Value, _Turned] = {}
        self._made: dict[ir.Value, _Turned] = {}  # transposes of values that are not turned themselves
        self._replaced: set[ir.Node] = set()

    def apply(self) -> None:
        """Change the graph; the nodes that are left over stay."""
        for node in list(self._graph):
            layer = _layer_of(node)
            if layer is not None and (layer.weight.name in self._tiles or self._joins(layer)):
                self._turn_layer(layer)
            elif node not in self._replaced and any(
                value in self._turned for value in node.inputs if value is not None
            ):
                self._turn_elementwise(node)
        for value, turned in self._turned.items():
            self._give_back(value, turned)

    def _joins(self, layer: Linear) -> bool:
        """Whether a dense layer is better turned: it takes what is turned, or saves a larger transpose behind it."""
        return layer.operand in self._turned or (layer.inputs <= layer.outputs and self._leads_to_tiles(layer.result))

    def _leads_to_tiles(self, value: ir.Value, activations: Collection[str] = frozenset(_ACTIVATIONS)) -> bool:
        reader = only_user(value)
        while reader is not None and reader.op_type in activations:
            value, reader = reader.outputs[0], only_user(reader.outputs[0])
        layer = None if reader is None else _layer_of(reader)
        return layer is not None and layer.operand is value and layer.weight.name in self._tiles

    def _turn_layer(self, layer: Linear) -> None:
        tiles = self._tiles.get(layer.weight.name or "")
        source = self._source(layer, with_one=tiles is not None and layer.vector() is not None)
        turned = self._dense(layer, source) if tiles is None else self._tile(layer, tiles, source)
        self._turned[layer.result] = turned
        self._replaced |= {layer.node} if layer.shift is None else {layer.node, layer.shift}

    def _source(self, layer: Linear, with_one: bool) -> _Turned:
        value = layer.operand
        if value in self._turned:
            return self._turned[value]
        if value not in self._made:
            # to widen a request copies it, which is less than to add a bias to what is wider, or than to transpose rows that
            # fall on the same sets of the cache
            widened = with_one and (layer.inputs <= layer.outputs or 4 * layer.inputs % ALIASED_BYTES == 0)
            self._made[value] = self._transposed(layer, ONES if widened else 0)
        return self._made[value]

    def _transposed(self, layer: Linear, ones: int) -> _Turned:
        value, new = layer.operand, list[ir.Node]()
        if ones:
            pads = self._constant(layer, "pads", np.array([0, 0, 0, ones], dtype=np.int64))
            new.append(ir.node("Pad", [value, pads, self._constant(layer, "one", np.array(1.0, dtype=np.float32))]))
        new.append(ir.node("Transpose", [new[-1].outputs[0] if new else value], attributes={"perm": [1, 0]}))
        self._graph.insert_before(layer.node, new)
        turned = _named(new[-1], f"{value.name}_turned")
        return _Turned(turned, np.arange(layer.inputs), layer.inputs + ones, layer.inputs if ones else None)

    def _dense(self, layer: Linear, source: _Turned) -> _Turned:
        """[outputs, inputs] · [inputs, batch]; the columns are where the rows of the source are."""
        constant_bias = layer.bias is None or layer.vector() is not None
        makes_one = constant_bias and self._leads_to_tiles(layer.result, _KEEPS_ONE)
        count = layer.outputs + makes_one
        weight = np.zeros((count, source.count), dtype=np.float32)
        weight[: layer.outputs, source.rows] = layer.matrix().T
        operands = [self._constant(layer, "turned", weight), source.value]
        rows, one, new = np.arange(layer.outputs), layer.outputs if makes_one else None, list[ir.Node]()
        if layer.bias is not None or makes_one:
            operands.append(self._bias(layer, rows, count, one, new))
        return self._finish(layer, [*new, ir.node("Gemm", operands)], rows, count, one)

    def _tile(self, layer: Linear, tiles: Tiles, source: _Turned) -> _Turned:
        """One product for each tile, of the rows that it reads; the last of those may be the one that is 1."""
        vector = layer.vector()
        constant_bias = layer.bias is None or vector is not None
        makes_one = (
            constant_bias
            and (vector is not None or source.one is not None)
            and self._leads_to_tiles(layer.result, _KEEPS_ONE)
        )
        tiles = tiles.with_room() if makes_one else tiles
        (count, tile), filled = tiles.units.shape, tiles.inputs == NOTHING
        rows, one = tiles.rows(layer.outputs), int(np.argmax(tiles.units == NOTHING)) if makes_one else None
        places = np.where(filled, 0, source.rows[tiles.inputs]).astype(np.int32)
        weight = tiles.weights(layer.matrix()).astype(np.float32)
        joined = source.one is not None and constant_bias and (layer.bias is not None or makes_one)
        if joined:
            bias = self._column_of(layer, rows, count * tile, one).reshape(count, tile, 1)
            weight = np.concatenate([weight, bias], axis=2)
            places = np.concatenate([places, np.full((count, 1), source.one, dtype=np.int32)], axis=1)
        if count == 1:
            places, weight = places[0], weight[0]
        chosen = ir.node("Gather", [source.value, self._constant(layer, "inputs", places)], attributes={"axis": 0})
        new = [chosen, ir.node("MatMul", [self._constant(layer, "tiles", weight), chosen.outputs[0]])]
        if count > 1:
            shape = self._constant(layer, "rows", np.array([count * tile, -1], dtype=np.int64))
            new.append(ir.node("Reshape", [new[-1].outputs[0], shape]))
        if layer.bias is not None and not joined:
            product = new[-1]
            column = self._bias(layer, rows, count * tile, one, new)
            new.append(ir.node("Add", [product.outputs[0], column]))
        return self._finish(layer, new, rows, count * tile, one)

    def _bias(self, layer: Linear, rows: np.ndarray, count: int, one: int | None, new: list[ir.Node]) -> ir.Value:
        """The bias as a column [count, 1], a constant or by `new` nodes: b that was computed for all rows of the batch."""
        if layer.bias is None or layer.vector() is not None:
            return self._constant(layer, "column", self._column_of(layer, rows, count, one))
        assert layer.bias is not None
        order = np.zeros(count, dtype=np.int32)  # what fills up gets the first number: nobody reads it
        order[rows] = np.arange(layer.outputs)
        upright = ir.node("Reshape", [layer.bias, self._constant(layer, "upright", np.array([-1, 1], dtype=np.int64))])
        new.append(upright)
        if count == layer.outputs and (order == np.arange(count)).all():
            return upright.outputs[0]
        new.append(
            ir.node("Gather", [upright.outputs[0], self._constant(layer, "order", order)], attributes={"axis": 0})
        )
        return new[-1].outputs[0]

    def _column_of(self, layer: Linear, rows: np.ndarray, count: int, one: int | None) -> np.ndarray:
        """A constant bias as [count, 1], with 1 where nothing else comes to the row `one`."""
        column, vector = np.zeros((count, 1), dtype=np.float32), layer.vector()
        if vector is not None:
            column[rows, 0] = vector
        if one is not None:
            column[one, 0] = 1.0
        return column

    def _constant(self, layer: Linear, name: str, array: np.ndarray) -> ir.Value:
        return constant(self._graph, f"{layer.weight.name}_{name}", np.asarray(array, order="C"))

    def _finish(self, layer: Linear, new: Sequence[ir.Node], rows: np.ndarray, count: int, one: int | None) -> _Turned:
        self._graph.insert_after(layer.node, new)
        return _Turned(_named(new[-1], f"{layer.result.name}_turned"), rows, count, one)

    def _turn_elementwise(self, node: ir.Node) -> None:
        """Let an activation, or a constant for each feature, follow; of two turned values, where their rows are alike."""
        values = [value for value in node.inputs if value is not None]
        turned = [self._turned[value] for value in values if value in self._turned]
        first = turned[0]
        alike = all(t.count == first.count and (t.rows == first.rows).all() for t in turned)
        others = [value for value in values if value not in self._turned]
        if not alike or len(values) != len(node.inputs) or len(node.outputs) != 1:
            return
        if node.op_type in _ACTIVATIONS and values[0] in self._turned and all(_is_scalar(value) for value in others):
            operands: list[ir.Value] = [first.value, *others]
        elif node.op_type in _OF_TWO and (not others or node.op_type != "Div" or values[0] in self._turned):
            columns = [self._column(value, first, _OF_TWO[node.op_type]) for value in others]
            if any(column is None for column in columns) or (node.op_type == "Div" and not others):
                return
            left = iter(columns)
            operands = [self._turned[v].value if v in self._turned else next(left) for v in values]  # type: ignore[misc]
        else:
            return
        twin = ir.node(node.op_type, operands, attributes=dict(node.attributes))
        self._graph.insert_after(node, twin)
        one = first.one if node.op_type in _KEEPS_ONE else None
        self._turned[node.outputs[0]] = replace(first, value=_named(twin, f"{node.outputs[0].name}_turned"), one=one)
        self._replaced.add(node)

    def _column(self, value: ir.Value, turned: _Turned, fill: float) -> ir.Value | None:
        """A constant of one element as it is; one of a row as a column."""
        array = array_of(value)
        if array is None or array.ndim > 2:
            return None
        if array.size == 1:
            return value if array.ndim == 0 else constant(self._graph, f"{value.name}_scalar", array.reshape(()))
        if array.shape[-1] != len(turned.rows) or array.size != array.shape[-1] or array.dtype != np.float32:
            return None
        return constant(self._graph, f"{value.name}_column", turned.column(array.reshape(-1), fill))

    def _give_back(self, value: ir.Value, turned: _Turned) -> None:
        """[batch, features] for those who did not turn."""
        readers = [(node, position) for node, position in value.uses() if node not in self._replaced]
        if not readers and not value.is_graph_output():
            return
        new: list[ir.Node] = []
        last = turned.value
        if not turned.in_order:
            order = constant(self._graph, f"{value.name}_order", turned.rows.astype(np.int32))
            new.append(ir.node("Gather", [last, order], attributes={"axis": 0}))
            last = new[-1].outputs[0]
        if len(turned.rows) == 1:  # a view, where a transpose would be a copy
            shape = constant(self._graph, f"{value.name}_shape", np.array([-1, 1], dtype=np.int64))
            new.append(ir.node("Reshape", [last, shape]))
        else:
            new.append(ir.node("Transpose", [last], attributes={"perm": [1, 0]}))
        producer = turned.value.producer()
        assert producer is not None
        self._graph.insert_after(producer, new)
        back = like(new[-1], value)
        value.name = f"{value.name}_before_tiles"
        for node, position in readers:
            node.replace_input_with(position, back)
        if value.is_graph_output():
            redirect(value, back)


def _named(node: ir.Node, name: str) -> ir.Value:
    node.outputs[0].name = name
    return node.outputs[0]


def _is_scalar(value: ir.Value) -> bool:
    array = array_of(value)
    return array is not None and array.size == 1
