"""Less movement, the same values: casts, transposes, views, columns and joins."""

from collections import Counter

import numpy as np
import pytest

from recprune_export.onnx import Pass
from recprune_export.onnx.optimizer import (
    concat_then_reshape,
    eliminate_views,
    flatten_nested_concat,
    gathernd_to_flat_gather,
    gathernd_to_row_gather,
    hoist_cast,
    merge_column_slices,
    slice_before_concat,
)
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

EDGES = {f"a{n}": numbers(n) for n in range(9)} | {"one": numbers(1), "two": numbers(2)}


def cut(name: str, source: str, first: int, last: int) -> str:
    return f"{name} = Slice({source}, a{first}, a{last}, one)\n"


def test_transposes_and_views_become_one() -> None:
    text = (
        "g (float[batch, 2, 3] x) => (float[batch, 3, 2] y, float[batch, 6] v)"
        " { a = Transpose<perm=[2, 0, 1]>(x) y = Transpose<perm=[1, 0, 2]>(a)"
        "   b = Reshape(x, wide) c = Unsqueeze(b, one) v = Squeeze(c, one) }"
    )
    model = graph(text, wide=numbers(-1, 6), one=numbers(1))
    merged = rewritten(eliminate_views, model, [[floats(5, 2, 3)]], places=3)
    assert operators(merged) == {"Transpose": 1, "Reshape": 1}


def test_what_moves_nothing_is_gone() -> None:
    text = (
        "g (float[batch, 6] x, int32[batch, 2] i) => (float[batch, 6] y, int64[batch, 2] j)"
        " { a = Transpose<perm=[0, 1]>(x) b = Reshape(a, same) c = Cast<to=1>(b) y = Relu(c)"
        "   k = Cast<to=7>(i) l = Cast<to=6>(k) m = Add(l, i) j = Cast<to=7>(m) }"
    )
    merged = rewritten(
        eliminate_views, graph(text, same=numbers(-1, 6)), [[floats(5, 6), np.ones((5, 2), np.int32)]], places=4
    )
    assert operators(merged) == {"Relu": 1, "Add": 1, "Cast": 1}


def test_a_cast_that_loses_something_stays() -> None:
    text = "g (float[batch, 6] x) => (float[batch, 6] y) { a = Cast<to=7>(x) b = Cast<to=1>(a) y = Relu(b) }"
    assert_left_alone(eliminate_views, graph(text))


def test_columns_of_a_join_are_cut_out_of_its_part() -> None:
    text = (
        "g (float[batch, 3] x, float[batch, 4] z) => (float[batch, 1] y, float[batch, 4] u)"
        f" {{ c = Concat<axis=1>(x, z) {cut('y', 'c', 1, 2)} {cut('u', 'c', 3, 7)} }}"
    )
    whole = rewritten(slice_before_concat, graph(text, **EDGES), [[floats(5, 3), floats(5, 4)]], places=2)
    assert operators(whole) == {"Slice": 1, "Identity": 1}


def test_columns_of_two_parts_are_cut_out_of_the_join() -> None:
    text = (
        "g (float[batch, 3] x, float[batch, 4] z) => (float[batch, 3] y)"
        f" {{ c = Concat<axis=1>(x, z) {cut('y', 'c', 2, 5)} }}"
    )
    assert_left_alone(slice_before_concat, graph(text, **EDGES))


@pytest.mark.parametrize(
    ("columns", "left"),
    [((0, 1, 2, 3), {"Relu": 1}), ((1, 2), {"Slice": 1, "Relu": 1}), ((2, 0, 3), {"Gather": 1, "Relu": 1})],
)
def test_neighbouring_columns_are_taken_together(columns: tuple[int, ...], left: dict[str, int]) -> None:
    cuts = "".join(cut(f"s{n}", "x", n, n + 1) for n in columns)
    joined = ", ".join(f"s{n}" for n in columns)
    text = f"g (float[batch, 4] x) => (float[batch, {len(columns)}] y) {{ {cuts} c = Concat<axis=1>({joined}) y = Relu(c) }}"
    whole = rewritten(merge_column_slices, graph(text, **EDGES), [[floats(5, 4)]])
    assert {name: n for name, n in operators(whole).items() if name != "Identity"} == left


def test_columns_of_different_matrices_stay() -> None:
    text = (
        "g (float[batch, 4] x, float[batch, 4] z) => (float[batch, 2] y)"
        f" {{ {cut('a', 'x', 1, 2)} {cut('b', 'z', 1, 2)} y = Concat<axis=1>(a, b) }}"
    )
    assert_left_alone(merge_column_slices, graph(text, **EDGES))


def test_a_matrix_is_cast_once() -> None:
    cuts = "".join(f"{cut(f's{n}', 'x', n, n + 1)} i{n} = Cast<to=7>(s{n})\n" for n in range(3))
    text = f"g (float[batch, 4] x) => (int64[batch, 1] y) {{ {cuts} a = Add(i0, i1) y = Add(a, i2) }}"
    assert operators(rewritten(hoist_cast, graph(text, **EDGES), [[floats(5, 4) * 9]], places=2))["Cast"] == 1


def test_casts_of_different_things_stay() -> None:
    cuts = cut("s0", "x", 0, 1) + cut("s1", "z", 0, 1)
    casts = "a = Cast<to=7>(s0) b = Cast<to=7>(s1) y = Add(a, b)"
    text = f"g (float[batch, 4] x, float[batch, 4] z) => (int64[batch, 1] y) {{ {cuts} {casts} }}"
    assert_left_alone(hoist_cast, graph(text, **EDGES))


def test_vectors_are_joined_before_they_get_an_axis() -> None:
    names = ("x", "z", "u")
    axes = " ".join(f"{n}1 = Unsqueeze({n}, one)" for n in names)
    takes = ", ".join(f"float[batch, 4] {n}" for n in names)
    text = f"g ({takes}) => (float[batch, 3, 4] y) {{ {axes} y = Concat<axis=1>(x1, z1, u1) }}"
    request = [floats(5, 4, seed=seed) for seed in range(3)]
    assert operators(rewritten(concat_then_reshape, graph(text, **EDGES), [request])) == {"Concat": 1, "Reshape": 1}
    assert_left_alone(
        concat_then_reshape, graph(text.replace("axis=1", "axis=2").replace("3, 4] y", "1, 12] y"), **EDGES)
    )


NESTED = (
    "g (float[batch, 2] x, float[batch, 3] z) => (float[batch, 12] y)"
    " { a = Concat<axis=1>(x, z) b = Concat<axis=1>(a, z) c = Relu(b) d = Relu(x) e = Concat<axis=-1>(d, x)"
    "   y = Concat<axis=1>(c, e) }"
)


def test_joins_of_joins_are_one() -> None:
    assert (
        operators(rewritten(flatten_nested_concat, graph(NESTED), [[floats(5, 2), floats(5, 3)]], places=2))["Concat"]
        == 2
    )


def test_a_join_that_something_else_reads_or_along_another_axis_stays() -> None:
    text = (
        "g (float[batch, 2, 3] x) => (float[batch, 4, 6] y, float[batch, 4, 3] a)"
        " { a = Concat<axis=1>(x, x) b = Concat<axis=1>(x, x) c = Relu(b) d = Concat<axis=1>(x, x) y = Concat<axis=2>(c, d) }"
    )
    assert_left_alone(flatten_nested_concat, graph(text))


PICK = (
    "g (float[batch, 5, 5] x) => (float[batch, 10] y)"
    " { a = Transpose<perm=[1, 2, 0]>(x) b = GatherND(a, pairs) y = Transpose<perm=[1, 0]>(b) }"
)


@pytest.mark.parametrize(("selection", "transposes"), [(gathernd_to_flat_gather, 0), (gathernd_to_row_gather, 2)])
def test_pairs_are_picked_by_one_number(selection: Pass, transposes: int) -> None:
    pairs = np.stack(np.triu_indices(5, 1), axis=1)
    pairs[0] -= 5  # from the end, the same element
    flat = rewritten(selection, graph(PICK, pairs=pairs), [[floats(1, 5, 5)], [floats(3, 5, 5)]])
    assert operators(flat) == Counter(Reshape=1, Gather=1, Transpose=transposes)


@pytest.mark.parametrize("selection", [gathernd_to_flat_gather, gathernd_to_row_gather])
def test_another_pick_stays(selection: Pass) -> None:
    pairs = np.stack(np.triu_indices(5, 1), axis=1)
    assert_left_alone(selection, graph(PICK.replace("1, 2, 0", "2, 1, 0"), pairs=pairs))
    assert_left_alone(selection, graph(PICK.replace("[batch, 10]", "[batch, 5, 5]"), pairs=pairs[:, :1]))
