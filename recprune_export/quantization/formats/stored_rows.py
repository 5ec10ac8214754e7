"""Matrices stored by row in a graph, and the nodes that dequantize some of the rows or all of them.

Values that depend only on constants, such as all dequantized rows of a layer, are computed once by ONNX Runtime, at load.
Bytes of numbers with 2 and 3 bits are decoded by a lookup in a codebook of levels, which is faster than shifts: a byte contains four
numbers, so a Gather copies 16 bytes at a time (docs/decisions/table-formats.md). Codebooks are also computed at load, so that the file
does not contain them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, get_rank
from recprune_export.onnx.quantized_weights import SCALE_FACTOR, describe_rows
from recprune_export.quantization.formats.arithmetic import INT4_ZERO
from recprune_export.quantization.formats.packed_rows import pack_matrix, scale_factors

FLOAT, INT32 = ({"to": kind.value} for kind in (ir.DataType.FLOAT, ir.DataType.INT32))
AXIS = {"axis": 0}
PREFIX = "stored_rows/"  # the prefix of the names of shared constants


@dataclass(frozen=True)
class StoredRows:
    """A matrix in a graph: `rows` [N, bytes of a row], and `codes` [N, 1] or [1, 1] of scales in the `book`, None for fp16.

    `unpack` makes the nodes that convert some of the rows, of a known number of axes, to floats, still without scales; the
    last one outputs them.
    """

    rows: ir.Value
    codes: ir.Value | None
    book: ir.Value | None
    unpack: Callable[[ir.Value], list[ir.Node]]

    def dequantize(self, rows: ir.Value, codes: ir.Value | None) -> list[ir.Node]:
        """Return nodes of which the last outputs the dequantized `rows`, which have `codes`."""
        new = self.unpack(rows)
        if codes is None:
            return new
        scales = self.look_up_scales(codes)
        return [*new, *scales, ir.node("Mul", [new[-1].outputs[0], scales[-1].outputs[0]])]

    def look_up_scales(self, codes: ir.Value) -> list[ir.Node]:
        """Return the nodes of which the last outputs the scales of `codes`, in the shape of the codes."""
        index = ir.node("Cast", [codes], attributes=INT32)
        return [index, ir.node("Gather", [self.book, index.outputs[0]], attributes=AXIS)]


def store_rows(graph: ir.Graph, name: str, matrix: np.ndarray, bits: int) -> StoredRows:
    """Store a matrix [N, D] in 8, 7, 4, 3 or 2 bits by row; both initializers start with `name`."""
    packed = pack_matrix(matrix, bits)
    codes = add_initializer(graph, f"{name}_scales", packed.codes)
    rows = add_initializer(graph, f"{name}_int{max(bits, 8) if bits >= 7 else bits}", packed.rows)
    assert rows.const_value is not None
    rows.const_value.doc_string = describe_rows(bits, packed.dimensions, codes.name or "")
    book = _add_scale_book(graph, packed.octave)
    return StoredRows(rows, codes, book, _make_unpack(graph, bits, packed.dimensions))


def store_columns(
    graph: ir.Graph, name: str, matrix: np.ndarray, bits: int
) -> tuple[ir.Value, ir.Value, np.ndarray, list[ir.Node]]:
    """Store a matrix [D, N] in 8 or 7 bits with a scale for each column; its bytes are those of the transpose by row.

    No scale is 0, so that a bias may be divided by it. Returns the integers [D, N], the scales [N] as a value and as an
    array, and the nodes that compute the value.
    """
    packed = pack_matrix(np.ascontiguousarray(matrix.T), bits).without_zero_scales()
    codes = add_initializer(graph, f"{name}_scales", packed.codes[:, 0])
    columns = add_initializer(graph, f"{name}_int8", np.ascontiguousarray(packed.rows.T))
    assert columns.const_value is not None
    columns.const_value.doc_string = describe_rows(bits, matrix.shape[1], codes.name or "")
    stored = StoredRows(columns, codes, _add_scale_book(graph, packed.octave), cast)
    scales = stored.look_up_scales(codes)
    return columns, scales[-1].outputs[0], packed.scales()[:, 0], scales


def cast(rows: ir.Value) -> list[ir.Node]:
    """Return the node that converts `rows` to floats."""
    return [ir.node("Cast", [rows], attributes=FLOAT)]


def _make_unpack(graph: ir.Graph, bits: int, dimensions: int) -> Callable[[ir.Value], list[ir.Node]]:
    if bits >= 7:
        return cast
    if bits == 4:
        return lambda rows: _unpack_halves(graph, rows, dimensions)
    planes = (2, 1) if bits == 3 else (2,)
    return lambda rows: _look_up_levels(graph, rows, planes, dimensions)


def _unpack_halves(graph: ir.Graph, rows: ir.Value, dimensions: int) -> list[ir.Node]:
    """Return `Sub(Cast(Concat(BitwiseAnd(rows, 15), BitShift(rows, 4))), 8)`."""
    mask, shift = _share(graph, "low_half", np.array(15, np.uint8)), _share(graph, "high_half", np.array(4, np.uint8))
    low = ir.node("BitwiseAnd", [rows, mask])
    high = ir.node("BitShift", [rows, shift], attributes={"direction": "RIGHT"})
    joined = ir.node("Concat", [low.outputs[0], high.outputs[0]], attributes={"axis": -1})
    new = [low, high, joined, *_slice_padding(graph, joined, dimensions, 2)]
    floats = ir.node("Cast", new[-1].outputs, attributes=FLOAT)
    zero = _share(graph, "zero_of_4_bits", np.array(INT4_ZERO, np.float32))
    return [*new, floats, ir.node("Sub", [floats.outputs[0], zero])]


def _look_up_levels(graph: ir.Graph, rows: ir.Value, planes: Sequence[int], dimensions: int) -> list[ir.Node]:
    """Return `Reshape(Gather(levels, Cast(rows)))` for the plane of 2 bits, and for 3 bits the sum with that of 1 bit.

    The bytes of a row become a new axis of four or eight numbers each, which the Reshape removes.
    """
    index = ir.node("Cast", [rows], attributes=INT32)
    new, parts = [index], list(index.outputs)
    widths = [-(-dimensions * bits // 8) for bits in planes]
    if len(planes) > 1:
        sizes = _share(graph, f"planes_of_{dimensions}", np.array(widths))
        new.append(ir.node("Split", [index.outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(planes)))
        parts = list(new[-1].outputs)
    axes = get_rank(rows)
    assert axes is not None
    results = []
    for bits, width, part in zip(planes, widths, parts, strict=True):
        found = ir.node("Gather", [_add_level_book(graph, bits), part], attributes=AXIS)
        shape = _share(graph, f"row_of_{width * 8 // bits}_in_{axes}", np.array([0] * (axes - 1) + [width * 8 // bits]))
        joined = ir.node("Reshape", [found.outputs[0], shape])
        new += [found, joined, *_slice_padding(graph, joined, dimensions, 8 // bits)]
        results.append(new[-1].outputs[0])
    return new if len(results) == 1 else [*new, ir.node("Add", results)]


def _slice_padding(graph: ir.Graph, joined: ir.Node, dimensions: int, multiple: int) -> list[ir.Node]:
    """Return the nodes that remove the numbers padded to whole bytes."""
    if dimensions % multiple == 0:
        return []
    bounds = [_share(graph, f"number_{number}", np.array([number])) for number in (0, dimensions, -1)]
    return [ir.node("Slice", [joined.outputs[0], *bounds])]


def _add_scale_book(graph: ir.Graph, octave: int) -> ir.Value:
    """Return the scales of all codes, [256]: those below 1 times 2^octave; weights of one octave share them."""
    name, shared = f"{PREFIX}scales_below_2^{octave}", f"{PREFIX}scales_below_2^0"
    book, base = _find_value(graph, name), _find_value(graph, shared)
    if book is not None:
        return book
    if base is None:
        fine, coarse = scale_factors()
        factors = [_share(graph, "steps", fine), _share(graph, "octaves", coarse)]
        for factor in factors:
            assert factor.const_value is not None
            factor.const_value.doc_string = SCALE_FACTOR
        product = ir.node("Mul", factors)
        flat = ir.node("Reshape", [product.outputs[0], _share(graph, "flat", np.array([-1]))])
        base = _insert_first(graph, [product, flat], shared)
    if octave == 0:
        return base
    scaled = ir.node("Mul", [base, _share(graph, f"2^{octave}", np.exp2(np.float32(octave)))])
    scaled.outputs[0].name = name
    graph.insert_after(_get_producer(base), scaled)
    return scaled.outputs[0]


def _add_level_book(graph: ir.Graph, bits: int) -> ir.Value:
    """Return the levels in each byte, float32 [256, 4] for 2 bits and [256, 8] for the high bits of 3; tables share them.

    2 bits: -1.5, ..., 1.5. The high bit: -2, 2.
    """
    name = f"levels_of_{bits}_bits"
    book = _find_value(graph, PREFIX + name)
    if book is not None:
        return book
    shifts, step, zero = ([0, 2, 4, 6], 1.0, 1.5) if bits == 2 else (range(8), 4.0, 2.0)
    numbers = _share(graph, "bytes", np.arange(256, dtype=np.uint8)[:, None])
    shifted = ir.node(
        "BitShift",
        [numbers, _share(graph, f"{name}_places", np.array([shifts], np.uint8))],
        attributes={"direction": "RIGHT"},
    )
    masked = ir.node("BitwiseAnd", [shifted.outputs[0], _share(graph, f"{name}_mask", np.array(2**bits - 1, np.uint8))])
    floats = ir.node("Cast", masked.outputs, attributes=FLOAT)
    scaled = ir.node("Mul", [floats.outputs[0], _share(graph, f"{name}_step", np.array(step, np.float32))])
    levels = ir.node("Sub", [scaled.outputs[0], _share(graph, f"{name}_zero", np.array(zero, np.float32))])
    return _insert_first(graph, [shifted, masked, floats, scaled, levels], PREFIX + name)


def _insert_first(graph: ir.Graph, nodes: Sequence[ir.Node], name: str) -> ir.Value:
    nodes[-1].outputs[0].name = name
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def _find_value(graph: ir.Graph, name: str) -> ir.Value | None:
    return next((value for node in graph for value in node.outputs if value.name == name), None)


def _get_producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _share(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Return the constant that all stored rows share, which is added to the graph at its first use."""
    unique = PREFIX + name
    return graph.initializers[unique] if unique in graph.initializers else add_initializer(graph, unique, array)
