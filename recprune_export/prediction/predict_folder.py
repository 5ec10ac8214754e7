"""Score many files: one file of scores for each; finished files are not written again."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.codec import ToDictMixin, json_name
from recprune_export.data.csv_format import file_state
from recprune_export.data.streaming.data_files import DataFile, find_data_files
from recprune_export.errors import UsageError
from recprune_export.output_meaning import OutputMeaning
from recprune_export.prediction._predict import ScoredFile, open_file
from recprune_export.prediction.finished_scores import (
    ScoredOf,
    count_parquet_rows,
    describe_scores,
    is_finished,
    read_description,
)
from recprune_export.prediction.mirrored_paths import check_apart, find_leftovers, mirror_paths
from recprune_export.prediction.open_model import open_model
from recprune_export.prediction.scorer import ROWS_PER_RUN, Scorer, make_scorer
from recprune_export.prediction.write_scores import write_batches
from recprune_export.progress import Advance, progress_bar
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings
from recprune_export.shard import Shard

_STEPS = 1000  # of the progress bar


@dataclass(frozen=True)
class FileScores(ToDictMixin):
    """The scores of the rows of `data`, in the file `path`; `finished`: an earlier run made them."""

    data: str
    path: Path = field(metadata=json_name("output"))
    rows: int
    finished: bool


@dataclass(frozen=True)
class FolderPrediction(ToDictMixin):
    """Result of `predict_folder`: the scores of this shard, in the order of the files.

    `rows`, `unknown` and `notes` are those of the files that this run made. `columns` and `scores` are empty if all were finished.
    """

    path: Path = field(metadata=json_name("output"))
    files: tuple[FileScores, ...]
    rows: int
    columns: tuple[str, ...] = field(metadata=json_name("output_columns"))
    scores: Mapping[str, OutputMeaning]
    unknown: Mapping[str, int] = field(metadata=json_name("unknown_values"))
    seconds: float
    shard: str | None = None
    notes: tuple[str, ...] = ()


def predict_folder(
    bundle: Path,
    data: DataFile,
    folder: Path,
    *,
    keep: Sequence[str] = (),
    probability: bool = False,
    threads: int | None = None,
    rows: int = ROWS_PER_RUN,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
    file: str = MODEL,
    shard: Shard | None = None,
) -> FolderPrediction:
    """Score every row of the files of `data`: a file, a folder, a glob or an address of an object store.

    For each file, a Parquet file of the same name is written below `folder`, with `.parquet` appended to other names. It records its
    inputs, and is written again only if the bundle, the file of rows or an option differs. Columns in `keep` of CSV files are strings,
    since the types in other files are unknown. With a `shard`, only its files are scored. Options are those of `predict`.

    Raises `UsageError` for a folder that cannot be written, or that contains other files with these names; and the errors of `predict`;
    finished files are kept.
    """
    start = time.perf_counter()
    check_apart(folder, data)
    files = find_data_files(data)
    targets = mirror_paths(data, files, folder)
    scorer = make_scorer(open_model(bundle, file, threads), probability, rows)
    job = _Job(scorer, tuple(keep), probability, reading, data)
    chosen = shard.select(files) if shard else files
    for target in (targets[each] for each in chosen):
        if target.exists() and read_description(target) is None:
            raise UsageError(f"{target} exists, but was not written by `predict` into a folder: choose another folder.")
    with progress_bar(f"Scoring {len(chosen):,} files", _STEPS) as advance:
        bar = _ProgressOfFiles(advance, chosen)
        parts = tuple(job.score(each, targets[each], bar) for each in chosen)
    unknown = {name: count for name, count in job.unknown.items() if count}
    notes = (*job.notes, *find_leftovers(folder, targets.values()))
    made = sum(part.rows for part in parts if not part.finished)
    meanings = {column.column: column.meaning for column in scorer.columns} if made else {}
    seconds = time.perf_counter() - start
    return FolderPrediction(
        folder, parts, made, tuple(job.schema), meanings, unknown, seconds, None if shard is None else str(shard), notes
    )


class _Job:
    """Scores one file after another; `unknown`, `notes` and `schema` are of those so far."""

    def __init__(
        self,
        scorer: Scorer,
        keep: tuple[str, ...],
        probability: bool,
        reading: DataSettings,
        data: DataFile,
    ) -> None:
        self.unknown, self.notes, self.schema = Counter[str](), list[str](), dict[str, object]()
        self._scorer, self._keep, self._probability, self._reading = scorer, keep, probability, reading
        self._data, self._checksum = data, scorer.model.manifest.checksum

    def score(self, data: DataFile, target: Path, bar: "_ProgressOfFiles") -> FileScores:
        """Score one file, unless it is finished."""
        made_of = describe_scores(
            self._checksum, self._scorer.model.file, data, self._keep, self._probability, self._reading
        )
        bar.begin(data)
        scored = None
        if not is_finished(read_description(target), made_of):
            _make_folder(target.parent)
            with hold_write_lock(target):
                if not is_finished(read_description(target), made_of):  # finished by another process in the meantime
                    scored = self._write(data, target, made_of, bar)
        bar.end()
        if scored is None:
            return FileScores(str(data), target, count_parquet_rows(target), finished=True)
        self.unknown.update(scored.count_unknown())
        self.notes += [note if str(data) in note else f"{data}: {note}" for note in scored.notes]
        return FileScores(str(data), target, scored.rows, finished=False)

    def _write(self, data: DataFile, target: Path, made_of: ScoredOf, bar: "_ProgressOfFiles") -> ScoredFile:
        for partial in target.parent.glob(f".{target.name}.*.partial"):
            partial.unlink(missing_ok=True)  # files of a killed process
        scored = open_file(self._scorer, data, self._reading, self._keep, within=self._data)
        self._check_schema(data, scored)
        write_batches(
            target,
            lambda: scored.score(lambda rows: bar.move(rows / scored.count)),
            scored.schema,
            made_of.to_metadata(),
        )
        return scored

    def _check_schema(self, data: DataFile, scored: ScoredFile) -> None:
        if scored.requests.identity:
            raise UsageError(
                f"{data} is a log, and a user may have rows in several files: write one file of scores (-o scores.parquet), or give a "
                "column 'history' of lists."
            )
        self.schema = self.schema or dict(scored.schema)
        other = next((name for name, kind in scored.schema.items() if self.schema[name] != kind), None)
        if other is not None:
            raise UsageError(
                f"'{other}', of --keep, contains {scored.schema[other]} in {data} and {self.schema[other]} in earlier files: "
                "leave it out, or convert it."
            )


class _ProgressOfFiles:
    """Advances a bar by the bytes of the finished files; all remote files count the same."""

    def __init__(self, advance: Advance, files: Sequence[DataFile]) -> None:
        self._advance, self._shown, self._done, self._now = advance, 0, 0, 0
        self._sizes = {file: file_state(file)[0] or 1 for file in files}
        self._total = sum(self._sizes.values())

    def begin(self, file: DataFile) -> None:
        """Begin a file."""
        self._now = self._sizes[file]
        self._text = Path(str(file)).name
        self._fraction = 0.0

    def move(self, fraction: float) -> None:
        """Advance by a fraction of the file."""
        self._fraction += fraction
        self._show(self._done + self._now * min(self._fraction, 1.0))

    def end(self) -> None:
        """End the file."""
        self._done += self._now
        self._show(self._done)

    def _show(self, done: float) -> None:
        while self._shown < int(_STEPS * done / self._total):
            self._shown += 1
            self._advance(self._text)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be created: {error.strerror}.") from error
