"""The default job, with few steps, on models of other repositories: which models get a bundle, and which messages the others get.

    python benchmarks/whole_jobs.py --corpus --sources FOLDER [--only NAME] [--limit 150]

`corpus.py` is the list. FOLDER holds snapshots of the repositories that are no packages, each under its name; packages have to
be importable. A model whose package or snapshot is absent is skipped by name. The weights imitate trained ones: no parameter is
constant, batch-norm has statistics. Every job runs in a separate process with one thread and a time limit. Prints a table (captured,
bundle with parity, removed shares of tables and of other layers, seconds, message), and JSON as the last line.
"""

import importlib
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from corpus import CORPUS, Entry
from torch import nn

from recprune_export.api import compress_loaded, load_model, make_task
from recprune_export.errors import RecpruneError
from recprune_export.pipeline.build_manifest import InputSources
from recprune_export.settings import Settings

SETTINGS = Settings(sparsity=0.7, epochs=1, batch_size=64, quick=True)


@dataclass(frozen=True)
class Outcome:
    """How far the job came: `raw` is an exception without a message for the user; `absent` names the package that is not installed."""

    name: str
    repository: str
    request: str
    captured: bool = False
    bundle: bool = False
    removed_tables: float = 0.0
    removed_rest: float = 0.0
    seconds: float = 0.0
    message: str = ""  # of the failure
    warnings: tuple[str, ...] = ()
    raw: bool = False
    absent: bool = False


def build(entry: Entry, sources: Path) -> tuple[nn.Module, tuple[Any, ...] | dict[str, Any]]:
    """Return the module, with weights that imitate trained ones, and its request.

    Raises `ImportError` where the package, the snapshot, or something that they need is not installed.
    """
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).parent]
    for folder in entry.folders:
        sys.path.insert(0, str(sources / folder))
    torch.manual_seed(0)
    factory = operator.attrgetter(entry.factory)(importlib.import_module(entry.module))
    arguments = entry.make_arguments()
    module: nn.Module = factory(*arguments.args, **arguments.kwargs)
    if entry.method != "forward":
        module.forward = getattr(module, entry.method)
    imitate_training(module.eval())
    request = entry.make_request()
    return module, request.kwargs or request.args


@torch.no_grad()
def imitate_training(module: nn.Module) -> None:
    """Give constant parameters and statistics values as training would: parity of constants says nothing."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0.0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and float(part.weight.std()) < 0.25:
            part.weight.normal_(0.0, 0.3)
            if part.padding_idx is not None:
                part.weight[part.padding_idx].zero_()
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.numel() > 1 and float(parameter.std()) < 5e-3:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def run_job(entry: Entry, sources: Path) -> Outcome:
    """Run the job in this process."""
    facts: dict[str, Any] = {"name": entry.name, "repository": entry.repository, "request": entry.request}
    try:
        module, request = build(entry, sources)
    except ImportError as error:
        return Outcome(**facts, message=str(error), absent=True)
    start = time.perf_counter()
    try:
        loaded = load_model(module, request, {})
        facts["captured"] = True
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(loaded, None, (), SETTINGS)
            result = compress_loaded(loaded, task, Path(folder) / "bundle", SETTINGS, InputSources(()))
        removed = result.reduction.removed
        facts |= {
            "bundle": result.parity.passed,
            "removed_tables": removed.tables,
            "removed_rest": removed.rest,
            "message": "; ".join(result.parity.failures),
            "warnings": result.warnings,
        }
    except RecpruneError as error:
        facts["message"] = str(error)
    except Exception as error:  # what the benchmark looks for
        facts |= {"message": f"{type(error).__name__}: {error}", "raw": True}
    return Outcome(**facts, seconds=time.perf_counter() - start)


def run_apart(entry: Entry, sources: Path, limit: float) -> Outcome:
    """Run the job in a separate process for at most `limit` seconds, including its imports."""
    command = [sys.executable, __file__, "--corpus", "--sources", str(sources), "--job", entry.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    facts: dict[str, Any] = {"name": entry.name, "repository": entry.repository, "request": entry.request}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(**facts, seconds=limit, message=f"longer than {limit:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Outcome(**facts, message=f"exit code {done.returncode}: {last}", raw=True)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def as_row(outcome: Outcome) -> str:
    """Return one line of the table, and the message below it."""
    if outcome.absent:
        return f"{outcome.name:<46} skipped: {outcome.message}"
    marks = ("yes" if outcome.captured else "NO ", "yes" if outcome.bundle else "NO ")
    line = (
        f"{outcome.name:<46} {marks[0]:<9} {marks[1]:<7} {outcome.removed_tables:6.1%} {outcome.removed_rest:6.1%} "
        f"{outcome.seconds:8.1f}"
    )
    told = " ".join(outcome.message.split())[:400]
    return f"{line}\n    {'RAW: ' if outcome.raw else ''}{told}" if told else line


@click.command(help=__doc__.splitlines()[0])
@click.option("--corpus", is_flag=True, required=True, help="The models of corpus.py.")
@click.option("--sources", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", default="", help="Part of a model's name.")
@click.option("--limit", default=150.0, show_default=True, help="Seconds after which a job counts as failed.")
@click.option("--job", default="", hidden=True)
def main(corpus: bool, sources: Path, only: str, limit: float, job: str) -> None:
    if job:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        entry = next(entry for entry in CORPUS if entry.name == job)
        return print(json.dumps(asdict(run_job(entry, sources.resolve()))))
    print(f"{'model':<46} captured  bundle  tables   rest  seconds", flush=True)
    outcomes = []
    for entry in CORPUS:
        if only in entry.name:
            outcomes.append(run_apart(entry, sources.resolve(), limit))
            print(as_row(outcomes[-1]), flush=True)
    tried = [outcome for outcome in outcomes if not outcome.absent]
    print(
        json.dumps(
            {
                "benchmark": "whole jobs",
                "settings": {"sparsity": 0.7, "epochs": 1, "batch_size": 64, "quick": True},
                "models": len(tried),
                "skipped": [outcome.name for outcome in outcomes if outcome.absent],
                "captured": sum(outcome.captured for outcome in tried),
                "bundles": sum(outcome.bundle for outcome in tried),
                "raw": [outcome.name for outcome in tried if outcome.raw],
                "each": [asdict(outcome) for outcome in outcomes],
            }
        )
    )


if __name__ == "__main__":
    main()
