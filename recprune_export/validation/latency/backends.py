"""The four backends: the dense and the pruned program, in PyTorch and in ONNX Runtime.

PyTorch is imported only by the backends that use it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.onnx.runtime.session import DEFAULT_OPTIONS, SessionOptions, adapt_request, make_session
from recprune_export.program.signature import BATCH
from recprune_export.validation.edge_requests import RequestArrays, count_candidates
from recprune_export.validation.latency.turns import Backend

if TYPE_CHECKING:
    import onnxruntime

    from recprune_export.program.program import Program

DENSE_TORCH, PRUNED_TORCH = "dense PyTorch", "pruned PyTorch"
DENSE_ONNX, PRUNED_ONNX = "dense ONNX", "pruned ONNX"


def make_torch_backend(name: str, program: "Program") -> Backend:
    """Return a backend that runs a program in PyTorch; inputs that all candidates share are repeated before it is timed."""
    from recprune_export.finetuning.task import run_program

    batched = {i.name for i in program.signature.inputs if i.shape[:1] == (BATCH,)}

    def prepare(request: RequestArrays) -> RequestArrays:
        rows = count_candidates({name: request[name] for name in batched})
        return {
            name: np.repeat(values, rows, axis=0) if name in batched and len(values) == 1 else values
            for name, values in request.items()
        }

    def run_once(request: RequestArrays) -> object:
        return run_program(program, request)

    return Backend(name, run_once, prepare)


def make_onnxruntime_backend(
    name: str, path: Path, threads: int | None = None, options: SessionOptions = DEFAULT_OPTIONS
) -> Backend:
    """Return a backend that runs an ONNX file; `threads` overrides the number in `options`.

    Requests are adapted to the inputs of the file (`adapt_request`) before they are timed.
    """
    session = FileSession(path, threads, options)
    return Backend(name, session.run, session.prepare, session)


class FileSession:
    """A session of an ONNX file that can be freed and loaded again."""

    def __init__(self, path: Path, threads: int | None, options: SessionOptions) -> None:
        self._path, self._threads, self._options = path, threads, options
        self.load()

    def load(self) -> None:
        """Load the file. Raises `ExportError` if ONNX Runtime cannot."""
        self._session: onnxruntime.InferenceSession | None = make_session(self._path, self._threads, self._options)

    def free(self) -> None:
        """Free the memory of the weights."""
        self._session = None

    def run(self, request: RequestArrays) -> object:
        """Run a prepared request."""
        assert self._session is not None
        return self._session.run(None, request)

    def prepare(self, request: RequestArrays) -> RequestArrays:
        """Return the inputs of the file from a request."""
        assert self._session is not None
        return adapt_request(self._session, request)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
