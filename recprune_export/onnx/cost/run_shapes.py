"""Shapes of a file's values that ONNX does not infer, from one answer of ONNX Runtime: sizes that the graph computes at run time."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx

from recprune_export.onnx.cost.operator_cost import is_product
from recprune_export.onnx.cost.shape_inference import Shapes, find_request_shapes, infer_shapes
from recprune_export.onnx.runtime.session import SessionOptions, load_session, run_silently

_FOLDER = "session.model_external_initializers_file_folder_path"


def find_shapes(path: Path, model: onnx.ModelProto, batch: int) -> Shapes:
    """Return the shapes of the values of a file's `model`, for `batch` rows: those that ONNX infers, and those of products.

    Where ONNX infers no shape of a product or of what it reads, ONNX Runtime answers a request of ones (valid ids and lengths) or of
    zeros; a file that answers neither has the inferred shapes alone. Time: that of loading the file.
    """
    shapes = infer_shapes(model, batch)
    missing = [name for name in dict.fromkeys(_list_product_values(model)) if name not in shapes]
    if not missing:
        return shapes
    for number in (1, 0):
        with suppress(Exception):  # of ONNX Runtime, whose classes have no common base
            return {**shapes, **_run(path, model, batch, missing, number)}
    return shapes


def _list_product_values(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if is_product(node):
            yield from (name for name in (*node.input, *node.output[:1]) if name)


def _run(path: Path, model: onnx.ModelProto, batch: int, names: list[str], number: int) -> Shapes:
    """Return the shapes of values in the answer to a request of which each number is `number`."""
    with_values = onnx.ModelProto()
    with_values.CopyFrom(model)
    del with_values.graph.output[:]
    with_values.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = SessionOptions(threads=1).to_onnxruntime()
    options.log_severity_level = 4
    options.add_session_config_entry(_FOLDER, str(path.parent.absolute()))
    session = load_session(with_values.SerializeToString(), options, str(path))
    request = {
        name: np.full(shape, number, dtype=dtype) for name, (shape, dtype) in find_request_shapes(model, batch).items()
    }
    answers = run_silently(session, names, request)
    return {name: np.shape(answer) for name, answer in zip(names, answers, strict=True)}
