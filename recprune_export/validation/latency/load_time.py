"""Time to load ONNX files, each in fresh processes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.onnx.runtime.session import SessionOptions, make_session
from recprune_export.progress import progress_bar
from recprune_export.validation.latency.fresh_process import call_fresh
from recprune_export.validation.latency.latency_constants import REPEATS


def measure_load_times(files: Mapping[str, Path], options: SessionOptions) -> dict[str, float]:
    """Return ms to create a session of each file: the median over fresh processes, in which the files take turns."""
    times: dict[str, list[float]] = {name: [] for name in files}
    with progress_bar("Measuring load times in new processes", REPEATS * len(files)) as advance:
        for _ in range(REPEATS):
            for name, path in files.items():
                times[name].append(call_fresh(f"{__name__}:load_here", path=str(path), options=options.to_dict()))
                advance("")
    return {name: float(np.median(of)) for name, of in times.items()}


def load_here(path: str, options: Mapping[str, Any]) -> float:
    """Return ms to create a session in this process, which should be fresh."""
    import onnxruntime  # noqa: F401  # its import is not counted for the model

    session_options = SessionOptions.from_dict(options)  # imports pydantic, which is also not counted
    start = time.perf_counter()
    make_session(Path(path), options=session_options)
    return (time.perf_counter() - start) * 1e3
