"""Latency sample of one process: both artifacts interleaved, loaded in one order and then in the other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.data.npz import read_npz
from recprune_export.gate.gate_constants import MAX_ROUNDS, MIN_ROUNDS, SECONDS, SESSION_REPEATS
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature
from recprune_export.validation.latency.backends import make_onnxruntime_backend
from recprune_export.validation.latency.repeated_sessions import log_ratio, measure_repeated_sessions
from recprune_export.validation.latency.request_cycle import sample_cycles, split_into_cycles
from recprune_export.validation.latency.turns import Backend

NEW, BASE = "NEW", "BASE"


def sample_latency(
    models: Mapping[str, tuple[str, Mapping[str, Any]]],
    signature: Mapping[str, Any],
    batches: Sequence[int],
    threads: int,
    first: str,
    seed: int,
    rows: str | None = None,
) -> dict[str, Any]:
    """Measure NEW and BASE (path and session options of each); the model named `first` is loaded first.

    Requests are drawn from the signature, or are the rows of the `.npz` file `rows`.

    Returns, by batch size, `log_ratio` (the mean of log(NEW / BASE) over both orders) and all `times` in ms.
    """
    model_signature = Signature.from_dict(signature)
    order = [first, BASE if first == NEW else NEW]
    makers = {name: _make_backend_factory(name, *models[name], threads) for name in order}
    if rows is None:
        requests = sample_cycles(model_signature, batches, seed)
    else:
        requests = split_into_cycles(read_npz(Path(rows)), batches, model_signature, seed)
    rng = np.random.default_rng(seed)
    repeats = measure_repeated_sessions(
        makers, requests, count=SESSION_REPEATS, seconds=SECONDS, rng=rng, min_rounds=MIN_ROUNDS, max_rounds=MAX_ROUNDS
    )
    return {
        str(batch): {
            "log_ratio": float(np.mean([log_ratio(repeat[batch], NEW, BASE) for repeat in repeats])),
            "times": {name: np.concatenate([repeat[batch][name] for repeat in repeats]).tolist() for name in order},
        }
        for batch in batches
    }


def _make_backend_factory(name: str, path: str, options: Mapping[str, Any], threads: int) -> Callable[[], Backend]:
    return lambda: make_onnxruntime_backend(name, Path(path), threads, SessionOptions.from_dict(options))
