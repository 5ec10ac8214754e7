"""Cold start and memory of a model: load time, first request, resident bytes, in fresh processes."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from recprune_export.environment import count_cores
from recprune_export.onnx.runtime.session import SessionOptions, make_session, run
from recprune_export.program.requests.random_requests import sample_request
from recprune_export.program.signature import Signature
from recprune_export.progress import progress_bar
from recprune_export.validation.latency.fresh_process import call_fresh
from recprune_export.validation.latency.latency_constants import REPEATS


@dataclass(frozen=True)
class Footprint:
    """Cost of one process: ms to create the session, ms of the first request, and bytes in addition to Python and ONNX Runtime. `memory`
    is in use after the first request; `peak` is the maximum until then, including loading.

    Both include the weights in memory and all pages of weights that are mapped from a file, because traffic will read them: pages that
    the first request did not read are added. So files with internal and with external weights are comparable.
    """

    load: float
    first_request: float
    memory: float
    peak: float

    @classmethod
    def typical(cls, runs: "tuple[Footprint, ...]") -> Self:
        """Return the medians of several processes."""
        return cls(**{f.name: float(np.median([getattr(one, f.name) for one in runs])) for f in fields(cls)})


@dataclass(frozen=True)
class FootprintReport:
    """Footprints by model in `runs`: the same request of `batch` rows, each time in a fresh process."""

    runs: Mapping[str, tuple[Footprint, ...]]
    batch: int

    def typical(self, name: str) -> Footprint:
        """Return the medians over the processes of one model."""
        return Footprint.typical(self.runs[name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: medians, ms and bytes."""
        return {
            "batch": self.batch,
            "processes": {name: len(runs) for name, runs in self.runs.items()},
            **{name: asdict(self.typical(name)) for name in self.runs},
        }


def measure_footprints(
    models: Mapping[str, tuple[Path, SessionOptions]], signature: Signature, batch: int, repeats: int = REPEATS
) -> FootprintReport:
    """Load each model and answer one request of `batch` rows, `repeats` times, in fresh processes.

    The models are loaded in parallel if there is a core for each of their threads, otherwise one after the other. Files may come from the
    page cache of the system: this measures a restart, not a first boot.
    """

    def measure(name: str) -> Footprint:
        path, options = models[name]
        answer = call_fresh(
            f"{__name__}:measure_here",
            path=str(path),
            options=options.to_dict(),
            signature=signature.to_dict(),
            batch=batch,
        )
        return Footprint(**answer)

    runs_by_model: dict[str, list[Footprint]] = {name: [] for name in models}
    threads = sum(options.threads for _, options in models.values())
    workers = len(models) if models and count_cores() >= threads else 1
    with (
        progress_bar("Measuring load times in new processes", repeats * len(models)) as advance,
        ThreadPoolExecutor(workers) as executor,
    ):
        for turn in range(repeats):
            names = list(models)[:: 1 if turn % 2 == 0 else -1]
            for name, footprint in zip(names, executor.map(measure, names), strict=True):
                runs_by_model[name].append(footprint)
                advance("")
    return FootprintReport({name: tuple(runs) for name, runs in runs_by_model.items()}, batch)


def measure_here(path: str, options: Mapping[str, Any], signature: Mapping[str, Any], batch: int) -> dict[str, float]:
    """Measure in this process, which should be fresh; return the values of a `Footprint`."""
    import onnxruntime  # noqa: F401  # its memory is not counted for the model

    request = sample_request(Signature.from_dict(signature), batch, seed=0)
    memory, peak = _read_resident_bytes()
    start = time.perf_counter()
    session = make_session(Path(path), options=SessionOptions.from_dict(options))
    loaded = time.perf_counter()
    run(session, request)
    first_answer = time.perf_counter()
    memory_after, peak_after = _read_resident_bytes()
    memory_after += count_unread_bytes(Path(path), Path("/proc/self/smaps").read_text())
    return asdict(
        Footprint(
            load=(loaded - start) * 1e3,
            first_request=(first_answer - loaded) * 1e3,
            memory=memory_after - memory,
            peak=max(peak_after, peak, memory_after) - memory,
        )
    )


def _read_resident_bytes() -> tuple[int, int]:
    """Return the resident bytes of this process, now and at their peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    memory = {
        line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith(("VmRSS", "VmHWM"))
    }
    return memory["VmRSS"], memory["VmHWM"]


def count_unread_bytes(model: Path, maps: str) -> int:
    """Return the bytes of the mapped external weights of `model` that are not in memory, from the text of /proc/self/smaps."""
    unread, is_weights = 0, False
    beside = f"{model.resolve()}."
    for line in maps.splitlines():
        key, _, rest = line.partition(":")
        if " " in key:  # the first line of a map: addresses, flags, offset, device, inode, path
            is_weights = line[line.find("/") :].startswith(beside) if "/" in line else False
        elif is_weights and key in ("Size", "Rss"):
            unread += (1 if key == "Size" else -1) * (int(rest.split()[0]) << 10)
    return unread
