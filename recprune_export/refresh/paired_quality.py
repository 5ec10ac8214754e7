"""`compare_on_rows`: the metrics of two bundles on the same rows, side by side."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from recprune_export.data.row_source import BATCH_ROWS, RowSource
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.errors import UsageError
from recprune_export.finetuning.task import LabeledRows, NextItems
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.refresh.new_rows import read_new_rows
from recprune_export.refresh.open_bundle import OpenBundle, open_bundle


def compare_on_rows(base: Path, new: Path, data: Path) -> dict[str, MetricChange]:
    """Return the change of each metric of BASE, from BASE to NEW, on the rows of `data`; the bundles may differ in encoding.

    If a column splits the rows, only the test rows are used, otherwise all.

    Raises `BundleError`, `DataError`, and `UsageError` if the bundles read different rows or labels.
    """
    bundles = [open_bundle(path) for path in (base, new)]
    before, after = (_read_task(bundle, bundles[0], data) for bundle in bundles)
    _check_same_rows(before, after, data)
    return before.evaluator.compare(before.observe_test(bundles[0].artifact), after.observe_test(bundles[1].artifact))


def _read_task(bundle: OpenBundle, base: OpenBundle, data: Path) -> LabeledRows | NextItems:
    """Return the rows as inputs of `bundle`, split and evaluated with the settings of BASE."""
    settings = bundle.settings.with_options(seed=base.settings.seed, **asdict(base.settings.evaluation))
    rows = read_new_rows(data, bundle.program, bundle.encoder, bundle.labels(()), settings, bundle.label_kinds)
    return rows.evaluation_task


def _check_same_rows(before: LabeledRows | NextItems, after: LabeledRows | NextItems, data: Path) -> None:
    rows, others = (task.data.test for task in (before, after))
    labels, other_labels = (tuple(task.evaluator.kinds) for task in (before, after))
    if set(labels) != set(other_labels) or not _have_same_labels(rows, others):
        raise UsageError(
            f"The two bundles read different rows or labels from {data} ({len(rows):,} rows with {', '.join(labels)}, and "
            f"{len(others):,} with {', '.join(other_labels)}): leave out --data to compare the recorded metrics."
        )


def _have_same_labels(rows: RowSource, others: RowSource) -> bool:
    """Return whether two sources have the same number of rows with the same labels; next items may have different ids."""
    return len(rows) == len(others) and all(
        np.array_equal(values, other.labels[name], equal_nan=True)
        for batch, other in zip(rows.batches(BATCH_ROWS), others.batches(BATCH_ROWS), strict=True)
        for name, values in batch.labels.items()
        if name != NEXT_ITEM
    )
