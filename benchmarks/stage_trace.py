"""Time and memory of a job by the stage that its progress bar names, for this checkout and for earlier ones."""

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEFORE = "(before, between and after)"
IMPORTS = "(imports)"
FIGURES = ("seconds", "cpu_seconds", "peak_bytes", "exports", "export_seconds", "analyses", "analysis_seconds")
# The functions that are counted: for each, the first name that exists in the checkout.
COUNTED = {
    "exports": ("torch.export:export",),
    "analyses": ("recprune_export.channels.analysis:analyse", "recprune_export.channels.analysis:analyze"),
}
PROGRESS = ("recprune_export.progress:bar", "recprune_export.progress:progress_bar")
SAMPLING_SECONDS = 0.005

Trace = dict[str, dict[str, float]]  # by stage, by figure


class PeakMemory:
    """The largest anonymous memory of this process (RssAnon: without mapped files) since the last call of `take`, sampled."""

    def __init__(self) -> None:
        self._peak = 0
        self._stopped = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def take(self) -> int:
        """Return the peak in bytes, and reset it."""
        peak, self._peak = max(self._peak, read_anonymous_memory()), 0
        return peak

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLING_SECONDS):
            self._peak = max(self._peak, read_anonymous_memory())


def read_anonymous_memory() -> int:
    """Return the bytes of this process in memory that belong to no file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Recorder:
    """Figures by stage: times of an inner stage are not counted in the outer one, its memory is. Memory counts from the start."""

    def __init__(self) -> None:
        self.stages: Trace = {}
        self._running = [BEFORE]
        self._since = (time.perf_counter(), time.process_time())
        self._memory, self._start = PeakMemory(), read_anonymous_memory()

    def add(self, figure: str, amount: float) -> None:
        """Add to a figure of the stage that runs."""
        self._stage(self._running[-1])[figure] += amount

    def lap(self) -> None:
        """Give time and memory since the last lap to the stage that runs, the memory also to those around it."""
        now, peak = (time.perf_counter(), time.process_time()), max(0, self._memory.take() - self._start)
        for figure, before, after in zip(("seconds", "cpu_seconds"), self._since, now, strict=True):
            self.add(figure, after - before)
        for name in self._running:
            self._stage(name)["peak_bytes"] = max(self._stage(name)["peak_bytes"], peak)
        self._since = now

    def begin(self, *, counted_bytes: int = 0) -> None:
        """Forget everything so far; memory counts from here, with `counted_bytes` of those that are held already."""
        self.lap()
        self.stages.clear()
        self._start = read_anonymous_memory() - counted_bytes

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Run a stage."""
        self.lap()
        self._running.append(title)
        try:
            yield
        finally:
            self.lap()
            self._running.pop()

    def count_calls(self, figure: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, its calls counted in `<figure>` and timed in `<singular>_seconds`; calls inside are not."""
        seconds = {"exports": "export_seconds", "analyses": "analysis_seconds"}[figure]
        depth = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    self.add(figure, 1)
                    self.add(seconds, time.perf_counter() - begun)

        return counted

    def _stage(self, title: str) -> dict[str, float]:
        return self.stages.setdefault(title, dict.fromkeys(FIGURES, 0.0))


def install_recorder() -> Recorder:
    """Record the stages of the package from here on; call it before modules take the functions by name."""
    recorder = Recorder()

    def with_stage(bar: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def recorded(description: str, *arguments: Any) -> Iterator[Any]:
            with recorder.stage(description), bar(description, *arguments) as advance:
                yield advance

        return recorded

    _wrap(PROGRESS, with_stage)
    for figure, names in COUNTED.items():
        _wrap(names, lambda function, figure=figure: recorder.count_calls(figure, function))
    return recorder


def _wrap(names: Sequence[str], wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    for name in names:
        module_name, _, function = name.partition(":")
        module = importlib.import_module(module_name)
        if hasattr(module, function):
            return setattr(module, function, wrapper(getattr(module, function)))
    raise LookupError(f"This checkout has none of {', '.join(names)}.")


def sum_stages(trace: Trace) -> dict[str, float]:
    """Return the sums over stages, and the largest of their peaks."""
    sums = {figure: sum(stage[figure] for stage in trace.values()) for figure in FIGURES}
    return {**sums, "peak_bytes": max(stage["peak_bytes"] for stage in trace.values())}
