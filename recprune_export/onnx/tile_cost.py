"""What a tile-sparse layer costs beside the dense one, before there is a graph of it."""

from collections.abc import Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from recprune_export.onnx.cost import cost_of
from recprune_export.onnx.machine import REFERENCE, Machine


def tile_ratios(
    outputs: int, inputs: int, tile: int, k: int, batches: Sequence[int], machine: Machine = REFERENCE
) -> Mapping[int, float]:
    """Return, by batch size, the estimated time of a layer in tiles as a multiple of the dense layer's.

    Both with a bias and an activation; the tiles in the form that `passes/tile_layers.py` gives them amid others, where a
    row of ones carries the biases. The call itself, which both have, is left out.

    >>> ratios = tile_ratios(1024, 1024, tile=64, k=102, batches=(64,))
    >>> 0.1 < ratios[64] < 0.25
    True
    """
    dense, tiled = _dense(outputs, inputs), _tiled(outputs, inputs, tile, k)

    def seconds(model: ModelProto, batch: int) -> float:
        return cost_of(model, batch, machine).estimate - machine.call

    return {batch: seconds(tiled, batch) / seconds(dense, batch) for batch in batches}


def _dense(outputs: int, inputs: int) -> ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    return _model(nodes, ("batch", inputs), {"w": (outputs, inputs), "b": (outputs,)}, {})


def _tiled(outputs: int, inputs: int, tile: int, k: int) -> ModelProto:
    tiles = -(-outputs // tile)
    nodes = [
        helper.make_node("Gather", ["x", "i"], ["a"], axis=0),
        helper.make_node("MatMul", ["w", "a"], ["m"]),
        helper.make_node("Reshape", ["m", "rows"], ["g"]),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    rows, columns = tile + 1, k + 1
    return _model(
        nodes, (inputs + 1, "batch"), {"w": (tiles, rows, columns)}, {"i": (tiles, columns)}, rows=[tiles * rows, -1]
    )


def _model(
    nodes: Sequence[NodeProto],
    request: tuple[int | str, ...],
    floats: Mapping[str, tuple[int, ...]],
    whole: Mapping[str, tuple[int, ...]],
    **sizes: list[int],
) -> ModelProto:
    """A graph whose weights have a shape and nothing else."""
    weights = [TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT) for name, dims in floats.items()]
    weights += [TensorProto(name=name, dims=dims, data_type=TensorProto.INT32) for name, dims in whole.items()]
    weights += [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in sizes.items()]
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, request)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(nodes, "layer", *ends, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
