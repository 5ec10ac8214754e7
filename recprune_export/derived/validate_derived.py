"""Compare a derived model with `model.onnx`: outputs, time and load time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.derived.derived_model import DerivedModel, SourceModel, take_first_rows
from recprune_export.errors import ValidationFailed
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements, check_requirements
from recprune_export.onnx.runtime.session import SessionOptions, make_session, run
from recprune_export.progress import show_status
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.validation.edge_requests import RequestArrays, squeeze_shared_inputs
from recprune_export.validation.latency.backends import FileSession
from recprune_export.validation.latency.closed_loop import LatencyReport, measure_latency
from recprune_export.validation.latency.load_time import measure_load_times
from recprune_export.validation.latency.request_cycle import split_into_cycles
from recprune_export.validation.latency.turns import Backend
from recprune_export.validation.parity import NamedOutputs, ParityReport, check_parity

GOLDEN_ROWS = 16
OF_SOURCE = "model.onnx/"  # the prefix of the names of its inputs, in requests to both files


@dataclass(frozen=True)
class ValidatedModel:
    """A derived model with its measurements and its golden output; `latency` is compared with that of `model.onnx`.

    `load_times` are ms to create a session in a fresh process, by file.
    """

    model: DerivedModel
    requirements: RuntimeRequirements
    parity: ParityReport
    latency: LatencyReport
    load_times: Mapping[str, float]
    golden: RequestArrays
    answer: NamedOutputs

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the manifest in plain JSON values."""
        inputs, outputs = self.model.samples
        return {
            "purpose": self.model.purpose,
            "opset": self.model.file.opset,
            "runtime": self.requirements.to_dict(),
            "signature": self.model.file.signature.to_dict(),
            "parity": self.parity.to_dict(),
            "tolerances": self.model.tolerances.to_dict(),
            "latency": self.latency.to_dict(),
            "load_milliseconds": dict(self.load_times),
            "samples": {"inputs": inputs, "outputs": outputs},
        }


def validate_derived(
    model: DerivedModel,
    source: SourceModel,
    batches: tuple[int, ...],
    *,
    threads: int,
    seed: int,
    runtime: RuntimeTarget = ANY_RUNTIME,
) -> ValidatedModel:
    """Compare a derived model with `model.onnx` on its rows and edge requests, and time both interleaved.

    Raises `ExportError` if `runtime` is too old for the file, and `ValidationFailed` if an output differs.
    """
    requirements = check_requirements(model.file.path, runtime)
    session = make_session(model.file.path, threads)

    def answer(request: RequestArrays) -> NamedOutputs:
        return run(session, request)

    signature = model.file.signature
    golden = squeeze_shared_inputs(take_first_rows(model.rows, GOLDEN_ROWS), signature)
    with show_status(f"Comparing outputs of {model.name}"):
        requests = {"rows": squeeze_shared_inputs(model.rows, signature), "golden rows": golden, **model.requests}
        parity = check_parity(model.expected, answer, requests, model.tolerances)
    if not parity.passed:
        raise ValidationFailed(
            f"{model.name} does not reproduce the outputs of model.onnx, so nothing was written. {parity.failures[0]}"
        )
    latency = measure_beside_source(model, source, batches, threads=threads, seed=seed)
    options = SessionOptions(threads=threads)
    load_times = measure_load_times({path.name: path for path in (model.file.path, source.file.path)}, options)
    return ValidatedModel(model, requirements, parity, latency, load_times, golden, model.expected(golden))


def measure_beside_source(
    model: DerivedModel, source: SourceModel, batches: tuple[int, ...], *, threads: int, seed: int
) -> LatencyReport:
    """Time a derived model and `model.onnx` on the same rows, interleaved."""
    cycles = split_into_cycles(model.rows, batches, model.file.signature, seed)
    requests = {batch: [_add_source(model, request) for request in cycle] for batch, cycle in cycles.items()}
    backends = [
        _make_backend(model.name, model.file.path, threads, ""),
        _make_backend(source.file.path.name, source.file.path, threads, OF_SOURCE),
    ]
    return measure_latency(
        backends, requests, threads=threads, seed=seed, description=f"Measuring {model.name}", cold=False
    )


def _add_source(model: DerivedModel, request: RequestArrays) -> RequestArrays:
    of_source = {f"{OF_SOURCE}{name}": values for name, values in model.to_source(request).items()}
    return {**request, **of_source}


def _make_backend(name: str, path: Path, threads: int, prefix: str) -> Backend:
    """Return a backend that reads only the inputs of a request whose names begin with `prefix`."""
    session = FileSession(path, threads, SessionOptions())

    def prepare(request: Mapping[str, np.ndarray]) -> RequestArrays:
        own = {n.removeprefix(prefix): v for n, v in request.items() if n.startswith(OF_SOURCE) == bool(prefix)}
        return session.prepare(own)

    return Backend(name, session.run, prepare, session)
