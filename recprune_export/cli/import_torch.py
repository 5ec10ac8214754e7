"""`import_torch`: the import of PyTorch, which takes seconds, with a word on the screen."""

from recprune_export.progress import show_status


def import_torch() -> None:
    """Import PyTorch; commands call this after options and paths are checked, before the modules that need it."""
    with show_status("Loading PyTorch"):
        import torch  # noqa: F401
