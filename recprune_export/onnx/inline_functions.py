"""The functions of a model, inlined."""

import onnx
import onnx.inliner


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with inlined functions; functions that cannot be inlined are not changed."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:  # onnx's inliner raises no specific exceptions; a session reports the error of the model
        return model
