"""The limit on the steps of tuning in the benchmarks of quality."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from recprune_export import settings
from recprune_export.api import load_model, make_task
from recprune_export.finetuning import NonZeroTarget, Schedule, finetune
from recprune_export.finetuning.task import DistillationData


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("cases")


def test_fine_tuning_takes_a_tenth_of_the_steps_of_training(
    cases: ModuleType, checkpoint: Path, clicks_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load_model(checkpoint, None, {}).program
    task = make_task(load_model(checkpoint, None, {}), clicks_file, (), settings.Settings())
    rows, batch_size = 30_000, task.config.batch_size
    short = cases.shortened(task, cases.Dense(checkpoint, rows), program)
    taken: list[object] = []
    loss: Callable[..., object] = DistillationData.loss

    def count_step(self: DistillationData, *arguments: object) -> object:
        taken.append(arguments)
        return loss(self, *arguments)

    monkeypatch.setattr(DistillationData, "loss", count_step)
    tables = program.analysis.tables
    sizes = sum(parameter.numel() for parameter in program.parameters().values())
    finetune(
        program,
        program.with_copied_graph(),
        short,
        tables,
        NonZeroTarget(sizes, sizes),
        Schedule(short.epochs, 1e-3, gradual=False, seed=0),
    )
    assert 0 < len(taken) <= cases.TUNING_SHARE * rows / batch_size
    assert short.config.epochs == short.epochs
