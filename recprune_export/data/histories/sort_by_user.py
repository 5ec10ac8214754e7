"""`sort_by_user`: sort rows of a log that are not in memory, on disk, so that all rows of a user are adjacent.

The rows are sorted in runs that fit into memory, and groups of users are then read from all runs: an external sort by regular
sampling (Shi and Schaeffer 1992, "Parallel sorting by regular sampling").
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.splits.ordered_log import USER
from recprune_export.error_text import first_line
from recprune_export.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

RUN_ROWS = 1 << 20  # the rows of a run, and about the rows of a group
SAMPLE_ROWS = 1 << 10  # in each run, one user is sampled for this number of rows


@dataclass(frozen=True)
class SortedRuns:
    """Files of rows, each sorted by user; `borders` are the first users of all groups except the first, in order."""

    files: tuple[Path, ...]
    borders: "pl.Series"

    @property
    def rows(self) -> "pl.LazyFrame":
        """All rows, in no particular order."""
        import polars as pl

        return pl.scan_ipc(list(self.files))

    def __len__(self) -> int:
        return len(self.borders) + 1

    def groups(self) -> "Iterator[pl.DataFrame]":
        """Yield all rows of some users, in the order of the users; those of one user are in the order of the file.

        A group has about `RUN_ROWS` rows, more if one user has more.
        """
        import polars as pl

        runs = [pl.scan_ipc(file) for file in self.files]
        places = np.array([self._find_borders(run) for run in runs])  # [runs, groups + 1]
        for starts, ends in zip(places[:, :-1].T, places[:, 1:].T, strict=True):
            parts = [
                run.slice(start, end - start).collect()
                for run, start, end in zip(runs, starts.tolist(), ends.tolist(), strict=True)
                if end > start
            ]
            yield pl.concat(parts or [runs[0].head(0).collect()])

    def _find_borders(self, run: "pl.LazyFrame") -> list[int]:
        users = run.select(USER).collect().to_series()
        borders = users.search_sorted(self.borders, "left").to_list() if len(self.borders) else []
        return [0, *borders, len(users)]


@contextmanager
def sort_by_user(rows: "Iterator[pl.DataFrame]") -> Iterator[SortedRuns]:
    """Yield rows sorted by user; the given rows each have a user and are in the order of the file. Inside the block they are in a
    temporary folder.

    Time O(rows x log(rows)); memory: that of some runs, and of a user for each `SAMPLE_ROWS` rows.

    Raises `UsageError` if the disk is full.
    """
    import polars as pl

    with TemporaryDirectory(prefix="recprune-log-") as folder:
        files: list[Path] = []
        samples: list[pl.Series] = []
        for run in _gather(rows):
            ordered = run.sort(USER, maintain_order=True)
            files.append(Path(folder, f"{len(files):06}.arrow"))
            try:
                ordered.write_ipc(files[-1], record_batch_size=1 << 14)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise UsageError(
                    f"The rows of the log cannot be sorted in {tempfile.gettempdir()}: {first_line(error)}. Set TMPDIR to a folder "
                    "with more space."
                ) from error
            samples.append(ordered[USER].gather_every(SAMPLE_ROWS))
        drawn = pl.concat(samples).sort()
        yield SortedRuns(tuple(files), drawn.gather_every(RUN_ROWS // SAMPLE_ROWS).unique().sort()[1:])


def _gather(chunks: "Iterator[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
    """Yield chunks joined to runs of about `RUN_ROWS` rows; at least one."""
    import polars as pl

    held: list[pl.DataFrame] = []
    is_first = True
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= RUN_ROWS:
            yield pl.concat(held)
            held, is_first = [], False
    if held and (is_first or any(map(len, held))):
        yield pl.concat(held)
