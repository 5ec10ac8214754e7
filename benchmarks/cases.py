"""Recommenders trained on real rows, which the benchmarks of quality prune, and how long a pruned one may tune."""

import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recprune_export.data import SchemaOverrides
from recprune_export.finetuning import DistillationData, FineTuningConfig, Task
from recprune_export.program import Program
from recprune_export.training import train

TUNING_SHARE = 0.1  # of the steps of training


@dataclass(frozen=True)
class Case:
    """A recommender, its options, and the rows it is trained on."""

    data: str
    recommender: str
    wishes: SchemaOverrides
    config: Mapping[str, Any] = field(default_factory=dict)


ANIME = SchemaOverrides(labels=("label",), ignore=("rating",))
CASES = {
    **{
        f"anime/{name}": Case("anime.parquet", name, ANIME)
        for name in ("dlrm", "deepfm", "dcn_v2", "neumf", "two_tower")
    },
    "census/mmoe": Case("census.parquet", "mmoe", SchemaOverrides(labels=("income", "never_married"))),
    "beauty/sasrec": Case("beauty.parquet", "sasrec", SchemaOverrides()),
    **{
        f"frappe/{name}": Case("frappe.parquet", name, SchemaOverrides(labels=("label",)))
        for name in ("dlrm", "deepfm")
    },
}


def cases_with_data(names: Sequence[str], folder: Path) -> list[str]:
    """Return the names of the cases whose rows lie in `folder`, and print a line about each of the others."""
    missing = [name for name in names if not (folder / CASES[name].data).exists()]
    for name in missing:
        print(f"{name} is skipped: {folder} has no {CASES[name].data}.", file=sys.stderr)
    return [name for name in names if name not in missing]


@dataclass(frozen=True)
class Dense:
    """The checkpoint of a trained recommender, and how many examples it saw, epochs times rows."""

    checkpoint: Path
    examples: int


def trained(name: str, case: Case, seed: int, folder: Path, cache: Path) -> Dense:
    """Train, or take what was trained before; data files lie in `folder`."""
    path = find_checkpoint(name, seed, cache)
    told = path.with_suffix(".json")
    if not path.exists():
        done = train(folder / case.data, case.recommender, path, case.wishes, dict(case.config), seed=seed)
        epochs = len(done.fitted.epochs)
        told.write_text(json.dumps({"epochs": epochs, "examples": epochs * done.rows}))
    return Dense(path, json.loads(told.read_text())["examples"])


def find_checkpoint(name: str, seed: int, cache: Path) -> Path:
    """Return where the trained recommender of a case lies, or will lie."""
    return cache / f"{slug(name)}-{seed}.pt"


def slug(name: str) -> str:
    """Return the name of a case as a file may have it.

    >>> slug("anime/dlrm 512-512-256")
    'anime-dlrm-512-512-256'
    """
    return re.sub(r"[^\w.]+", "-", name)


@dataclass(frozen=True)
class Shortened:
    """A task that tunes for `epochs` of `steps_per_epoch` steps each, and is otherwise `task`."""

    task: Task
    epochs: int
    steps_per_epoch: int

    @property
    def config(self) -> FineTuningConfig:
        """That of the task, with fewer epochs."""
        return replace(self.task.config, epochs=self.epochs)

    def distillation_data(self, student: Program, teacher: Program) -> DistillationData:
        """Return the first batches of each epoch."""
        whole = self.task.distillation_data(student, teacher)
        return replace(
            whole,
            batches=lambda seed: itertools.islice(whole.batches(seed), self.steps_per_epoch),
            steps_per_epoch=self.steps_per_epoch,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def shortened(task: Task, dense: Dense, program: Program) -> Shortened:
    """Let tuning take at most its share of the steps that training would have taken with batches of the same size.

    `program` is the dense one.
    """
    steps = int(TUNING_SHARE * dense.examples / task.config.batch_size)
    each = max(1, min(steps, task.distillation_data(program, program).steps_per_epoch))
    return Shortened(task, steps // each, each)
