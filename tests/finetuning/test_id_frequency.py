"""The frequency of a test row is that of its rarest id in the training rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import ArrayData, LabelKind, Rows
from recprune_export.finetuning import CLICK_DEFAULTS, LabeledRows, Objective
from recprune_export.finetuning.id_frequency import count_id_frequencies
from recprune_export.program.signature import BATCH, Input, Signature
from tests.row_sources import BatchesOnly

INPUTS = (
    Input("user", "int64", (BATCH,), ((0, 99),)),
    Input("pair", "int64", (BATCH, 2), ((0, 9), None)),
    Input("history", "int64", (BATCH, 3), ((0, 9),)),
    Input("age", "float32", (BATCH,)),
)


def rows(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows(
        {
            "user": rng.integers(0, 30, count),
            "pair": rng.integers(0, 10, (count, 2)),
            "history": rng.integers(0, 10, (count, 3)),
            "age": rng.random(count).astype(np.float32),
        },
        {"click": rng.integers(0, 2, count).astype(np.float32)},
    )


def test_the_rarest_of_all_fields_with_one_id_counts() -> None:
    train, test = rows(60, 0), rows(20, 1)
    objective = Objective({}, {}, {"click": LabelKind.BINARY})
    task = LabeledRows(ArrayData(train, test, test), objective, CLICK_DEFAULTS)
    frequencies = count_id_frequencies(task, Signature(INPUTS, ()))
    assert frequencies is not None
    expected = [
        min((train.inputs["user"] == user).sum(), (train.inputs["pair"][:, 0] == first).sum())
        for user, first in zip(test.inputs["user"], test.inputs["pair"][:, 0], strict=True)
    ]
    assert frequencies.counts.tolist() == expected


def test_without_ids_there_are_no_frequencies() -> None:
    task = LabeledRows(ArrayData(rows(9, 0), rows(9, 1), rows(9, 2)), Objective({}, {}), CLICK_DEFAULTS)
    assert count_id_frequencies(task, Signature(INPUTS[-1:], ())) is None


@given(st.integers(1, 80), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=20)
def test_rows_that_are_only_read_in_batches_have_the_same_frequencies(trained: int, tested: int, seed: int) -> None:
    train, test = rows(trained, seed), rows(tested, seed + 1)
    objective = Objective({}, {}, {"click": LabelKind.BINARY})
    both = (
        count_id_frequencies(LabeledRows(data, objective, CLICK_DEFAULTS), Signature(INPUTS, ()))
        for data in (ArrayData(train, test, test), ArrayData(*map(BatchesOnly, (train, test, test))))
    )
    in_memory, in_batches = (frequencies.counts.tolist() for frequencies in both if frequencies is not None)
    assert in_memory == in_batches
