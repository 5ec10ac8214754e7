"""The main job on files: load the model, read the rows, `compress`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recprune_export.bundle.contents import to_json
from recprune_export.bundle.write import check_target
from recprune_export.channels.analysis import analyse
from recprune_export.compression import Result, compress, decide, drawn_requests, recipe_for
from recprune_export.data.sequences import SequenceData
from recprune_export.errors import UsageError
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.task import (
    CLICKS,
    RANKINGS,
    LabelledRows,
    NextItems,
    Task,
    read_arrays,
    read_encoded,
)
from recprune_export.program.loading import LoadedModel, load_program
from recprune_export.pruning.plan import Plan
from recprune_export.settings import Settings


def compress_file(
    model: Path,
    target: Path,
    settings: Settings,
    *,
    data: Path | None = None,
    labels: tuple[str, ...] = (),
    plan_file: Path | None = None,
    command: Sequence[str] = (),
    **source: Any,
) -> Result:
    """Load a model file and rows, and `compress`. `source` goes to `load_program`."""
    check_target(target)
    plan = Plan.load(plan_file) if plan_file is not None else None
    loaded = load_program(model, **source)
    task = make_task(loaded, data, labels, settings)
    extra = {} if loaded.checkpoint is None else {"encoding.json": to_json(loaded.checkpoint.encoder.to_dict())}
    return compress(
        loaded.program,
        target,
        settings,
        task,
        plan=plan,
        extra_files=extra,
        command=command,
        model_name=model.name,
        data_name=None if data is None else data.name,
    )


def plan_of_file(
    model: Path, settings: Settings, *, data: Path | None = None, labels: tuple[str, ...] = (), **source: Any
) -> str:
    """Return, as JSON, the plan that `compress_file` would apply."""
    loaded = load_program(model, **source)
    task = make_task(loaded, data, labels, settings)
    analysis = analyse(loaded.program)
    return json.dumps(decide(loaded.program, analysis, settings, task).to_dict(), indent=1)


def make_task(loaded: LoadedModel, data: Path | None, labels: tuple[str, ...], settings: Settings) -> Task:
    """Choose what to tune on: encoded rows for a recommender of ours, plain ones for others, drawn ones without data.

    Raises `UsageError` where labels are missing, `DataError` for the file.
    """
    program, recipe = loaded.program, recipe_for(CLICKS, settings)
    if data is None:
        return drawn_requests(program, settings)
    if loaded.checkpoint is None:
        if not labels:
            raise UsageError(
                "A model that recprune-export did not train needs the labels' names beside --data: give --label."
            )
        rows = read_arrays(data, program.signature, labels, settings.seed)
        return LabelledRows(rows, make_objective(program, labels), recipe)
    read = read_encoded(data, loaded.checkpoint.encoder)
    objective = make_objective(program, loaded.checkpoint.spec.labels)
    if isinstance(read, SequenceData):
        return NextItems(read, objective, recipe_for(RANKINGS, settings))
    return LabelledRows(read, objective, recipe)
