"""A bundle with all that servers want, without PyTorch: y = table[user] + sum(tags_table[tags]) + sum(numbers)."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from recprune_export.bundle import ENCODING, Content, format_compact_json, write_bundle
from recprune_export.bundle.contents import make_npz
from recprune_export.bundle.raw_rows import RAW_ROWS, make_raw_rows
from recprune_export.bundle.servers import kserve, make_model_repository
from recprune_export.bundle.servers.serving_program import make_predict_samples, make_serving_program
from recprune_export.data import Encoder, encoding_summary
from recprune_export.onnx import SessionOptions
from recprune_export.program import BATCH, Input, Output, Signature
from tests.bundle.samples import manifest

TABLE = np.array([0.5, 1.0, -2.0, 4.0], dtype=np.float32)
TAGS = np.array([0.0, 0.25, 8.0, -16.0], dtype=np.float32)
SIGNATURE = Signature(
    (
        Input("user", "int64", (BATCH,), ((0, 3),)),
        Input("tags", "int64", (BATCH, 3), ((0, 3),)),
        Input("numeric", "float32", (BATCH, 2)),
    ),
    (Output("y", "float32", (BATCH,)),),
)
_ENCODER = {
    "schema": {
        "labels": ["y"], "categorical": ["user"], "numeric": ["age", "price"],
        "multi_valued": [{"name": "tags", "separator": "|", "max_length": 3}], "sequence": None,
        "split": {"column": None, "seed": 0, "valid": 0.1, "test": 0.1},
    },
    "vocabularies": {"user": ["ann", "bob", "7"], "tags": ["red", "blue"]},
    "means": {"age": 30.0, "price": 2.0},
    "stds": {"age": 10.0, "price": 0.5},
}  # fmt: skip
ENCODER = json.loads(json.dumps(Encoder.from_dict(_ENCODER).to_dict()))


def request(rows: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 4, size=(rows, 3))
    return {"user": np.arange(rows) % 4, "tags": tags, "numeric": rng.normal(size=(rows, 2)).astype(np.float32)}


def answer(asked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    of_ids = TABLE[asked["user"]] + TAGS[asked["tags"]].sum(axis=1)
    return {"y": of_ids + asked["numeric"].sum(axis=1, dtype=np.float32)}


def model() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "user"], ["of_user"]),
            helper.make_node("ReduceSum", ["numeric", "one"], ["of_numbers"], keepdims=0),
            helper.make_node("Gather", ["tags_table", "tags"], ["each_tag"]),
            helper.make_node("ReduceSum", ["each_tag", "one"], ["of_tags"], keepdims=0),
            helper.make_node("Sum", ["of_user", "of_tags", "of_numbers"], ["y"]),
        ],
        "sum",
        [
            helper.make_tensor_value_info("user", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("tags", TensorProto.INT64, ["batch", 3]),
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(TAGS, "tags_table"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 10
    return bytes(made.SerializeToString())


def files() -> dict[str, Content]:
    asked = request()
    said = answer(asked)
    raw_rows = make_raw_rows(ENCODER, SIGNATURE, answer)
    return {
        "model.onnx": model(),
        "samples/inputs.npz": make_npz(asked),
        "samples/outputs.npz": make_npz(said),
        ENCODING: format_compact_json(ENCODER),
        "README.md": b"# sum\n",
        RAW_ROWS: raw_rows,
        **make_predict_samples(asked, said, json.loads(raw_rows), ENCODER),
        **kserve.make_kserve_samples("sum", asked, said),
        **kserve.make_triton_samples("sum", asked, said, batched=True),
        **make_serving_program(),
        **make_model_repository(
            "sum", SIGNATURE, asked, ["model.onnx"], options=SessionOptions(), max_batch=64
        ),
    }  # fmt: skip


def write(target: Path) -> Path:
    stated = manifest(name="sum", signature=SIGNATURE.to_dict(), encoding=encoding_summary(ENCODER, ENCODING))
    return write_bundle(target, files(), stated)
