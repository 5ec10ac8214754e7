"""Option types for input paths: a mistyped path is reported before the modules that read it are imported."""

import glob
import os
from itertools import islice
from pathlib import Path
from typing import Any

import click

from recprune_export.column_names import suggest_name
from recprune_export.errors import BundleError, DataError, InputFileError, ModelFileError

MAX_NEIGHBORS = 2000  # the number of names in a folder that are compared


class InputPath(click.Path):
    """A path that exists. A missing path raises `error`, with the most similar name in its folder and the `expected` kind of file."""

    def __init__(self, error: type[InputFileError], expected: str) -> None:
        super().__init__(path_type=Path)
        self._error, self.expected = error, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises the error of this type if it does not exist."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.path.exists(path):
            nearest = suggest_neighbor(path)
            suggestion = "" if nearest is None else f" (did you mean '{nearest}'?)"
            raise self._error(f"{path} does not exist{suggestion}: give {self.expected}.")
        return path


class DataPath(InputPath):
    """A file or folder of rows, a glob, or an address in an object store such as s3://bucket/rows, which is kept as a string."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path, or the unchanged address. Raises the error of this type for a path or glob without a file."""
        text = os.fsdecode(value)
        if "://" in text and not text.startswith("file://"):
            return text
        text = text.removeprefix("file://")
        if glob.has_magic(text) and not os.path.exists(text) and next(glob.iglob(text, recursive=True), None):
            return Path(text)
        return super().convert(text, param, ctx)


class NamedPath(InputPath):
    """A name and an existing file, NAME=FILE, which is kept as a string."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text. Raises the error of this type if its file does not exist."""
        name, _, file = value.partition("=")
        if not (name and file):
            self.fail(f"'{value}' must be {self.expected}.", param, ctx)
        super().convert(file, param, ctx)
        return value


def suggest_neighbor(path: Path) -> Path | None:
    """Return the path of the most similar name in the folder of `path`, if there is one."""
    try:
        with os.scandir(path.parent) as entries:
            nearest = suggest_name(path.name, [entry.name for entry in islice(entries, MAX_NEIGHBORS)])
    except OSError:
        return None
    return None if nearest is None else path.with_name(nearest)


MODEL = InputPath(
    ModelFileError,
    "a checkpoint of `train`, a .pt2 program, an ONNX file, a file or folder of weights, or a pickled module; see --help for the commands",
)
DATA = InputPath(DataError, "a file with rows: CSV, Parquet, or NPZ for your own model")
ROWS = DataPath(
    DataError, "rows: a CSV or Parquet file, a folder or glob of them, or an address such as s3://bucket/rows/*.parquet"
)
ROWS_OR_ARRAYS = DataPath(
    DataError,
    "rows: a CSV or Parquet file, an NPZ file for your own model, a folder or glob, or an address such as s3://bucket/rows/*.parquet",
)
REQUEST = InputPath(DataError, "an .npz with an example request")
BUNDLE = InputPath(BundleError, "a bundle directory or a packed bundle")
ARTIFACT = InputPath(ModelFileError, "a bundle or an .onnx file")
PLAN = InputPath(InputFileError, "the plan.json of a bundle, or the output of --plan-only")
PRIVATE_KEY = InputPath(InputFileError, "an Ed25519 private key in PEM, without a password")
PUBLIC_KEY = InputPath(InputFileError, "an Ed25519 public key in PEM")
VOCABULARY = NamedPath(DataError, "INPUT=FILE, a CSV or Parquet file with the columns raw and id")
SWEEP_RESULTS = InputPath(InputFileError, "a folder written by `recprune-export sweep`")
