"""`Trials`: a model pruned and tuned at one sparsity after another, each kept on disk, so that a search can be resumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from recprune_export.codec import FLATTENED, DictMixin, decode
from recprune_export.finetuning.task import Task, run_program
from recprune_export.pipeline.fingerprint import fingerprint
from recprune_export.pipeline.prune import SearchPrefix, prune, run_search_prefix
from recprune_export.program.program import Program
from recprune_export.search.measure_artifact import ArtifactMeasurements, measure_artifact
from recprune_export.search.trial_files import write_json
from recprune_export.settings import Settings
from recprune_export.training.paired_change import MetricChange

# What each trial says itself.
_OF_TRIALS = ("sparsity", "embedding_sparsity", "hidden_sparsity", "seed")


@dataclass(frozen=True)
class Trial(DictMixin):
    """One sparsity and one seed: how the metric of the validation rows changes, pruned and tuned against dense.

    `artifact` is there where the search looks at sizes and speed as well; where it has fewer bits, the metric is its own.
    """

    sparsity: float
    seed: int
    change: MetricChange = field(metadata=FLATTENED)
    artifact: ArtifactMeasurements | None = None

    def holds(self, max_drop: float) -> bool:
        """Whether the metric falls by no more than `max_drop`, and the interval says so as well."""
        return self.change.low >= -max_drop

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises `ValueError` or `KeyError` where it did not."""
        return decode(cls, {**values, "change": MetricChange.from_dict(values)})


class Trials:
    """Runs each trial once. With a `file` it knows those of an earlier run on the same model, rows and settings."""

    def __init__(
        self, program: Program, settings: Settings, task: Task, file: Path | None = None, *, artifacts: bool = False
    ) -> None:
        self._program, self._settings, self._task, self._file = program, settings, task, file
        self._artifacts = artifacts
        looks = [list(settings.batches), settings.quantize, settings.max_quantize_drop] if artifacts else []
        self._key = fingerprint(program, settings, task, exclude=_OF_TRIALS, extra=looks)
        self._beginnings: dict[int, SearchPrefix] = {}  # by the seed
        self._done: dict[tuple[float, int], Trial] = {}
        if file is not None:
            self._done = {(t.sparsity, t.seed): t for t in _read(file, self._key)}

    @property
    def completed(self) -> tuple[Trial, ...]:
        """All trials so far, by sparsity."""
        return tuple(self._done[key] for key in sorted(self._done))

    def search_prefix(self, seed: int) -> SearchPrefix | None:
        """What the trials of a seed have in common; None where all of them were remembered."""
        return self._beginnings.get(seed)

    def run(self, sparsity: float, seed: int | None = None) -> Trial:
        """Prune, tune and compare with the dense program, or remember."""
        key = (round(sparsity, 4), self._settings.seed if seed is None else seed)
        if key not in self._done:
            settings = replace(
                self._settings, sparsity=key[0], embedding_sparsity=None, hidden_sparsity=None, seed=key[1]
            )
            if key[1] not in self._beginnings:
                self._beginnings[key[1]] = run_search_prefix(self._program, settings, self._task)
            pruned = prune(self._program, settings, self._task, search_prefix=self._beginnings[key[1]]).program
            self._keep(key, pruned)
        return self._done[key]

    def _keep(self, key: tuple[float, int], pruned: Program) -> None:
        artifact, change = None, None
        if self._artifacts:
            artifact, change = measure_artifact(self._program, pruned, self._settings, self._task)
        if change is None:
            change = self._task.change(partial(run_program, self._program), partial(run_program, pruned))
        self._done[key] = Trial(*key, change, artifact)
        if self._file is not None:
            write_json(self._file, {"key": self._key, "trials": [t.to_dict() for t in self.completed]})


def _read(file: Path, key: str) -> list[Trial]:
    """What an earlier run left, if it was about the same; anything else is begun anew."""
    try:
        values = json.loads(file.read_text())
        return [Trial.from_dict(v) for v in values["trials"]] if values["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
