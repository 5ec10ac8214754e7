import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import PruningError
from recprune_export.pruning import GroupPlan, Plan, RowPlan


@given(st.integers(2, 60).flatmap(lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), min_size=1))))
def test_runs_hold_the_ids_they_were_made_of(table: tuple[int, set[int]]) -> None:
    rows, ids = table
    part = RowPlan.from_ids("t", rows, ids)
    assert part.retained_ids().tolist() == sorted(ids)
    assert part.retained_count == len(ids)
    assert np.flatnonzero(~part.shared_mask()).tolist() == sorted(ids)
    remap = part.remap()
    assert remap.dtype == np.int32
    assert remap[part.retained_ids()].tolist() == list(range(part.retained_count))
    assert (remap[part.shared_mask()] == part.retained_count).all()
    assert RowPlan.from_dict(json.loads(json.dumps(part.to_dict()))) == part


def test_rows_are_a_part_of_the_plan() -> None:
    plan = Plan("mine", (GroupPlan("t:1", "embedding", 4, (0,)),), rows=(RowPlan.from_ids("t", 9, [0, 1, 5]),))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert Plan.from_dict({"score": "", "groups": []}).rows == ()


@pytest.mark.parametrize(
    "keep", [(), ((0, 9),), ((0, 8),), ((3, 1),), ((0, 3), (3, 4)), ((4, 5), (0, 1)), ((-1, 2),), ((2, 8), (8, 8))]
)
def test_runs_that_fit_no_table_are_refused(keep: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PruningError, match="between 1 and 8 rows of 't'"):
        RowPlan("t", 9, keep).check()
