"""`import_torch`: import PyTorch, which takes seconds, with a status message."""

from recprune_export.progress import show_status


def import_torch() -> None:
    """Import PyTorch; commands call this after options and paths are checked and before modules that need PyTorch."""
    with show_status("Loading PyTorch"):
        import torch  # noqa: F401
