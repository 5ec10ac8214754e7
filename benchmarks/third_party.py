"""Apply channel analysis to recommenders of other repositories.

    python benchmarks/third_party.py --corpus corpus.py [--only NAME] [--sparsity 0.5] [--workers 2]

A corpus is a module with a `REGISTRY` (anything that yields names) and `build(name)`, which returns a module in eval
mode, its example inputs (a tuple, or a dict of keyword inputs) and anything else. Each model is captured, analyzed, pruned by structure
alone in tables and in other layers, proved, exported and compared with ONNX Runtime. It runs in a separate process, so that a hang or a
crash does not affect other models. A second plan, which removes half of every group, must also be sound. Every group that may be rotated
is rotated at random, and the answers must not change. Parameters are counted in the ONNX files. Prints a table, what is frozen and why,
and JSON as the last line.
"""

import importlib.util
import json
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import click
import torch

from recprune_export.channels import Analysis, slice_positions
from recprune_export.finetuning import run_program
from recprune_export.inspection import inspect_program
from recprune_export.onnx import count, export_onnx, make_session, reduction
from recprune_export.onnx import run as run_onnx
from recprune_export.program import Program, sample_request, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import (
    Budget,
    Float64Interpreter,
    GroupPlan,
    Plan,
    Transform,
    apply_plan,
    apply_transforms,
    check_soundness,
    find_rotatable_groups,
    insert_projections,
    make_plan,
    plan_projections,
    rank_by,
)
from recprune_export.pruning.rotation import table_projections
from recprune_export.validation import check_parity

PARITY_BATCHES = (2, 37)


@dataclass(frozen=True)
class Outcome:
    """How far one model came; `failure` is the sentence at which it stopped, empty if it did not."""

    name: str
    captured: bool = False
    sound: bool = False
    exported: bool = False
    prunable: float = 0.0
    tables: int = 0
    tables_shrunk: int = 0
    hidden_groups: int = 0
    rotated_groups: int = 0
    spaces: int = 0
    soundness: float = 0.0
    parity: float = 0.0
    tables_reduction: float = 0.0
    rest_reduction: float = 0.0
    seconds: float = 0.0
    failure: str = ""
    frozen_tables: Mapping[str, int] = field(default_factory=dict)


def try_model(corpus: ModuleType, name: str, sparsity: float) -> Iterator[Outcome]:
    """Yield the outcome after each step, so that the last one shows where a failure happened."""
    outcome = Outcome(name)
    module, inputs, *_ = corpus.build(name)
    start = time.perf_counter()
    program = capture(module, **_arguments(inputs))
    yield (outcome := replace(outcome, captured=True))
    analysis = program.analysis
    plan, half = _budgeted(program, sparsity), _random_half(analysis)
    pruned = apply_plan(program, plan)
    errors = [check_soundness(program, plan, pruned).error]
    errors += [check_soundness(program, half, apply_plan(program, half)).error]
    rotated = _rotate_at_random(program)
    outcome = replace(
        outcome,
        sound=True,
        rotated_groups=rotated,
        spaces=_insert_spaces(program),
        soundness=max(errors),
        prunable=inspect_program(program, name, "corpus").prunable_fraction,
        tables=sum(_can_lose(program, table) for table in analysis.tables),
        tables_shrunk=len(_shrunk_tables(analysis, plan)),
        hidden_groups=sum(g.kind == "hidden" and len(g.keep) < g.width for g in half.groups),
        frozen_tables=_frozen_tables(program),
    )
    yield outcome
    with tempfile.TemporaryDirectory() as scratch:
        dense_file = export_onnx(program, Path(scratch) / "dense.onnx")
        pruned_file = export_onnx(pruned, Path(scratch) / "pruned.onnx")
        session = make_session(pruned_file.path, 1)
        parity = check_parity(
            lambda request: run_program(pruned, request),
            lambda request: run_onnx(session, request),
            {f"{rows} rows": sample_request(program.signature, rows, seed=rows) for rows in PARITY_BATCHES},
        )
        gone = reduction(count(dense_file.path), count(pruned_file.path))
    yield replace(
        outcome,
        exported=parity.passed,
        parity=max((o.max_absolute for o in parity.outputs), default=float("nan")),
        tables_reduction=gone.tables,
        rest_reduction=gone.rest,
        seconds=time.perf_counter() - start,
        failure=parity.failures[0] if parity.failures else "",
    )


def _arguments(inputs: Any) -> dict[str, Any]:
    return {"kwargs": inputs} if isinstance(inputs, dict) else {"args": tuple(inputs)}


def _budgeted(program: Program, sparsity: float) -> Plan:
    """Return the plan that a user gets, by the largest weights."""
    parameters = program.parameters()
    values = {
        g.name: sum(
            weight.movedim(axis, -1)[..., own].square().reshape(-1, g.width).sum(0)
            for tensor, axis in g.axes()
            if tensor in parameters
            for weight in [parameters[tensor].detach()]
            for own in slice_positions(g, tensor, axis)
        )
        for g in program.analysis.groups
    }
    return make_plan(program, rank_by(values), Budget(sparsity, sparsity, 1.0, 1.0), "magnitude-l2", "uniform")


def _random_half(analysis: Analysis) -> Plan:
    """Return a plan that removes channels from every group."""
    rng = random.Random(0)
    kept = {g.name: rng.sample(range(g.width), (g.width + 1) // 2) for g in analysis.groups}
    return Plan("half", tuple(GroupPlan(g.name, g.kind, g.width, tuple(sorted(kept[g.name]))) for g in analysis.groups))


def _rotate_at_random(program: Program) -> int:
    """Rotate every group that may be rotated, loosened or not; `apply_transforms` raises if an answer changes."""
    loose = insert_projections(program, plan_projections(program))
    legal = find_rotatable_groups(loose).rotatable
    generator = torch.Generator().manual_seed(0)
    squares = {n: torch.randn(*(2 * [loose.analysis.group(n).width]), generator=generator).double() for n in legal}
    transforms = {name: Transform(torch.linalg.qr(square).Q) for name, square in squares.items()}
    apply_transforms(loose, legal, transforms)
    return len(transforms)


def _insert_spaces(program: Program) -> int:
    """Give tables separate spaces, and return their number; the answers must not change. Any table is long enough here."""
    with mock.patch.object(table_projections, "MIN_ROWS_PER_DIMENSION", 0):
        found = table_projections.find_per_table_projections(program)
    after = table_projections.insert_per_table_projections(program, found)
    tensors = sample_request_tensors(program.signature, 5)
    for one, other in zip(Float64Interpreter(program)(*tensors), Float64Interpreter(after)(*tensors), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9, equal_nan=True)
    return len(found)


def _shrunk_tables(analysis: Analysis, plan: Plan) -> set[str]:
    shrunk = set()
    for group, part in zip(analysis.groups, plan.groups, strict=True):
        if len(part.keep) < group.width:
            shrunk |= {tensor for tensor, axis in group.axes() if tensor in analysis.tables and axis > 0}
    return shrunk


def _can_lose(program: Program, table: str) -> bool:
    return max(program.parameters()[table].shape[1:], default=1) > 1 if table in program.parameters() else False


def _frozen_tables(program: Program) -> dict[str, int]:
    """Count, by reason, the tables with several dimensions, none of which can be removed."""
    analysis = program.analysis
    pruned = {tensor for group in analysis.groups for tensor, axis in group.axes() if axis > 0}
    stuck = {table for table in analysis.tables - pruned if _can_lose(program, table)}
    return dict(Counter(axis.reason.text for axis in analysis.frozen if axis.tensor in stuck and axis.axis > 0))


def _child(channel: Connection, corpus: Path, name: str, sparsity: float) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcome = Outcome(name)
    try:
        for outcome in try_model(load_corpus(corpus), name, sparsity):
            channel.send(outcome)
    except Exception as error:  # the models are anybody's
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        channel.send(replace(outcome, failure=f"{type(error).__name__}: {told}"))


def in_its_own_process(corpus: Path, name: str, sparsity: float, limit: float) -> Outcome:
    """Run `try_model` in a separate process for at most `limit` seconds, and return the last outcome that it sent."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(sender, corpus, name, sparsity))
    process.start()
    sender.close()
    outcome, deadline = Outcome(name, failure="the process died"), time.monotonic() + limit
    try:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                outcome = replace(outcome, failure=f"longer than {limit:g} s")
                break
            outcome = receiver.recv()
    except EOFError:
        pass
    process.kill()
    process.join()
    return outcome


def load_corpus(path: Path) -> ModuleType:
    """Import a corpus from its file, once for each process and its children."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def as_row(outcome: Outcome) -> str:
    """Return one line of the table."""
    line = (
        f"{outcome.name:<28} {_mark(outcome.captured)}   {outcome.prunable:6.1%}  "
        f"{outcome.tables_shrunk:>4}/{outcome.tables:<4} {outcome.hidden_groups:>4}   {outcome.rotated_groups:>4}  "
        f"{outcome.soundness:8.1e}  "
        f"{_mark(outcome.exported)} {outcome.parity:8.1e}  {outcome.tables_reduction:6.1%} {outcome.rest_reduction:6.1%} "
        f"{outcome.seconds:6.1f}"
    )
    told = [outcome.failure] if outcome.failure else []
    told += [f"{n} × {reason}" for reason, n in outcome.frozen_tables.items()]
    return "\n".join([line, *(f"    {t[:200]}" for t in told)])


def _mark(passed: bool) -> str:
    return "yes" if passed else "NO "


HEADER = f"{'model':<28} capt. prunable tables hidden rotated soundness  ONNX   parity  tables   rest  seconds"


@click.command(help=__doc__.splitlines()[0])
@click.option("--corpus", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", default="", help="Part of a model's name.")
@click.option("--sparsity", default=0.5, show_default=True, help="Fraction of the parameters to remove in each part.")
@click.option("--workers", default=2, show_default=True, help="Models tried at the same time.")
@click.option("--limit", default=300.0, show_default=True, help="Seconds after which a model counts as failed.")
def main(corpus: Path, only: str, sparsity: float, workers: int, limit: float) -> None:
    names = [name for name in load_corpus(corpus).REGISTRY if only in name]
    click.echo(f"Structure alone at sparsity {sparsity:g}; parity on {PARITY_BATCHES} rows; one thread.\n{HEADER}")
    outcomes = []
    with ThreadPoolExecutor(workers) as pool:
        running: list[Future[Outcome]] = [
            pool.submit(in_its_own_process, corpus, name, sparsity, limit) for name in names
        ]
        for future in running:
            outcomes.append(future.result())
            click.echo(as_row(outcomes[-1]))
    click.echo(
        json.dumps(
            {
                "models": len(outcomes),
                "captured": sum(o.captured for o in outcomes),
                "sound": sum(o.sound for o in outcomes),
                "exported": sum(o.exported for o in outcomes),
                "tables_shrunk": sum(o.tables_shrunk > 0 for o in outcomes),
                "hidden_pruned": sum(o.hidden_groups > 0 for o in outcomes),
                "each": [asdict(o) for o in outcomes],
            }
        )
    )


if __name__ == "__main__":
    main()
