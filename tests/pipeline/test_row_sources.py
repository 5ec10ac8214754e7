"""The whole job and its parts give the same on rows that offer batches alone as on rows in memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recprune_export.api import compress
from recprune_export.bundle import DATA_PROFILE, verify
from recprune_export.data import (
    ArrayData,
    ArraySpec,
    SchemaOverrides,
    infer_sequence_schema,
    load_arrays,
    load_sequences,
)
from recprune_export.errors import UsageError
from recprune_export.finetuning import (
    CLICK_DEFAULTS,
    RANKING_DEFAULTS,
    LabeledRows,
    NextItems,
    make_data_profile,
    make_objective,
)
from recprune_export.finetuning.id_frequency import count_id_frequencies
from recprune_export.pipeline import compress_program, fingerprint
from recprune_export.pipeline.choose_input_rules import with_input_rules
from recprune_export.program.capture import capture
from recprune_export.refresh import make_drift_report
from recprune_export.refresh.dense import MissingModel
from recprune_export.refresh.new_rows import _select_evaluation_rows
from recprune_export.refresh.paired_quality import _check_same_rows
from recprune_export.settings import DataSettings, EvaluationSettings, LabelSettings, RowSettings, Settings
from tests.row_sources import few_rows_in_memory, in_batches_only

ROWS = 3000
SETTINGS = Settings(sparsity=0.6, epochs=1, latency_batch_sizes=(1,), quick=True, prune_rows=0.1)


class Clicks(nn.Module):
    """Two tables and two numbers, one of which is squared."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(200, 16), nn.Embedding(50, 16)
        self.mlp = nn.Sequential(nn.Linear(34, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> Tensor:
        """Ids [B] and prices [B, 2] to logits [B]."""
        return self.mlp(torch.cat([self.user(user), self.item(item), price], 1)).squeeze(1) + price[:, 0] ** 5


def make_task(metrics: tuple[str, ...] = ()) -> tuple[LabeledRows, LabeledRows, Any]:
    """Return the same task on rows in memory and on rows that offer batches alone, and the program."""
    module = Clicks().eval()
    program = capture(module, (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2)))
    rng = np.random.default_rng(0)
    columns = {
        "user": (200 * rng.random(ROWS) ** 3).astype(np.int64),
        "item": rng.integers(0, 50, ROWS),
        "price": (0.3 * rng.normal(size=(ROWS, 2))).astype(np.float32),
        "weight": rng.integers(0, 3, ROWS).astype(np.float32),
    }
    columns["click"] = (rng.random(ROWS) < 1 / (1 + np.exp(-np.sin(columns["item"])))).astype(np.float32)
    columns["click"][::10] = np.nan
    specs = [ArraySpec(i.name, i.dtype, tuple(int(s) for s in i.shape[1:]), i.ids) for i in program.signature.inputs]
    rows = RowSettings(LabelSettings("weight"), group="user") if metrics else RowSettings()
    data = load_arrays(columns, specs, ["click"], seed=0, settings=rows)
    evaluation = EvaluationSettings(metrics, "user" if metrics else None)
    config = replace(CLICK_DEFAULTS, epochs=1, batch_size=256)
    task = LabeledRows(data, make_objective(program, ("click",), data.label_values), config, evaluation)
    assert isinstance(data, ArrayData)
    return task, replace(task, data=in_batches_only(data)), program


def test_the_parts_of_the_job() -> None:
    *tasks, program = make_task(("auc", "gauc", "logloss"))
    values = []
    for task in tasks:
        profile = make_data_profile(task, program.signature)
        frequencies = count_id_frequencies(task, program.signature)
        assert profile is not None
        assert frequencies is not None
        values.append(
            [
                fingerprint(program, SETTINGS.pruning, SETTINGS.finetuning, task),
                with_input_rules(program, task, "unknown").signature,
                profile.to_dict(),
                frequencies.counts.tolist(),
                task.notes,
                task.deciding.name,
                task.distillation_data(program, program).steps_per_epoch,
                task.requests(9, 0)["user"].tolist(),
                [{name: t.tolist() for name, t in batch[1].items()} for batch in task.training_batches(3)],
            ]
        )
    np.testing.assert_equal(*values)


class ScoresOfItems(nn.Module):
    """Scores all items by the last one, and by the mean of the history where it is not `causal`."""

    def __init__(self, items: int, *, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.causal = nn.Embedding(items, 8), causal

    def forward(self, history: Tensor) -> Tensor:
        """Item ids [B, L] to scores [B, items]."""
        states = self.items(history)
        state = states[:, -1] if self.causal else states[:, -1] + states.mean(1)
        return state @ self.items.weight.T


@pytest.mark.parametrize("causal", [True, False])
def test_the_parts_of_the_job_on_histories(sequences_file: Path, causal: bool) -> None:
    schema = infer_sequence_schema(sequences_file, SchemaOverrides())
    values: list[list[Any]] = []
    for stream in (True, False):
        data = load_sequences(sequences_file, schema, reading=DataSettings(stream=stream))
        module = ScoresOfItems(data.encoder.items.rows, causal=causal).eval()
        program = capture(module, (torch.ones(3, schema.sequence.max_length, dtype=torch.int64),))  # type: ignore[union-attr]
        config = replace(RANKING_DEFAULTS, epochs=1, batch_size=16)
        task = NextItems(data, make_objective(program, ("next_item",)), config)
        profile, frequencies = make_data_profile(task, program.signature), count_id_frequencies(task, program.signature)
        assert profile is not None
        assert frequencies is not None
        lessons = task.distillation_data(program, program)
        batches = [*task.training_batches(3), *lessons.batches(3)]
        values.append(
            [
                fingerprint(program, SETTINGS.pruning, SETTINGS.finetuning, task),
                profile.to_dict(),
                frequencies.counts.tolist(),
                lessons.steps_per_epoch,
                task.requests(9, 0)["history"].tolist(),
                task.validate(program),
                [{name: t.tolist() for part in batch for name, t in part.items()} for batch in batches],
            ]
        )
    np.testing.assert_equal(*values)


def test_new_rows() -> None:
    """All rows are measured where no column divides them; rows with other labels are refused."""
    *tasks, _ = make_task()
    selected = [_select_evaluation_rows(task) for task in tasks]
    for task, description in selected:
        assert description == "all of its rows"
        assert len(task.data.test) == len(task.data.valid) == ROWS - ROWS // 10
    (one, _), (other, _) = selected
    assert [b.labels["click"].tolist() for b in one.data.test.batches(700)] == [
        b.labels["click"].tolist() for b in other.data.test.batches(700)
    ]
    _check_same_rows(one, other, Path("rows.csv"))
    with pytest.raises(UsageError, match=r"different rows or labels from rows\.csv"):
        _check_same_rows(one, tasks[1], Path("rows.csv"))


@pytest.mark.slow
def test_the_bundle(tmp_path: Path) -> None:
    *tasks, program = make_task()
    results = [compress_program(program, tmp_path / "memory", SETTINGS, tasks[0])]
    with few_rows_in_memory(40, 64):
        results.append(compress_program(program, tmp_path / "batches", SETTINGS, tasks[1]))
    manifests = [result.manifest for result in results]
    assert verify(tmp_path / "batches")
    for name, value in manifests[0].metrics["pruned"].items():
        assert manifests[1].metrics["pruned"][name] == pytest.approx(value, abs=2e-6), name
    plans = [{name: value for name, value in m.plan.items() if name not in ("finetuning", "rows")} for m in manifests]
    assert plans[0] == plans[1]
    rare = [m.plan["rows"] for m in manifests]
    assert rare[0]["with_rare"]["rows"] == rare[1]["with_rare"]["rows"] > 0
    assert manifests[0].settings["rows"] == manifests[1].settings["rows"]
    profiles = [json.loads((result.target / DATA_PROFILE).read_text()) for result in results]
    assert profiles[0] == profiles[1]


@pytest.mark.slow
def test_rows_in_several_files_that_are_streamed(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    """A checkpoint is compressed on a glob of files, with encoded rows in temporary files, as on one file in memory."""
    rows, folder = pl.read_parquet(clicks_file), tmp_path / "rows"
    folder.mkdir()
    for number, part in enumerate(rows.iter_slices(len(rows) // 3 + 1)):
        part.write_parquet(folder / f"{number}.parquet")
    settings = Settings(sparsity=0.6, epochs=1, latency_batch_sizes=(1,), quick=True)
    one = compress(checkpoint, target=tmp_path / "one", data=clicks_file, settings=settings)
    streamed = compress(
        checkpoint, target=tmp_path / "several", data=folder / "*.parquet", settings=settings.with_options(stream=True)
    )
    assert one.metrics == streamed.metrics
    assert one.sizes is not None
    assert streamed.sizes is not None
    assert one.sizes.to_dict() == streamed.sizes.to_dict()
    report = make_drift_report(streamed.target, folder, row_settings=settings.with_options(stream=True).rows)
    assert report.rows.count == len(rows.filter(pl.col("split") == "test"))
    assert not isinstance(report.dense, MissingModel)
