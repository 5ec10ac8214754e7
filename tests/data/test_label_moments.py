"""Mean and deviation of labels from batches are those of all rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import Rows
from recprune_export.data.label_moments import LabelMoments, measure_labels
from tests.row_sources import BatchesOnly

NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), max_size=20)


@given(st.lists(NUMBERS, min_size=1, max_size=4))
@settings(max_examples=60)
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    moments = sum((LabelMoments.of(np.array(part, dtype=np.float32)) for part in parts), LabelMoments())
    known = np.array([v for part in parts for v in part if v == v])
    assert moments.count == len(known)
    if len(known):
        assert (moments.low, moments.high) == (known.min(), known.max())
        assert moments.mean == pytest.approx(known.mean(), rel=1e-6, abs=1e-6)
        assert moments.variance == pytest.approx(known.var(), rel=1e-6, abs=1e-6)


def test_a_source_has_the_moments_of_each_label() -> None:
    labels = {"a": np.array([1, 2, 3], dtype=np.float32), "b": np.array([np.nan, 0, 0], dtype=np.float32)}
    moments = measure_labels(BatchesOnly(Rows({"x": np.arange(3)}, labels))).labels
    assert (moments["a"].mean, moments["b"].mean, moments["b"].deviation) == (2.0, 0.0, 1.0)
