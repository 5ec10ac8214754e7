"""`show_import`: a status message while a command imports a library, which takes up to seconds."""

from contextlib import AbstractContextManager

from recprune_export.progress import show_status

PYTORCH, ONNXRUNTIME = "PyTorch", "ONNX Runtime"


def show_import(library: str) -> AbstractContextManager[None]:
    """Return a context in which a command imports a library and the modules that need it.

    Commands enter it after options and paths are checked.
    """
    return show_status(f"Loading {library}")
