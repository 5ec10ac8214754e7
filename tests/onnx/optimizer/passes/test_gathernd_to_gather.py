"""An index into the first axis is a lookup."""

import numpy as np

from recprune_export.onnx import gathernd_to_gather
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten


def test_an_index_of_several_axes_becomes_a_gather() -> None:
    text = "g (int64[batch, 3] ids) => (float[batch, 3, 4] y) { i = Unsqueeze(ids, last) y = GatherND(t, i) }"
    model = graph(text, t=floats(9, 4), last=numbers(-1))
    ids = np.arange(6).reshape(2, 3)
    found = rewritten(gathernd_to_gather, model, [[ids], [ids[:1]]])
    assert operators(found)["Gather"] == 1
    assert operators(found)["GatherND"] == 0


def test_an_index_of_two_axes_is_left_alone() -> None:
    text = "g (int64[batch, 2] ids) => (float[batch] y) { y = GatherND(t, ids) }"
    assert_left_alone(gathernd_to_gather, graph(text, t=floats(9, 4)))
