"""Cells of the comparison at equal bytes: one file of one contestant, measured once and saved in separate files."""

import json
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from bytes_files import BATCHES, BEFORE, DENSE, INT4, INT8, OURS, SMALL, Contender, Subject
from bytes_scores import Quality, Truth, answer_test_rows, find_truth, measure_quality
from cases import slug

from recprune_export.onnx import SessionOptions
from recprune_export.pipeline import make_latency_requests
from recprune_export.validation import (
    log_ratio,
    make_onnxruntime_backend,
    measure_footprints,
    measure_repeated_sessions,
    typical_time,
)

SESSIONS, SECONDS, FEWEST = 6, 0.3, 20  # of the latency of a cell: sets of sessions, seconds for each batch, rounds
PROCESSES = 3  # of the memory
FILE, REFERENCE = "file", "dense"
# CPU seconds where none like it was measured: of training, and of a cell beside it and in multiples of it.
USUAL_TRAINING = {"frappe/dlrm": 20.0, "frappe/deepfm": 25.0, "beauty/sasrec": 900.0, "census/mmoe": 60.0}
OTHER_TRAINING = 60.0
USUAL_SECONDS = {
    DENSE: (5.0, 0.0),
    INT8: (10.0, 0.0),
    INT4: (10.0, 0.0),
    SMALL: (20.0, 5 / 3),
    BEFORE: (35.0, 0.5),
    OURS: (60.0, 1.0),
}


@dataclass(frozen=True)
class Key:
    """The name of a cell; `point` is a percentage of the dense bytes, a sparsity, or 0 for a contestant with one file."""

    case: str
    seed: int
    contestant: str
    point: float

    def __str__(self) -> str:
        return f"{self.case} seed {self.seed}, {self.contestant}" + (f" {self.point:g}" if self.point else "")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one request of a batch size, of the file and of the dense one in the same run.

    `log_ratios` holds for each set of sessions the logarithm of dense over file.
    """

    file: float
    dense: float
    log_ratios: Sequence[float]


@dataclass(frozen=True)
class Cell:
    """What was measured of one file. `memory` is in bytes; the metrics are those of `measure_quality`."""

    case: str
    seed: int
    contestant: str
    point: float
    bytes: int
    dense_bytes: int
    memory: float
    latency: Mapping[str, Mapping[str, Any]]
    metric: float
    logloss: float
    ece: float | None
    rare: float
    note: str
    commit: str
    seconds: float
    cpu_seconds: float

    @property
    def key(self) -> Key:
        """Its name."""
        return Key(self.case, self.seed, self.contestant, self.point)

    @property
    def percent(self) -> float:
        """Its bytes, in percent of those of the dense file."""
        return 100.0 * self.bytes / self.dense_bytes

    def at_batch(self, batch: int) -> Latency:
        """Return the latency at a batch size."""
        return Latency(**self.latency[str(batch)])


@dataclass(frozen=True)
class CellFolder:
    """All cells, each with its answers to the test rows, and the labels of each case."""

    folder: Path

    @property
    def cells(self) -> list[Cell]:
        """Return all that were measured."""
        return [Cell(**json.loads(path.read_text())) for path in sorted(self.folder.glob("cells/*.json"))]

    def path(self, key: Key) -> Path:
        """Return the path of a cell; its answers are saved next to it as .npz."""
        name = slug(f"{key.case} {key.seed} {key.contestant} {key.point:g}")
        return self.folder / "cells" / f"{name}.json"

    def has(self, key: Key) -> bool:
        """Return whether a cell was measured."""
        return self.path(key).exists()

    def read(self, key: Key) -> Cell:
        """Return a cell."""
        return Cell(**json.loads(self.path(key).read_text()))

    def read_quality(self, key: Key) -> Quality:
        """Return the metrics of a cell from its answers."""
        with np.load(self.path(key).with_suffix(".npz")) as answers:
            return measure_quality(dict(answers), Truth.load(self._truth_path(key.case)))

    def add(self, cell: Cell, answers: Mapping[str, np.ndarray], truth: Truth) -> None:
        """Save a cell; the JSON file is written last and at once, so that an interrupted run leaves no half cell."""
        path = self.path(cell.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        truth.save(self._truth_path(cell.case))
        np.savez_compressed(path.with_suffix(".npz"), **answers)  # type: ignore[arg-type]
        partial_path = path.with_suffix(".partial")
        partial_path.write_text(json.dumps(asdict(cell), indent=1))
        os.replace(partial_path, path)

    def _truth_path(self, case: str) -> Path:
        return self.folder / "cells" / f"{slug(case)}-truth.npz"


class Clock:
    """Wall and CPU seconds since it was made, those of child processes included."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), self._read_cpu()

    @staticmethod
    def _read_cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    @property
    def seconds(self) -> float:
        """Wall seconds."""
        return time.perf_counter() - self._start[0]

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds."""
        return self._read_cpu() - self._start[1]


@dataclass(frozen=True)
class Measurer:
    """Measures files of a subject, their latency in requests of `batches` rows."""

    subject: Subject
    cells: CellFolder
    batches: Sequence[int] = BATCHES

    @cached_property
    def _truth(self) -> Truth:
        return find_truth(self.subject.task)

    def measure(self, key: Key, make: Callable[[], Contender], commit: str) -> Cell:
        """Make a file, measure it and save the cell."""
        clock = Clock()
        contender = make()
        answers = answer_test_rows(contender.path, contender.task)
        quality = measure_quality(answers, self._truth)
        cell = Cell(
            key.case, key.seed, key.contestant, key.point, contender.bytes, self.subject.dense.bytes,
            self._measure_memory(contender.path), self._measure_latency(contender.path), quality.metric, quality.logloss,
            quality.ece, quality.rare, contender.note, commit, clock.seconds, clock.cpu_seconds,
        )  # fmt: skip
        self.cells.add(cell, answers, self._truth)
        return cell

    def _measure_memory(self, path: Path) -> float:
        report = measure_footprints({FILE: (path, SessionOptions())}, self.subject.dense.signature, 1, PROCESSES)
        return report.typical(FILE).memory

    def _measure_latency(self, path: Path) -> dict[str, dict[str, Any]]:
        """Let the file and the dense file take turns, in new sessions for each set."""
        paths = {REFERENCE: self.subject.dense.path, FILE: path}
        makers = {name: partial(make_onnxruntime_backend, name, p, 1) for name, p in paths.items()}
        requests = make_latency_requests(self.batches, self.subject.task, self.subject.dense.signature)
        rng = np.random.default_rng(self.subject.seed)
        sets = measure_repeated_sessions(makers, requests, count=SESSIONS, seconds=SECONDS, rng=rng, min_rounds=FEWEST)
        return {
            str(batch): asdict(
                Latency(
                    *(float(np.median([typical_time(s[batch][name]) for s in sets])) for name in (FILE, REFERENCE)),
                    [log_ratio(s[batch], REFERENCE, FILE) for s in sets],
                )
            )
            for batch in requests
        }


def estimate_hours(missing: Sequence[Key], measured: Sequence[Cell], is_trained: Callable[[str, int], bool]) -> float:
    """Return the CPU hours that the missing cells take: as cells of the same contestant and case did, or as is usual.

    Recommenders that are not trained yet, by case and seed, are trained first.

    >>> round(estimate_hours([Key("frappe/dlrm", 0, "dense int8", 0.0)], [], lambda case, seed: False) * 3600)
    30
    """

    def estimate(key: Key) -> float:
        same = [c.cpu_seconds for c in measured if (c.case, c.contestant) == (key.case, key.contestant)]
        fixed, trainings = USUAL_SECONDS[key.contestant]
        return float(np.mean(same)) if same else fixed + trainings * estimate_training(key.case)

    untrained = {(key.case, key.seed) for key in missing if not is_trained(key.case, key.seed)}
    return (sum(map(estimate, missing)) + sum(estimate_training(case) for case, _ in untrained)) / 3600.0


def estimate_training(case: str) -> float:
    """Return the usual CPU seconds of the training of a dense recommender."""
    return USUAL_TRAINING.get(case, OTHER_TRAINING)
