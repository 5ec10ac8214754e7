"""Writing of graphs to files that `onnx.checker` accepts."""

from pathlib import Path

import onnx
import onnx_ir as ir

from recprune_export.errors import ExportError

# If all weights take at least this number of bytes, they are in a separate file (docs/decisions/external-weights.md).
EXTERNAL_THRESHOLD = 1 << 20
INLINE = 1 << 10  # bytes of a tensor that stays in the graph: sizes and axes, which shape inference reads
_IR_OF_TYPE = {ir.DataType.INT4: 10, ir.DataType.UINT4: 10}  # the first version of the format that has a type
ALIGNMENT = 1 << 12  # of a tensor in the file, the size of a page


def save_onnx(model: ir.Model, path: Path, external_threshold: int = EXTERNAL_THRESHOLD) -> Path | None:
    """Write `model` to `path`; return the file of external weights, used from `external_threshold` bytes on, or None.

    Time: one pass over the weights. Memory: tensors are written one after the other, without a copy; inline weights, which are few bytes,
    are copied by protobuf.

    Raises `ExportError` if the file does not pass onnx.checker.
    """
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    model.ir_version = choose_ir_version(model)
    data = path.with_name(path.name + ".data") if weights >= external_threshold else None
    if data is None:
        _copy_external_weights(model)
        ir.save(model, path)
    else:
        ir.save(
            model, path, external_data=data.name, size_threshold_bytes=INLINE, alignment=ALIGNMENT, align_threshold=INLINE
        )  # fmt: skip
        _restore_doc_strings(model, path)
    _check(path)
    return data


def save_with_weights_beside(model: ir.Model, path: Path) -> None:
    """Write a graph whose external weights stay in their file, in the folder of `path`.

    Raises `ExportError` if the file does not pass onnx.checker.
    """
    ir.save(model, path)
    _restore_doc_strings(model, path)
    _check(path)


def choose_ir_version(model: ir.Model) -> int:
    """Return the oldest version of the file format that has the operator sets and the types of weights, for old runtimes."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    by_opset: int = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    types = {value.const_value.dtype for value in model.graph.initializers.values() if value.const_value is not None}
    return max([by_opset, *(_IR_OF_TYPE.get(dtype, by_opset) for dtype in types)])


def _copy_external_weights(model: ir.Model) -> None:
    """Copy weights of the file that the graph was read from; the map of that file stays open, since others may read it."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)


def _restore_doc_strings(model: ir.Model, path: Path) -> None:
    """Write the `doc_string` of external tensors, which onnx-ir leaves out: it describes how a tensor is stored by row."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    texts = {name: tensor.doc_string for name, tensor in tensors.items() if tensor is not None and tensor.doc_string}
    if texts:
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            if tensor.name in texts:
                tensor.doc_string = texts[tensor.name]
        onnx.save(proto, path)


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported file does not pass onnx.checker: {str(error).splitlines()[0]}") from error
