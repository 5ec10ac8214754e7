"""One table instead of many gives the same rows, and refuses the same ids."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.errors import ExportError
from recprune_export.onnx import count_weights, make_in_memory_session
from recprune_export.onnx.optimizer import fuse_tables
from recprune_export.onnx.optimizer.optimizer_constants import MIN_FUSED_TABLES
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten, weights_of

ROWS = (7, 3, 9, 5)
DIM = 6
TABLES = {f"t{i}": floats(rows, DIM, seed=i) for i, rows in enumerate(ROWS)}


def ids(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, most, size=rows) for most in ROWS], axis=1)


MATRIX = "g (int64[batch, 4] ids) => (float[batch, 24] y)"
COLUMNS = {f"c{i}": np.array(i) for i in range(4)}
LOOKUPS = "\n".join(f"i{n} = Gather<axis=1>(ids, c{n})  e{n} = Gather(t{n}, i{n})" for n in range(4))


def test_fields_of_one_matrix_are_looked_up_together() -> None:
    model = graph(f"{MATRIX} {{ {LOOKUPS} y = Concat<axis=1>(e0, e1, e2, e3) }}", **TABLES, **COLUMNS)
    fused = rewritten(fuse_tables, model, [[ids(1)], [ids(5)]])
    assert operators(fused)["Gather"] == 1
    assert operators(fused)["Concat"] == 0
    (table,) = weights_of(fused).values()
    np.testing.assert_array_equal(table, np.concatenate(list(TABLES.values())))


def test_inputs_of_their_own_are_joined_first() -> None:
    takes = ", ".join(f"int64[batch] i{n}" for n in range(4))
    lookups = "\n".join(f"e{n} = Gather(t{n}, i{n})  u{n} = Unsqueeze(e{n}, one)" for n in range(4))
    text = f"g ({takes}) => (float[batch, 4, 6] y) {{ {lookups} y = Concat<axis=1>(u0, u1, u2, u3) }}"
    fused = rewritten(fuse_tables, graph(text, **TABLES, one=numbers(1)), [list(ids(rows).T.copy()) for rows in (1, 4)])
    assert operators(fused) == {
        "Concat": 1, "Reshape": 1, "Transpose": 1, "Add": 1, "Less": 1, "Where": 1, "Gather": 1, "Identity": 1,
    }  # fmt: skip


def test_ids_that_arrive_as_numbers_are_cast_once() -> None:
    cuts = "\n".join(
        f"s{n} = Slice(x, a{n}, a{n + 1}, one) j{n} = Cast<to=7>(s{n}) e{n} = Gather(t{n}, j{n})" for n in range(4)
    )
    text = f"g (float[batch, 5] x) => (float[batch, 24] y) {{ {cuts} z = Concat<axis=-1>(e0, e1, e2, e3) y = Reshape(z, flat) }}"
    edges = {f"a{n}": numbers(n) for n in range(5)}
    model = graph(text, **TABLES, **edges, one=numbers(1), flat=numbers(-1, 24))
    request = np.concatenate([ids(5), ids(5)[:, :1]], axis=1).astype(np.float32)
    assert operators(rewritten(fuse_tables, model, [[request]]))["Cast"] == 1


def test_whole_numbers_that_pass_as_fractions_are_taken_from_where_they_are_whole() -> None:
    cuts = "\n".join(
        f"s{n} = Slice(f, a{n}, a{n + 1}, one) j{n} = Cast<to=7>(s{n}) e{n} = Gather(t{n}, j{n})" for n in range(4)
    )
    text = (
        f"g (int64[batch, 4] ids, float[batch, 2] x) => (float[batch, 1, 24] y) {{ w = Cast<to=1>(ids)"
        f" f = Concat<axis=1>(w, x) {cuts} y = Concat<axis=2>(e0, e1, e2, e3) }}"
    )
    edges = {f"a{n}": numbers(n) for n in range(5)}
    fused = rewritten(fuse_tables, graph(text, **TABLES, **edges, one=numbers(1)), [[ids(5), floats(5, 2)]])
    assert not {"Cast", "Slice"} & set(operators(fused))


@pytest.mark.parametrize("too_large", range(4))
def test_an_id_that_is_too_large_for_its_own_table_is_refused(too_large: int) -> None:
    model = graph(f"{MATRIX} {{ {LOOKUPS} y = Concat<axis=1>(e0, e1, e2, e3) }}", **TABLES, **COLUMNS)
    run = make_in_memory_session(rewritten(fuse_tables, model, [[ids(3)]]))
    wrong = ids(3)
    wrong[1, too_large] = ROWS[too_large]
    with pytest.raises(ExportError, match="cannot run"):
        run([wrong])


def test_what_is_read_by_itself_or_in_another_order_is_picked() -> None:
    text = (
        f"g (int64[batch, 4] ids) => (float[batch, 24] y, float[batch, 30] other, float[batch, 6] alone) {{ {LOOKUPS}"
        " y = Concat<axis=1>(e0, e1, e2, e3)  other = Concat<axis=1>(e3, e0, e0, e1, e2)  alone = Relu(e2) }"
    )
    fused = rewritten(fuse_tables, graph(text, **TABLES, **COLUMNS), [[ids(1)], [ids(6)]])
    assert len(weights_of(fused)) == 1


def test_part_of_the_fields_is_cut_out() -> None:
    text = (
        f"g (int64[batch, 4] ids) => (float[batch, 24] y, float[batch, 12] part) {{ {LOOKUPS}"
        " y = Concat<axis=1>(e0, e1, e2, e3)  part = Concat<axis=1>(e1, e2) }"
    )
    assert operators(rewritten(fuse_tables, graph(text, **TABLES, **COLUMNS), [[ids(4)]]))["Slice"] == 1


def test_other_lookups_in_the_same_tables_move_along() -> None:
    text = (
        "g (int64[batch, 4] ids, int64[batch, 5] history) => (float[batch, 24] y, float[batch, 5, 6] h)"
        f" {{ {LOOKUPS} y = Concat<axis=1>(e0, e1, e2, e3)  h = Gather(t2, history) }}"
    )
    history = np.random.default_rng(1).integers(0, ROWS[2], size=(4, 5))
    fused = rewritten(fuse_tables, graph(text, **TABLES, **COLUMNS), [[ids(4), history]])
    assert len(weights_of(fused)) == 1


def test_one_table_for_two_fields_is_stored_once() -> None:
    lookups = LOOKUPS.replace("Gather(t3", "Gather(t0")
    text = f"{MATRIX} {{ {lookups} y = Concat<axis=1>(e0, e1, e2, e3) }}"
    request = ids(6)
    request[:, 3] %= ROWS[0]
    tables = {name: table for name, table in TABLES.items() if name != "t3"}
    fused = rewritten(fuse_tables, graph(text, **tables, **COLUMNS), [[request]])
    assert count_weights(fused).tables.parameters == sum(ROWS[:3]) * DIM


def test_groups_of_each_width_and_what_stands_between_them() -> None:
    takes = "int64[batch, 8] ids, float[batch, 3] x"
    columns = {f"c{i}": np.array(i) for i in range(8)}
    tables = {f"t{i}": floats(5 + i, 4 if i < 4 else 2, seed=i) for i in range(8)}
    lookups = "\n".join(f"i{n} = Gather<axis=1>(ids, c{n}) e{n} = Gather(t{n}, i{n})" for n in range(8))
    text = f"g ({takes}) => (float[batch, 27] y) {{ {lookups} y = Concat<axis=1>(e0, e1, e2, e3, x, e4, e5, e6, e7) }}"
    request = [np.random.default_rng(0).integers(0, 5, size=(6, 8)), floats(6, 3)]
    fused = rewritten(fuse_tables, graph(text, **tables, **columns), [request], places=2)
    assert operators(fused)["Gather"] == 2
    before, after = count_weights(graph(text, **tables, **columns)), count_weights(fused)
    assert before == after


def test_counts_are_those_of_the_tables() -> None:
    model = graph(f"{MATRIX} {{ {LOOKUPS} y = Concat<axis=1>(e0, e1, e2, e3) }}", **TABLES, **COLUMNS)
    fused = model.clone()
    fuse_tables(fused)
    assert count_weights(fused) == count_weights(model)
    assert count_weights(fused).tables.parameters == sum(ROWS) * DIM


FOUR = "y = Concat<axis=1>(e0, e1, e2, e3)"
MISFITS = {
    "few": f"{MATRIX.replace('24', '18')} {{ {LOOKUPS} y = Concat<axis=1>(e0, e1, e2) }}",
    "joined along the batch": f"{MATRIX.replace('24', '6')} {{ {LOOKUPS} y = Concat<axis=0>(e0, e1, e2, e3) }}",
    "scored against": (
        "g (int64[batch, 4] ids) => (float[batch, 24] y, float[batch, 7] z)"
        f" {{ {LOOKUPS} {FOUR} r = Transpose<perm=[1, 0]>(t0) z = MatMul(e1, r) }}"
    ),
    "not joined": f"{MATRIX.replace('24', '6')} {{ {LOOKUPS} a = Add(e0, e1) b = Add(e2, e3) y = Add(a, b) }}",
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_left_as_it_was(name: str) -> None:
    assert MIN_FUSED_TABLES == 4
    assert_left_alone(fuse_tables, graph(MISFITS[name], **TABLES, **COLUMNS))


def test_ids_that_wait_for_another_row_are_left_as_they_were() -> None:
    lookups = LOOKUPS.replace("i3 = Gather<axis=1>(ids, c3)", "m = ReduceMax<keepdims=0>(e0, one) i3 = Cast<to=7>(m)")
    text = f"{MATRIX} {{ {lookups} {FOUR} }}"
    assert_left_alone(fuse_tables, graph(text, **TABLES, **COLUMNS, one=numbers(1)))


def test_the_tables_are_put_together_when_they_are_read() -> None:
    model = graph(f"{MATRIX} {{ {LOOKUPS} {FOUR} }}", **TABLES, **COLUMNS)
    fuse_tables(model)
    table = model.graph.initializers["tables_0"].const_value
    assert isinstance(table, ir.LazyTensor)


REMAPPED = (1, 3)  # the fields whose ids share rows
REMAPS = {f"r{n}": np.random.default_rng(n).integers(0, ROWS[n], 11 + n).astype(np.int32) for n in REMAPPED}
THROUGH_REMAPS = "\n".join(
    f"i{n} = Gather<axis=1>(ids, c{n}) "
    + (f"j{n} = Gather(r{n}, i{n}) e{n} = Gather(t{n}, j{n})" if n in REMAPPED else f"e{n} = Gather(t{n}, i{n})")
    for n in range(4)
)


def remapped_ids(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    most = [len(REMAPS[f"r{n}"]) if n in REMAPPED else ROWS[n] for n in range(4)]
    return np.stack([np.r_[m - 1, rng.integers(0, m, size=rows - 1)] for m in most], axis=1)


def test_remaps_of_ids_become_one_remap() -> None:
    text = f"{MATRIX} {{ {THROUGH_REMAPS} y = Concat<axis=1>(e0, e1, e2, e3) }}"
    model = graph(text, **TABLES, **COLUMNS, **REMAPS)
    fused = rewritten(fuse_tables, model, [[remapped_ids(1)], [remapped_ids(40)]])
    assert operators(fused)["Gather"] == 2
    run = make_in_memory_session(fused)
    for field in range(4):
        wrong = remapped_ids(3)
        wrong[1, field] = wrong[0, field] + 1  # the first row holds the highest ids
        with pytest.raises(ExportError, match="cannot run"):
            run([wrong])


def test_a_remapped_table_that_is_read_apart_is_still_found() -> None:
    text = (
        f"g (int64[batch, 4] ids, int32[batch] other) => (float[batch, 24] y, float[batch, 6] z) {{ {THROUGH_REMAPS} "
        "y = Concat<axis=1>(e0, e1, e2, e3) z = Gather(t3, other) }"
    )
    model = graph(text, **TABLES, **COLUMNS, **REMAPS)
    rewritten(fuse_tables, model, [[remapped_ids(5), np.arange(5, dtype=np.int32)]])
