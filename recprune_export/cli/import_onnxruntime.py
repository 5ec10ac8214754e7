"""`import_onnxruntime`: import ONNX Runtime, which takes half a second, with a status message."""

from recprune_export.progress import show_status


def import_onnxruntime() -> None:
    """Import ONNX Runtime; commands on bundles call this after options and paths are checked, before the modules that need it."""
    with show_status("Loading ONNX Runtime"):
        import recprune_export.onnx.runtime.session  # noqa: F401  # switches telemetry off first
