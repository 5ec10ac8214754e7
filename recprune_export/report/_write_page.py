"""Write a page to a file."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from recprune_export.errors import UsageError
from recprune_export.output_files import check_output_file


def default_page_path(bundle: Path, other: Path | None = None) -> Path:
    """Return the default path of the page of a bundle, or of that bundle and another one, beside it.

    >>> default_page_path(Path("artifacts/ctr")).name, default_page_path(Path("a/ctr"), Path("b/ctr-small")).name
    ('ctr.report.html', 'ctr-and-ctr-small.report.html')
    """
    bundle = bundle.resolve()
    names = bundle.name if other is None else f"{bundle.name}-and-{other.resolve().name}"
    return bundle.with_name(f"{names}.report.html")


def check_page_path(path: Path, bundles: Sequence[Path]) -> Path:
    """Return the absolute path of a page that is to be written; to be called before a long job.

    Raises `UsageError` if it cannot be written, or if it is inside one of `bundles`, which contain only listed files.
    """
    path = path.resolve()
    enclosing = next((bundle for bundle in bundles if path.is_relative_to(bundle.resolve())), None)
    if enclosing is not None:
        raise UsageError(
            f"{path} is inside the bundle {enclosing}, whose files are verified: write the report to another folder."
        )
    check_output_file(path)
    return path


def write_page(page: str, path: Path, bundles: Sequence[Path]) -> Path:
    """Write a page to `path` atomically and return the absolute path. Raises `UsageError` like `check_page_path`."""
    path = check_page_path(path, bundles)
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(page, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UsageError(f"The report cannot be written to {path}: {error.strerror}.") from error
    return path
