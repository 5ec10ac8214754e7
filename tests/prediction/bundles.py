"""Small bundles without PyTorch for tests of scores: of histories, and of an input that the candidates of a request share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from onnx import TensorProto, helper, numpy_helper

from recprune_export.bundle import ENCODING, format_compact_json, write_bundle
from recprune_export.bundle.contents import make_npz
from recprune_export.data import Schema, encoding_summary
from recprune_export.data.encoding import Vocabulary
from recprune_export.data.schema import SequenceColumns
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.program import BATCH, Input, Output, Signature
from tests.bundle.complete import ENCODER, SIGNATURE, files
from tests.bundle.samples import manifest

ITEMS = ("tea", "7", "milk", "salt")
LENGTH = 3  # of a history
TABLE = np.random.default_rng(0).normal(size=(len(ITEMS) + 1, len(ITEMS) + 1)).astype(np.float32)
TABLE[0] = 0
HISTORY_ENCODER = SequenceEncoder(Schema(sequence=SequenceColumns("who", "what", "when", LENGTH)), Vocabulary(ITEMS, 1))
_HISTORIES = Signature(
    (Input("history", "int64", (BATCH, LENGTH), ((0, len(ITEMS)),)),),
    (Output("scores", "float32", (BATCH, len(ITEMS) + 1)),),
)


def answer_histories(history: np.ndarray) -> np.ndarray:
    """Return the scores of histories [B, length]: the sum of a row of a table for each item."""
    return np.asarray(TABLE[history].sum(axis=1))


def write_history_bundle(folder: Path) -> Path:
    """Write a bundle that scores all items after a history."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "history"], ["each"]),
            helper.make_node("ReduceSum", ["each", "one"], ["scores"], keepdims=0),
        ],
        "histories",
        [helper.make_tensor_value_info("history", TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(ITEMS) + 1])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([1]), "one")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 10
    history = np.array([[0, 1, 2], [4, 3, 3]])
    values = HISTORY_ENCODER.to_dict()
    contents = {
        "model.onnx": made.SerializeToString(),
        "samples/inputs.npz": make_npz({"history": history}),
        "samples/outputs.npz": make_npz({"scores": answer_histories(history)}),
        ENCODING: format_compact_json(values),
    }
    scores = {"scores": {"kind": "ranking", "label": "next_item", "meaning": "scores"}}
    stated = manifest(
        name="histories", signature=_HISTORIES.to_dict(), encoding=encoding_summary(values, ENCODING), scores=scores
    )
    return write_bundle(folder, contents, stated)


def histories(count: int, seed: int = 0) -> pl.DataFrame:
    """Return rows with histories of 0 to 5 items, some of them unknown."""
    rng = np.random.default_rng(seed)
    lists = [[(*ITEMS, "new")[n] for n in rng.integers(0, 5, rng.integers(0, 6))] for _ in range(count)]
    return pl.DataFrame(
        {"row": np.arange(count), "history": lists}, schema={"row": pl.Int64, "history": pl.List(pl.String)}
    )


def write_shared_bundle(folder: Path, encoded: bool = True) -> Path:
    """Write the bundle of `complete.py` with one user for all candidates of a request, whose value broadcasts in its graph."""
    user, *rest = SIGNATURE.inputs
    signature = Signature((replace(user, shape=(1,), shared=True), *rest), SIGNATURE.outputs)
    contents = {name: content for name, content in files().items() if encoded or name != ENCODING}
    encoding = {"encoding": encoding_summary(ENCODER, ENCODING)} if encoded else {}
    return write_bundle(folder, contents, manifest(name="sum", signature=signature.to_dict(), **encoding))
