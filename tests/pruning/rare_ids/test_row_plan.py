import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import PruningError
from recprune_export.pruning.plan import GroupPlan, Plan
from recprune_export.pruning.rare_ids.row_plan import TableRows


@given(st.integers(2, 60).flatmap(lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), min_size=1))))
def test_runs_hold_the_ids_they_were_made_of(table: tuple[int, set[int]]) -> None:
    rows, ids = table
    part = TableRows.of("t", rows, ids)
    assert part.kept_ids().tolist() == sorted(ids)
    assert part.kept == len(ids)
    assert np.flatnonzero(~part.shares()).tolist() == sorted(ids)
    remap = part.remap()
    assert remap.dtype == np.int32
    assert remap[part.kept_ids()].tolist() == list(range(part.kept))
    assert (remap[part.shares()] == part.kept).all()
    assert TableRows.from_dict(json.loads(json.dumps(part.to_dict()))) == part


def test_rows_are_a_part_of_the_plan() -> None:
    plan = Plan("mine", (GroupPlan("t:1", "embedding", 4, (0,)),), rows=(TableRows.of("t", 9, [0, 1, 5]),))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert Plan.from_dict({"score": "", "groups": []}).rows == ()


@pytest.mark.parametrize(
    "keep", [(), ((0, 9),), ((0, 8),), ((3, 1),), ((0, 3), (3, 4)), ((4, 5), (0, 1)), ((-1, 2),), ((2, 8), (8, 8))]
)
def test_runs_that_fit_no_table_are_refused(keep: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PruningError, match="between 1 and 8 rows of 't'"):
        TableRows("t", 9, keep).check()
