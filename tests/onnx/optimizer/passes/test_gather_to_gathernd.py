"""Lookups by GatherND: the same rows, and nothing else is touched."""

import numpy as np
import pytest

from recprune_export.errors import ExportError
from recprune_export.onnx import (
    count_weights,
    estimate_cost,
    fill_shapes,
    gather_to_gathernd,
    gathernd_to_gather,
    make_in_memory_session,
    rewrite,
    strip_weights,
)
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten

LOOKUP = "g (int64[batch, 8] ids) => (float[batch, 8, 4] y) { y = Gather(t, ids) }"
IDS = [[np.array([[0, 5, 8, 3, 3, 2, 7, 0], [1, 1, -1, 4, 5, 6, 7, 8]])], [np.array([[7, 2, 0, 1, 1, 1, 1, 1]])]]

MIN_UNCACHED_TABLE = "recprune_export.onnx.optimizer.passes.gather_to_gathernd.MIN_UNCACHED_TABLE"


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take tables of any size for larger than a cache."""
    monkeypatch.setattr(MIN_UNCACHED_TABLE, 0)


def test_a_table_that_a_cache_holds_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIN_UNCACHED_TABLE, 9 * 4 * 4 + 1)
    assert_left_alone(gather_to_gathernd, graph(LOOKUP, t=floats(9, 4)))


def test_a_lookup_becomes_one_by_offsets_and_back() -> None:
    model = graph(LOOKUP, t=floats(9, 4))
    found = rewritten(gather_to_gathernd, model, IDS)
    assert operators(found) == {"Unsqueeze": 1, "GatherND": 1}
    assert count_weights(found) == count_weights(model)
    assert operators(rewritten(gathernd_to_gather, found, IDS)) == {"Gather": 1}


@pytest.mark.parametrize("wrong", [9, -10])
def test_ids_out_of_range_are_still_refused(wrong: int) -> None:
    run = make_in_memory_session(rewritten(gather_to_gathernd, graph(LOOKUP, t=floats(9, 4)), IDS))
    with pytest.raises(ExportError, match="index"):
        run([np.array([[0, wrong, 1, 1, 1, 1, 1, 1]])])


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("g (int32[batch, 8] ids) => (float[batch, 8, 4] y) { y = Gather(t, ids) }", {"t": floats(9, 4)}),
        ("g (int64[batch, 8] ids) => (float[4, batch, 8] y) { y = Gather<axis = 1>(t, ids) }", {"t": floats(4, 9)}),
        ("g (float[batch, 4] x) => (float[2, 4] y) { y = Gather(x, i) }", {"i": np.array([0, 0])}),
        ("g (float[9, 4] t, int64[batch, 8] ids) => (float[batch, 8, 4] y) { y = Gather(t, ids) }", {}),
        ("g (int64[batch, 7] ids) => (float[batch, 7, 4] y) { y = Gather(t, ids) }", {"t": floats(9, 4)}),
    ],
    ids=[
        "ids of int32",
        "columns",
        "constant rows of what was computed",
        "a table that is an input",
        "few ids in a row",
    ],
)
def test_what_is_no_lookup_of_whole_numbers_in_a_table_is_left_alone(text: str, weights: dict[str, np.ndarray]) -> None:
    assert_left_alone(gather_to_gathernd, graph(text, **weights))


def test_it_is_taken_where_the_table_is_larger_than_a_cache_and_costs_a_node_elsewhere() -> None:
    requests = [[np.zeros((2, 8), np.int64)]]
    kept = {}
    for rows in (1 << 8, 1 << 18):
        model = graph(LOOKUP, t=floats(rows, 4))
        found, (report,) = rewrite(model, (gather_to_gathernd,), requests, (32, 256))
        kept[rows] = report.accepted
        fill_shapes(found)
        estimates = [estimate_cost(strip_weights(each).model, 256).estimate for each in (model, found)]
        assert (estimates[1] < estimates[0]) == report.accepted
    assert kept == {1 << 8: False, 1 << 18: True}
