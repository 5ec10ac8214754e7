"""Write a graph in another ONNX operator set."""

import onnx
import onnx_ir as ir

from recprune_export.errors import ExportError


def set_opset(model: ir.Model, version: int) -> None:
    """Declare operator set `version` if every node has the same meaning in it; the outputs are compared afterwards.

    A node passes if the operator exists in the other set, with its attributes and the same number of inputs and outputs; the types of its
    values are checked by `onnx.checker` when the file is written. Raises `ExportError`, which names the operator.
    """
    current = model.opset_imports[""]
    if version == current:
        return
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain in ("", "ai.onnx"):
            _check_node(node, version)
            node.version = version
    model.opset_imports[""] = version


def _check_node(node: ir.Node, version: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        raise ExportError(
            f"The model needs {node.op_type}, which operator set {version} does not have: give a larger --opset, or leave it out."
        ) from None
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    fits = len(node.inputs) <= schema.max_input and len(node.outputs) <= schema.max_output
    if unknown or not fits or schema.deprecated:
        form = f"with '{unknown[0]}'" if unknown else "in this form"
        raise ExportError(
            f"The model needs {node.op_type} {form}, which operator set {version} does not have: give another --opset, or leave it out."
        )
