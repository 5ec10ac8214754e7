"""External weights that a session reads from a shared map, if the process may not allocate a private map.

ONNX Runtime maps external weights as writable memory, and all bytes of such a map count toward the limit of data segments (`ulimit -d`).
A read-only map does not count.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recprune_export.memory_limit import read_data_limit
from recprune_export.onnx.reading import find_weight_files, read_tensor

if TYPE_CHECKING:
    import onnxruntime

_SHARE = 0.25  # the fraction of the remaining data segment that one session may use for its weights
_LEAST = 1 << 20  # bytes of a weight that is mapped


def map_initializers(path: Path, options: "onnxruntime.SessionOptions") -> list[Any]:
    """Make a session of the file `path` read its large weights from maps, if the limit of data segments requires it.

    Return objects that must live as long as the session. ONNX Runtime reports the error for a file that cannot be read.
    """
    left = read_data_limit()
    if left is None or not path.is_file():
        return []
    import onnx
    import onnxruntime

    try:
        model = onnx.load(path, load_external_data=False)
        size = sum((path.parent / name).stat().st_size for name in find_weight_files(model))
    except Exception:  # protobuf and the file system have no common base
        return []
    if size <= _SHARE * left:
        return []
    alive: list[Any] = []
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = read_tensor(tensor, path.parent)
            if array.nbytes >= _LEAST and array.dtype.kind in "fiu":
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                options.add_initializer(tensor.name, value)
                alive += [array, value]
    return alive
