"""Options of a split on the command line: who takes them, and that the sizes of the sides are said."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recprune_export.api import load_model, make_task
from recprune_export.bundle import read_manifest
from recprune_export.data import SplitSizes, generate_clicks
from recprune_export.errors import UsageError
from recprune_export.finetuning import LabeledRows
from recprune_export.refresh.new_rows import keep_column_of_data
from recprune_export.settings import DEFAULT_DATA_SETTINGS, Settings, SplitSettings
from recprune_export.training.checkpoint import load_checkpoint
from tests.jobs import assert_refused, invoke


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    generate_clicks(path, rows=400, seed=1)
    pl.read_parquet(path).drop("split").with_columns(day=pl.int_range(400) // 10).write_parquet(path)
    return path


def test_train_says_the_sizes_and_the_checkpoint_keeps_the_split(rows: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    options = ("--label", "clicked", "--epochs", "1", "--dim", "4", "--hidden", "8", "-o", model)
    done = invoke("train", "--data", rows, *options, "--split-by-time", "day")
    assert (
        "Rows: 320 train, 40 valid and 40 test, split by time: valid from 'day' 32 on, test from 36 on" in done.stdout
    )
    assert "'day' is excluded, since rows are split by it" in done.stderr
    assert load_checkpoint(model).encoder.schema.split.time == "day"
    assert_refused(invoke(model, "--data", rows, "--split", "day"), 2, "leave out --split, or train with it")
    assert_refused(invoke("train", "--data", rows, *options, "--split", "dya"), 3, "did you mean 'day'?")


def test_the_manifest_says_the_sizes(bundle: Path, clicks_file: Path) -> None:
    words = pl.read_parquet(clicks_file)["split"].to_list()
    sizes = read_manifest(bundle).settings["rows"]
    assert sizes == SplitSizes(*map(words.count, ("train", "valid", "test")), "by the column 'split'").to_dict()
    assert json.loads(json.dumps(sizes)) == sizes


def test_other_models_take_the_split_of_the_settings() -> None:
    module = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 1))
    rng = np.random.default_rng(0)
    data = {"input": rng.integers(30, size=300), "y": rng.integers(2, size=300), "when": np.arange(300)}
    loaded = load_model(module, torch.arange(4), {})
    settings = Settings(split_by_time="when")
    task = make_task(loaded, data, "y", settings)
    assert isinstance(task, LabeledRows)
    np.testing.assert_array_equal(task.data.test.inputs["input"], data["input"][270:])
    assert task.data.sizes.split.startswith("by time: valid from 'when' 240 on")


def test_one_option_splits() -> None:
    with pytest.raises(
        UsageError, match="--split and --split-by-user cannot be combined, since each splits all rows: give one of them"
    ):
        Settings(split="a", split_by_user="b")


def test_new_rows_without_the_column_are_split_at_random(rows: Path) -> None:
    by_time = SplitSettings(split_by_time="day")
    assert keep_column_of_data(by_time, rows, DEFAULT_DATA_SETTINGS) == by_time
    assert keep_column_of_data(SplitSettings("side"), rows, DEFAULT_DATA_SETTINGS) == SplitSettings()
