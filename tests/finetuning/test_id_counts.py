"""Ids are counted in batches, small ones in a dense array and large ones in a sorted list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.finetuning import id_counts
from recprune_export.finetuning.id_counts import IdCounts

IDS = st.lists(st.integers(-3, 12) | st.integers(2**25 - 2, 2**40), max_size=30)


@given(st.lists(IDS, max_size=4), IDS)
@settings(max_examples=60)
def test_occurrences_in_all_batches_are_counted(batches: list[list[int]], queries: list[int]) -> None:
    counts = IdCounts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_counts, "PENDING_IDS", 10)
        for batch in batches:
            counts.add(np.array(batch, dtype=np.int64))
    ids = [i for batch in batches for i in batch]
    assert counts.look_up(np.array(queries, dtype=np.int64)).tolist() == [ids.count(query) for query in queries]
