"""A derived model for tests: `model.negated.onnx` gives the negative scores, and the names of the three best rows as texts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recprune_export.derived import DerivedModel, SourceModel
from recprune_export.onnx import OnnxFile
from recprune_export.program import Output
from recprune_export.validation import NamedOutputs
from recprune_export.validation.edge_requests import RequestArrays

SIGNS = np.array(["negative", "positive"])


def derive_negated(source: SourceModel, folder: Path, *, factor: float = -1.0) -> DerivedModel:
    """Write the file; with another `factor` than -1 it gives other answers than it should."""
    (output,) = source.file.signature.outputs
    proto = onnx.load(source.file.path)
    graph = proto.graph
    name = graph.output[0].name
    graph.initializer.append(numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.float32), "nothing"))
    graph.node.extend(
        [
            helper.make_node("Mul", [name, "factor"], ["negated"]),
            helper.make_node("Greater", [name, "nothing"], ["is_positive"]),
            helper.make_node("Cast", ["is_positive"], ["sign_number"], to=TensorProto.INT64),
            helper.make_node(
                "LabelEncoder", ["sign_number"], ["sign"], domain="ai.onnx.ml",
                keys_int64s=[0, 1], values_strings=SIGNS.tolist(),
            ),
        ]
    )  # fmt: skip
    del graph.output[:]
    shape = ["batch", *output.shape[1:]]
    graph.output.append(helper.make_tensor_value_info("negated", TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info("sign", TensorProto.STRING, shape))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    path = folder / "model.negated.onnx"
    onnx.save(proto, path)
    signature = replace(
        source.file.signature, outputs=(replace(output, name="negated"), Output("sign", "str", output.shape))
    )

    def expected(request: RequestArrays) -> NamedOutputs:
        scores = source.answer(request)[output.name]
        return {"negated": -scores, "sign": SIGNS[(scores > 0).astype(int)]}

    return DerivedModel(
        OnnxFile(path, source.file.opset, None, signature),
        "gives the negative scores and their sign",
        expected,
        source.rows,
        lambda request: request,
        source.tolerances,
    )
