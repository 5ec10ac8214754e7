"""The files of a bundle for servers: a program, samples, and repositories."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.bundle.servers.finite_rows import take_finite_rows
from recprune_export.bundle.servers.kserve import (
    INFERENCE_SERVICE,
    make_inference_service,
    make_kserve_samples,
    make_triton_samples,
)
from recprune_export.bundle.servers.row_independence import rows_are_independent
from recprune_export.bundle.servers.serving_program import make_predict_samples, make_serving_program
from recprune_export.bundle.servers.triton import make_model_repository
from recprune_export.bundle.write import Content
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.requests.jagged_inputs import make_file_signature, take_first_row, to_file_arrays

if TYPE_CHECKING:
    from recprune_export.derived.validate_derived import ValidatedModel
    from recprune_export.onnx.export import OnnxFile


@dataclass(frozen=True)
class ServerFiles:
    """The files for servers by their names in the bundle.

    `triton_batch` is the largest number of rows of a batch in Triton: 0 if it runs each request separately, None without a repository.
    """

    files: Mapping[str, Content]
    triton_batch: int | None = None


def make_server_files(
    name: str,
    served: "OnnxFile",
    answer: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    request: Mapping[str, np.ndarray],
    response: Mapping[str, np.ndarray],
    *,
    options: SessionOptions,
    max_batch: int,
    triton: bool,
    raw_rows: bytes | None = None,
    encoding: bytes | None = None,
    derived: "Sequence[ValidatedModel]" = (),
) -> ServerFiles:
    """Return the program that serves a bundle, golden samples for KServe, and with `triton` a model repository for Triton.

    `answer` runs the model; `max_batch` is the largest batch that a server may form or take; `raw_rows` and `encoding` the content of
    `samples/raw-rows.json` and `encoding.json`, if any; `derived` the ONNX files that are made from this one.
    """
    signature = served.signature
    arrays = to_file_arrays(signature, request)
    files: dict[str, Content] = {
        **make_serving_program(),
        **make_predict_samples(arrays, response, *(None if c is None else json.loads(c) for c in (raw_rows, encoding))),
        **make_derived_samples(name, derived),
    }
    finite = take_finite_rows(signature, answer, request, response)
    if finite is not None:
        files |= make_kserve_samples(name, *finite)
    if not triton:
        return ServerFiles(files, None)
    independent = rows_are_independent(signature, answer, request, response)
    batch = max_batch if independent else 0
    models = [path.name for path in (served.path, served.data) if path is not None]
    files |= make_model_repository(
        name, make_file_signature(signature), to_file_arrays(signature, take_first_row(signature, request)), models,
        options=options, max_batch=batch,
    )  # fmt: skip
    files[INFERENCE_SERVICE] = make_inference_service(name)
    if finite is not None:
        files |= make_triton_samples(name, *finite, batched=bool(batch))
    return ServerFiles(files, batch)


def make_derived_samples(bundle: str, models: "Sequence[ValidatedModel]") -> dict[str, bytes]:
    """Return the samples for KServe of ONNX files that are made from `model.onnx`, by their names in the bundle."""
    files: dict[str, bytes] = {}
    for validated in models:
        model = validated.model
        finite = take_finite_rows(model.file.signature, model.expected, validated.golden, validated.answer)
        if finite is not None:
            files |= make_kserve_samples(bundle, *finite, model.name)
    return files


def select_server_files(files: Mapping[str, Content]) -> ServerFiles:
    """Return those of the files of an existing bundle that are for servers, for a README that is written again."""
    pattern = r"triton/|kserve/|serving/|serve_onnxruntime\.py$|samples/(.*-)?(kserve|triton|predict)-(request|response)\.json$"
    names = [name for name in files if re.match(pattern, name)]
    config = next((name for name in names if re.fullmatch(r"triton/[^/]+/config\.pbtxt", name)), None)
    content = None if config is None else files[config]
    text = content.read_bytes() if isinstance(content, Path) else content if isinstance(content, bytes) else b""
    batch = re.search(rb"^max_batch_size: (\d+)$", text, re.MULTILINE)
    return ServerFiles({name: files[name] for name in names}, None if batch is None else int(batch[1]))
