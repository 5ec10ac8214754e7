"""Where the default job of `make demo` spends its time: seconds, exports and analyses by stage.

    python benchmarks/bench_job.py [--beside CHECKOUT] [--repeats 3] [--sparsity 0.7] [--recommender dlrm]

Generates rows and trains a recommender on them, once; then compresses it, each time in a fresh process, one thread. A stage
is what the progress bar names, without the stages inside it. Functions are counted by wrapping them from outside, so that the
same script measures another checkout of this repository: with `--beside` both take turns. The medians are printed as a table,
and as JSON in the last line.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent.parent
BEFORE = "(before, between and after)"
FIGURES = ("seconds", "cpu_seconds", "exports", "export_seconds", "analyses", "analysis_seconds")
# What is counted, wherever a checkout has it: the first name that exists.
COUNTED = {
    "exports": ("torch.export:export",),
    "analyses": ("recprune_export.channels.analysis:analyse", "recprune_export.channels.analysis:analyze"),
}
PROGRESS = ("recprune_export.progress:bar", "recprune_export.progress:progress_bar")

Measurement = dict[str, dict[str, float]]  # by stage, by figure


class Recorder:
    """Sums figures by stage; what an inner stage takes is not counted in the outer one."""

    def __init__(self) -> None:
        self.stages: Measurement = {}
        self._running = [BEFORE]
        self._since = (time.perf_counter(), time.process_time())

    def add(self, figure: str, amount: float) -> None:
        """Add to a figure of the stage that runs."""
        self.stages.setdefault(self._running[-1], dict.fromkeys(FIGURES, 0.0))[figure] += amount

    def lap(self) -> None:
        """Give the time since the last lap to the stage that runs."""
        now = (time.perf_counter(), time.process_time())
        for figure, before, after in zip(("seconds", "cpu_seconds"), self._since, now, strict=True):
            self.add(figure, after - before)
        self._since = now

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

    def counting(self, figure: str, function: Callable[..., Any]) -> Callable[..., Any]:
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


def wrap(names: Sequence[str], wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the first of `module:function` that exists, before other modules take it by name."""
    for name in names:
        module_name, _, function = name.partition(":")
        module = importlib.import_module(module_name)
        if hasattr(module, function):
            return setattr(module, function, wrapper(getattr(module, function)))
    raise LookupError(f"This checkout has none of {', '.join(names)}.")


def measure(model: Path, data: Path, sparsity: float) -> Measurement:
    """Compress once in this process and return the figures by stage."""
    recorder = Recorder()

    def in_a_stage(bar: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def recorded(description: str, total: int | None) -> Iterator[Any]:
            with recorder.stage(description), bar(description, total) as advance:
                yield advance

        return recorded

    wrap(PROGRESS, in_a_stage)
    for figure, names in COUNTED.items():
        wrap(names, lambda function, figure=figure: recorder.counting(figure, function))
    compress = importlib.import_module("recprune_export").compress
    recorder.lap()
    recorder.stages.clear()  # what the imports took
    with tempfile.TemporaryDirectory() as folder:
        compress(model, data=data, target=Path(folder) / "bundle", sparsity=sparsity)
    recorder.lap()
    return recorder.stages


def in_a_fresh_process(checkout: Path, model: Path, data: Path, sparsity: float) -> Measurement:
    """Measure the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", str(model), str(data), "--sparsity", str(sparsity)]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)
    found: Measurement = json.loads(done.stdout.splitlines()[-1])
    return found


def prepare(folder: Path, recommender: str) -> tuple[Path, Path]:
    """Generate rows and train on them, as `make demo` does; return checkpoint and rows."""
    data, model = folder / "clicks.parquet", folder / "model.pt"
    command = [sys.executable, "-m", "recprune_export"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    train = ["train", "--data", str(data), "--label", "clicked", "--recommender", recommender, "-o", str(model)]
    for arguments in (["generate", "-o", str(data)], train):
        subprocess.run([*command, *arguments, "--quiet"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return model, data


def medians(runs: Sequence[Measurement]) -> Measurement:
    """Return the median of each figure of each stage, and of the sums over stages as the stage `total`."""
    whole = [{**run, "total": {f: sum(stage[f] for stage in run.values()) for f in FIGURES}} for run in runs]
    stages = dict.fromkeys(stage for run in whole for stage in run)
    nothing = dict.fromkeys(FIGURES, 0.0)
    return {s: {f: statistics.median(run.get(s, nothing)[f] for run in whole) for f in FIGURES} for s in stages}


def show(title: str, measured: Measurement) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(f"{'stage':<44} {'seconds':>8} {'CPU s':>8} {'exports':>8} {'(s)':>6} {'analyses':>9} {'(s)':>6}")
    for stage, of in measured.items():
        print(
            f"{stage[:44]:<44} {of['seconds']:8.2f} {of['cpu_seconds']:8.2f} {of['exports']:8.0f} {of['export_seconds']:6.2f} "
            f"{of['analyses']:9.0f} {of['analysis_seconds']:6.2f}"
        )


@click.command(help=__doc__.splitlines()[0])
@click.option("--beside", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--sparsity", type=float, default=0.7, show_default=True)
@click.option("--recommender", default="dlrm", show_default=True)
@click.option("--measure", "once", type=click.Path(path_type=Path), nargs=2, hidden=True)
def main(beside: Path | None, repeats: int, sparsity: float, recommender: str, once: tuple[Path, Path] | None) -> None:
    """Measure this checkout, and the other one in turns with it."""
    if once:
        return print(json.dumps(measure(*once, sparsity)))
    checkouts = {"here": HERE, **({"beside": beside.resolve()} if beside else {})}
    runs: dict[str, list[Measurement]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        model, data = prepare(Path(folder), recommender)
        for _ in range(repeats):
            for name, checkout in checkouts.items():
                runs[name].append(in_a_fresh_process(checkout, model, data, sparsity))
    measured = {name: medians(of) for name, of in runs.items()}
    for name, of in measured.items():
        show(f"{name}, median of {repeats}", of)
    print(json.dumps({"benchmark": "job", "recommender": recommender, "sparsity": sparsity, **measured}))


if __name__ == "__main__":
    main()
