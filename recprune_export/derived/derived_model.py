"""The plan of a derived model: an ONNX file that is made from `model.onnx`, and its expected outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recprune_export.onnx.export import OnnxFile
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.parity import ModelFunction, Tolerances


@dataclass(frozen=True)
class SourceModel:
    """The file `model.onnx` of a bundle, from which others are made.

    `answer` runs it; `rows` is a request of many rows, as in traffic, with the inputs of its signature; `tolerances` are those
    within which its outputs are reproduced.
    """

    file: OnnxFile
    answer: ModelFunction
    rows: RequestArrays
    tolerances: Tolerances


@dataclass(frozen=True)
class DerivedModel:
    """An ONNX file derived from `model.onnx`, and its expected outputs.

    `purpose` completes "`model.raw.onnx` ...". `expected` computes the outputs for a request with `model.onnx` and NumPy. `rows` is a
    request of many rows, as in traffic; its first rows are the golden request. `requests` are further requests to compare, by their
    labels. `to_source` converts a request to that of `model.onnx` for the same rows, for timing both. `files` are additional files in the
    bundle, by their names there.
    """

    file: OnnxFile
    purpose: str
    expected: ModelFunction
    rows: RequestArrays
    to_source: Callable[[RequestArrays], RequestArrays]
    tolerances: Tolerances
    requests: Mapping[str, RequestArrays] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the file in the bundle."""
        return self.file.path.name

    @property
    def samples(self) -> tuple[str, str]:
        """The names in the bundle of the golden request and its answer."""
        stem = self.name.removesuffix(".onnx")
        return f"samples/{stem}-inputs.npz", f"samples/{stem}-outputs.npz"

    def list_files(self) -> list[Path]:
        """Return the file and the file of its external weights, if any."""
        return [path for path in (self.file.path, self.file.data) if path is not None]


# Writes the file of a derived model into a folder.
DeriveModel = Callable[[SourceModel, Path], DerivedModel]


def take_first_rows(request: Mapping[str, np.ndarray], count: int) -> RequestArrays:
    """Return the first `count` rows of a request; shared inputs keep their single row."""
    return {name: values[:count] for name, values in request.items()}
