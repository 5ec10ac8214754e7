"""A rewrite is kept where it answers alike, costs no more, and leaves no more than it may."""

import json
from collections.abc import Collection
from math import prod
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from recprune_export.onnx import (
    REWRITES,
    Machine,
    NonzeroLimits,
    Pass,
    add_initializer,
    find_nodes,
    replace_node,
    rewrite,
)
from recprune_export.onnx.optimizer import (
    TOLERANCE,
    fold_scale_shift,
    fold_table_into_gemm,
    gathernd_to_flat_gather,
    gathernd_to_row_gather,
    largest_relative_difference,
    reduce_sum_to_matmul,
)
from recprune_export.onnx.optimizer import _rewrite as rewriting
from recprune_export.onnx.optimizer._rewrite import SelectivePass
from recprune_export.onnx.optimizer.optimizer_constants import MAX_SLOWDOWN
from tests.onnx.graphs import floats, graph, numbers, operators
from tests.onnx.optimizer.passes.test_eliminate_views import PICK
from tests.onnx.optimizer.passes.test_first_layer import PARTS, SMALL, request

SCALED = "g (float[batch, 4] x) => (float[batch, 6] y) { a = Mul(x, s) y = Gemm<transB=1>(a, w) }"
PROBES = [[floats(1, 4)], [floats(5, 4, seed=1)]]


def scaled() -> ir.Model:
    return graph(SCALED, s=floats(4), w=floats(6, 4, seed=2))


def test_what_proves_itself_is_kept_and_the_rest_is_told() -> None:
    model = scaled()
    after, report = rewrite(model, REWRITES, PROBES, (1, 256))
    assert operators(after) == {"Gemm": 1}
    assert operators(model) == {"Mul": 1, "Gemm": 1}
    (folded,) = report
    assert (folded.name, folded.places, folded.accepted) == ("fold_scale_shift", 1, True)
    assert folded.error <= TOLERANCE
    assert all(folded.after[batch] < folded.before[batch] for batch in (1, 256))
    assert json.loads(json.dumps(folded.to_dict()))["after"]["256"] > 0


def test_a_wrong_rewrite_is_dropped() -> None:
    def drop_the_scale(model: ir.Model) -> int:
        (node,) = find_nodes(model.graph, "Mul")
        replace_node(model.graph, node, [ir.node("Identity", node.inputs[:1])])
        return 1

    after, (dropped,) = rewrite(scaled(), [drop_the_scale], PROBES, (1,))
    assert not dropped.accepted
    assert "differ" in dropped.reason
    assert dropped.error > TOLERANCE
    assert operators(after) == {"Mul": 1, "Gemm": 1}


def test_a_rewrite_that_does_not_run_is_dropped() -> None:
    def break_the_sizes(model: ir.Model) -> int:
        (node,) = find_nodes(model.graph, "Gemm")
        node.replace_input_with(1, add_initializer(model.graph, "narrow", floats(6, 3)))
        return 1

    _, (dropped,) = rewrite(scaled(), [break_the_sizes, fold_scale_shift][:1], PROBES, (1,))
    assert not dropped.accepted
    assert dropped.to_dict()["error"] is None


def test_a_rewrite_that_costs_more_is_dropped_without_a_run() -> None:
    pairs = np.stack(np.triu_indices(27, 1), axis=1)
    model = graph(PICK.replace("5, 5", "27, 27").replace("10]", "351]"), pairs=pairs)
    probes = [[floats(2, 27, 27)]]
    _, (few,) = rewrite(model, [gathernd_to_flat_gather], probes, (1,))
    _, (many,) = rewrite(model, [gathernd_to_flat_gather], probes, (1, 1024))
    assert few.accepted
    assert "slower at batch 1024" in many.reason


@pytest.mark.parametrize(("fields", "accepted"), [(5, False), (27, True)])
def test_rows_of_a_transpose_are_gathered_where_the_pairs_are_many(fields: int, accepted: bool) -> None:
    pairs = np.stack(np.triu_indices(fields, 1), axis=1)
    model = graph(PICK.replace("5, 5", f"{fields}, {fields}").replace("10]", f"{len(pairs)}]"), pairs=pairs)
    _, (report,) = rewrite(model, [gathernd_to_row_gather], [[floats(2, fields, fields)]], (1, 32, 256, 1024))
    assert report.accepted is accepted


def test_a_little_more_at_one_batch_size_is_paid_for_a_gain_on_average() -> None:
    text = (
        "g (float[batch, 13, 12] x, float[batch, 256] z) => (float[batch, 12] y, float[batch, 256] h)"
        " { y = ReduceSum<keepdims=0>(x, axis) h = MatMul(z, w) }"
    )
    model, probes = graph(text, axis=numbers(1), w=floats(256, 256)), [[floats(2, 13, 12), floats(2, 256)]]
    _, (alone,) = rewrite(model, [reduce_sum_to_matmul], probes, (1,))
    _, (among,) = rewrite(model, [reduce_sum_to_matmul], probes, (1, 64))
    assert "slower at batch 1" in alone.reason
    assert among.accepted
    assert among.before[1] < among.after[1] <= among.before[1] * (1 + MAX_SLOWDOWN)
    assert sum(among.after[batch] / among.before[batch] for batch in (1, 64)) < 2


def test_a_place_that_pays_on_average_is_not_left_out_for_a_little_more_at_one_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors = {"Abs": {1: 1.015, 64: 0.8}, "Neg": {1: 1.0, 64: 0.99}}

    def estimate(model: onnx.ModelProto, batch: int, machine: Machine) -> SimpleNamespace:
        done = {node.op_type for node in model.graph.node} & set(factors)
        return SimpleNamespace(estimate=prod(factors[name][batch] for name in done))

    def change(model: ir.Model, places: Collection[str]) -> int:
        for node in model.graph:
            if node.name in places:
                node.op_type = "Abs" if node.name == "first" else "Neg"
        return len(places)

    monkeypatch.setattr(rewriting, "estimate_cost", estimate)
    model = graph("g (float[batch, 4] x) => (float[batch, 4] y) { h = Relu(x) y = Relu(h) }")
    for node, name in zip(model.graph, ("first", "second"), strict=True):
        node.name = name
    both = SelectivePass("both", lambda model: [node.name or "" for node in model.graph], change)
    _, (found,) = rewrite(model, [both], [[floats(2, 4)]], (1, 64))
    assert found.at == ("first", "second")


def test_a_rewrite_must_not_undo_what_was_asked_for() -> None:
    model, probes = graph(SMALL, **PARTS), [request(3)]
    has = 3 * 6 + 50 * 4
    _, (free,) = rewrite(model, [fold_table_into_gemm], probes, (4096,))
    _, (bound,) = rewrite(model, [fold_table_into_gemm], probes, (4096,), limits=NonzeroLimits(tables=has))
    assert "more than the 218 allowed by the sparsity" in bound.reason
    assert not bound.accepted
    assert "allowed by the sparsity" not in free.reason


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (np.array([1.0, 100.0]), np.array([1.0, 100.001]), 1e-5),
        (np.array([np.inf, 2.0]), np.array([np.inf, 2.0]), 0.0),
        (np.array([np.nan, 2.0]), np.array([1.0, 2.0]), np.inf),
        (np.array([0.0]), np.array([1e-9]), np.inf),
        (np.array([0.5, 1.0, -1e9]), np.array([0.5, 1.1, -1e9]), 0.1),
        (np.array([1.0, -1e9]), np.array([1.0, -1.1e9]), 0.1),
        (np.array([1.0]), np.array([[1.0]]), np.inf),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array([]), np.array([]), 0.0),
    ],
)
def test_differences_are_relative_to_the_largest(one: np.ndarray, other: np.ndarray, difference: float) -> None:
    assert largest_relative_difference([one], [other]) == pytest.approx(difference, rel=1e-3)


def test_every_rewrite_says_what_it_needs_and_what_it_gives() -> None:
    for each in REWRITES:
        told = (each.__doc__ or "").replace("\n", " ")
        assert "Before: " in told
        assert "After: " in told
        assert "Returns the number of" in told


@pytest.mark.parametrize("each", REWRITES, ids=lambda each: each.__name__)
def test_a_graph_in_which_there_is_nothing_to_do_stays(each: Pass) -> None:
    model = graph(
        "g (float[batch, 4] x) => (float[batch, 6] y) { a = Gemm<transB=1>(x, w) y = Relu(a) }", w=floats(6, 4)
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert each(model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_trials_of_many_places_are_few() -> None:
    priced: list[int] = []

    def change(model: ir.Model, places: Collection[str]) -> int:
        priced.append(len(places))
        return 0

    many = SelectivePass("many", lambda _: [str(number) for number in range(500)], change)
    rewrite(scaled(), (many,), PROBES, (1,))
    assert len(priced) <= 40
    assert min(priced) >= 400
