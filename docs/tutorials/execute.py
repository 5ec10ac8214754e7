"""Execute the notebooks of the tutorials and store their outputs: `python docs/tutorials/execute.py [NAME ...]`."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient

if TYPE_CHECKING:
    from nbformat import NotebookNode

TUTORIALS = Path(__file__).parent
WORK = Path(tempfile.gettempdir()) / "tutorial"  # its name is in the outputs
SECONDS = 600  # for one cell, on a busy machine


def execute(notebook: Path, folder: Path) -> "NotebookNode":
    """Return a notebook with the outputs of its cells, executed in `folder`.

    The commands of this Python's environment are found first. Raises `CellExecutionError` where a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }
    client = NotebookClient(
        content,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)
    return content


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all, and write them where they are."""
    for notebook in sorted(TUTORIALS.glob("*.ipynb")):
        if not names or notebook.stem in names:
            shutil.rmtree(WORK, ignore_errors=True)
            content = execute(notebook, WORK)
            nbformat.write(content, notebook)
    shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
