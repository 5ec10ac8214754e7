"""The paths of the scores of each file: the same relative path in another folder."""

import glob
from collections.abc import Collection, Sequence
from pathlib import Path

from recprune_export.data.streaming.data_files import DataFile
from recprune_export.errors import UsageError
from recprune_export.prediction.finished_scores import read_description

SUFFIX = ".parquet"
_OTHER_FORMATS = (
    ".json", ".jsonl", ".ndjson", ".tsv", ".txt", ".feather", ".arrow", ".ipc", ".orc", ".avro", ".xlsx", ".npz", ".npy", ".gz", ".pq"
)  # fmt: skip


def mirror_paths(source: DataFile, files: Sequence[DataFile], folder: Path) -> dict[DataFile, Path]:
    """Return the path of the scores of each file of `source`, in `folder`.

    Paths are relative to the folder `source`, or to the last folder before a wildcard. `.parquet` is appended to names without it. Raises
    `UsageError` if two files have the same path.

    >>> files = (Path("rows/day=1/a.parquet"), Path("rows/day=2/a.csv.gz"))
    >>> [str(path) for path in mirror_paths(Path("rows"), files, Path("scores")).values()]
    ['scores/day=1/a.parquet', 'scores/day=2/a.csv.gz.parquet']
    >>> mirror_paths("s3://lake/day=*/*.parquet", ["s3://lake/day=1/a.parquet"], Path("scores"))
    {'s3://lake/day=1/a.parquet': PosixPath('scores/day=1/a.parquet')}
    """
    root = _find_root(source, files)
    targets: dict[DataFile, Path] = {}
    places: dict[Path, DataFile] = {}
    for file in files:
        address = str(file) if isinstance(file, Path) else file.partition("?")[0]  # without the query of a URL
        place = address.removeprefix(root).lstrip("/")
        target = folder / (place if place.endswith(SUFFIX) else place + SUFFIX)
        if target in places:
            raise UsageError(
                f"The scores of {places[target]} and of {file} would both be {target}: rename one of them."
            )
        targets[file], places[target] = target, file
    return targets


def check_apart(output: Path, data: DataFile) -> None:
    """Raise `UsageError` if scores would lie among the rows, or a folder of scores is a file or is named like one."""
    if output.exists() and not output.is_dir() and not output.suffix:
        raise UsageError(f"{output} is a file: give a folder for the scores, or a file that ends in .parquet or .csv.")
    if output.suffix.lower() in _OTHER_FORMATS and not output.is_dir():
        raise UsageError(f"{output} would be a folder: the extension of a file of scores must be .parquet or .csv.")
    if isinstance(data, str):
        return
    root = Path(_find_root(data, (data,)) or ".") if not data.is_dir() else data
    if (data.is_dir() or glob.has_magic(str(data))) and output.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{output} is inside {root} and would be read as rows in the next run: choose another folder for the scores."
        )


def find_leftovers(folder: Path, targets: Collection[Path]) -> tuple[str, ...]:
    """Return a note if `folder` has scores of rows that no longer exist."""
    expected = set(targets)
    left = [path for path in sorted(folder.rglob(f"*{SUFFIX}")) if path not in expected and _is_described(path)]
    if not left:
        return ()
    return (f"{folder} has {len(left):,} files of scores whose rows are no longer in --data, such as {left[0]}.",)


def _is_described(path: Path) -> bool:
    return not path.name.startswith(".") and read_description(path) is not None


def _find_root(source: DataFile, files: Sequence[DataFile]) -> str:
    """Return the folder to which paths are relative, with a slash at its end; "" is the current folder."""
    text = str(source)
    if glob.has_magic(text) and not (isinstance(source, Path) and source.exists()):
        parts = text.split("/")
        return "/".join([*parts[: next(n for n, part in enumerate(parts) if glob.has_magic(part))], ""])
    if list(files) == [source] and not (isinstance(source, Path) and source.is_dir()):
        return text[: text.rfind("/") + 1]
    return "" if text == "." else f"{text.rstrip('/')}/"
