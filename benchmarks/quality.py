"""The quality of pruned recommenders on real data: ours beside plain scores, before and after fine-tuning.

    python benchmarks/quality.py [--cases anime/dlrm,...] [--sparsities .5,.7,.9,.95] [--seeds 3] [--data-folder ../shared/data]
    python benchmarks/quality.py --axis bytes [...]  # at equal bytes: quality_bytes.py

Dense recommenders are trained with each seed; then each method prunes them to the sparsity in tables and in other layers, and tunes with
at most a tenth of the training steps. Single weights are also set to zero before tuning: by magnitude, or as `ours` chooses them, which
is the default of `recprune-export`. `taylor, refitted` is the plain score with our refit. Metrics are those of the test rows; a change is
paired by seed. Models and measurements are kept in --cache, so that an interrupted run can continue. Writes a table and a plot into
docs/, prints the same, and JSON as the last line.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import quality_bytes
import torch
from cases import CASES, Shortened, cases_with_data, shortened, trained
from results import keep, kept, told_of_machine, write_section
from seeds import Mean, mean_of

from recprune_export.api import load_model, make_task
from recprune_export.environment import environment
from recprune_export.finetuning import Schedule, Task, apply_masks, compute_masks, finetune, run_program
from recprune_export.metrics import read_first_metric
from recprune_export.pipeline import (
    estimate_curvature,
    make_nonzero_target,
    plan_pruning,
    read_calibration_batches,
    rotate_channels,
)
from recprune_export.program import Program
from recprune_export.pruning import ParameterCounter, apply_plan, check_soundness, reconstruct_layers
from recprune_export.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
PROTOCOL = (
    "Each method prunes the same dense models to the given sparsity, separately in tables and in other layers, zeros "
    "included. It then tunes them with at most a tenth of the steps of training: *before* and *after* refer to this tuning. "
    "Metrics are those of the test rows; changes are paired by seed, with 95 % intervals of their mean over seeds."
)


@dataclass(frozen=True)
class Method:
    """A score, and whether linear layers are refitted."""

    score: str
    refit: bool


METHODS = {
    "random": Method("random", refit=False),
    "magnitude": Method("magnitude-l2", refit=False),
    "variance": Method("variance", refit=False),
    "taylor": Method("taylor", refit=False),
    "taylor, refitted": Method("taylor", refit=True),
    "ours": Method("output-error", refit=True),
}


@dataclass(frozen=True)
class Measured:
    """One seed of one case, one method at one sparsity: the metric of the dense model, pruned, and tuned."""

    case: str
    seed: int
    method: str
    sparsity: float
    metric: str
    dense: float
    pruned: float
    tuned: float | None


def measure(
    case: str, seed: int, wanted: Sequence[tuple[str, float]], folder: Path, cache: Path, *, tune: bool = True
) -> Iterator[Measured]:
    """Train, or take what was trained before, and yield every wanted method and sparsity."""
    if not wanted:
        return
    known = trained(case, CASES[case], seed, folder, cache)
    loaded = load_model(known.checkpoint, None, {})
    settings = Settings(seed=seed)
    task = make_task(loaded, folder / CASES[case].data, (), settings.with_options(seed=seed))
    short = shortened(task, known, loaded.program)
    metric, dense = _metric(loaded.program, task)
    for name, sparsity in wanted:
        method = METHODS[name]
        wished = settings.with_options(sparsity=sparsity, score=method.score, refit=method.refit)
        pruned, tuned = _prune(loaded.program, wished, task, short if tune else None)
        yield Measured(case, seed, name, sparsity, metric, dense, pruned, tuned)


def _prune(program: Program, settings: Settings, task: Task, short: Shortened | None) -> tuple[float, float | None]:
    """Return the metric after pruning, including zeros, and after tuning on the shortened task `short`, if there is one."""
    plan = plan_pruning(program, settings.pruning, task, seed=settings.seed).plan
    dense = rotate_channels(program, plan)
    student = apply_plan(dense, plan)
    check_soundness(dense, plan, student)
    if settings.pruning.refit:
        batches = read_calibration_batches(task, settings.seed)
        reconstruct_layers(dense, plan, student, batches)
    target = make_nonzero_target(ParameterCounter(program).sizes(), settings.pruning)
    tables = student.analysis.tables
    curvature = estimate_curvature(student, plan, tables, task, settings.seed)
    zeroed = student.with_copied_parameters()
    apply_masks(zeroed, compute_masks(zeroed, tables, target, curvature))
    if short is None:
        return _metric(zeroed, task)[1], None
    schedule = Schedule(
        short.epochs, task.config.learning_rate, settings.finetuning.sparsity_schedule == "gradual", settings.seed
    )
    finetune(student, program.with_copied_graph(), short, tables, target, schedule, curvature)
    return _metric(zeroed, task)[1], _metric(student, task)[1]


def _metric(program: Program, task: Task) -> tuple[str, float]:
    program.set_training(False)
    return read_first_metric(task.test(lambda request: run_program(program, request)))


@dataclass(frozen=True)
class Summary:
    """Over seeds: mean and spread of the dense metric, mean change as pruned, and of the seeds that were tuned, as tuned."""

    dense: float
    spread: float
    pruned: Mean
    tuned: Mean | None
    seeds: int


def summarize(rows: Sequence[Measured]) -> Summary:
    """Pair by seed."""
    dense = np.array([row.dense for row in rows])
    tuned = [row.tuned - row.dense for row in rows if row.tuned is not None]
    spread = float(dense.std(ddof=1)) if len(rows) > 1 else float("nan")
    pruned = mean_of([row.pruned - row.dense for row in rows])
    return Summary(float(dense.mean()), spread, pruned, mean_of(tuned) if tuned else None, len(rows))


def as_markdown(rows: Sequence[Measured]) -> str:
    """A table for each case: change of the metric before and after tuning, by method and sparsity."""
    parts = []
    for case in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == case]
        sparsities = sorted({row.sparsity for row in own})
        dense = summarize([row for row in own if (row.method, row.sparsity) == (own[0].method, own[0].sparsity)])
        spread = "" if math.isnan(dense.spread) else f" ± {dense.spread:.4f}"
        parts.append(
            f"### {case}\n\n{own[0].metric} of the dense model: {dense.dense:.4f}{spread}, {dense.seeds} seeds.\n"
        )
        head = [f"{'before' if before else 'after'} {s:g}" for before in (True, False) for s in sparsities]
        parts.append(f"| change of the {own[0].metric} | " + " | ".join(head) + " |")
        parts.append("|---|" + "---|" * len(head))
        for method in METHODS:
            measured = [[row for row in own if (row.method, row.sparsity) == (method, s)] for s in sparsities]
            found = [summarize(r) if r else None for r in measured]
            if not any(found):
                continue
            cells = [str(f.pruned) if f else "" for f in found]
            cells += [str(f.tuned) if f and f.tuned else "" for f in found]
            parts.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def draw(rows: Sequence[Measured], path: Path) -> None:
    """One panel for each case: the change over sparsity, dashed before and solid after tuning."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row.case for row in rows))
    columns = min(3, len(cases))
    figure, axes = plt.subplots(
        math.ceil(len(cases) / columns),
        columns,
        figsize=(4.2 * columns, 3.4 * math.ceil(len(cases) / columns)),
        squeeze=False,
    )
    for panel, case in zip(axes.flat, cases, strict=False):
        own = [row for row in rows if row.case == case]
        sparsities = sorted({row.sparsity for row in own})
        for number, method in enumerate(METHODS):
            if not any(row.method == method for row in rows):
                continue
            shown = [s for s in sparsities if any((row.method, row.sparsity) == (method, s) for row in own)]
            found = [summarize([row for row in own if (row.method, row.sparsity) == (method, s)]) for s in shown]
            color = "black" if method == "ours" else f"C{number}"
            width = 2.0 if method == "ours" else 1.0
            panel.plot(shown, [f.pruned.value for f in found], "--", color=color, linewidth=width)
            tuned = [f.tuned.value if f.tuned else math.nan for f in found]
            panel.plot(shown, tuned, "-o", color=color, linewidth=width, markersize=3, label=method)
        panel.set_title(case)
        panel.set_yscale("symlog", linthresh=0.001)
        panel.set_xlabel("sparsity")
        panel.set_ylabel(f"change of the {own[0].metric}")
        panel.axhline(0.0, color="grey", linewidth=0.5)
    for panel in list(axes.flat)[len(cases) :]:
        panel.remove()
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle("Dashed: as pruned. Solid: after tuning with a tenth of the steps.", fontsize=9)
    figure.tight_layout(rect=(0.0, 0.1, 1.0, 1.0))
    figure.savefig(path, metadata={"Date": None})


def _known(path: Path) -> list[Measured]:
    return [Measured(**row) for row in kept(path)]


@click.command(help=__doc__.splitlines()[0])
@click.option("--cases", default=",".join(CASES), show_default=True)
@click.option("--sparsities", default=".5,.7,.9,.95", show_default=True)
@click.option("--methods", default=";".join(METHODS), show_default=True, help="Divided by semicolons.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--data-folder", default=Path("../shared/data"), show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default=Path("artifacts/quality"), show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--tune/--no-tune", default=True, show_default=True, help="Tuning takes most of the time.")
@click.option("--write", default=DOCS, type=click.Path(path_type=Path, file_okay=False), help="Folder of results.md.")
def main(
    cases: str,
    sparsities: str,
    methods: str,
    seeds: int,
    data_folder: Path,
    cache: Path,
    threads: int,
    tune: bool,
    write: Path,
) -> None:
    """Measure the missing results, then write all results."""
    torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [(method, float(s)) for s in sparsities.split(",") for method in methods.split(";")]
    log = cache / "measured.jsonl"
    for case in cases_with_data(cases.split(","), data_folder):
        for seed in range(seeds):
            done = {
                (row.method, row.sparsity)
                for row in _known(log)
                if (row.case, row.seed) == (case, seed) and (row.tuned is not None or not tune)
            }
            left = [each for each in wanted if each not in done]
            for row in measure(case, seed, left, data_folder, cache, tune=tune):
                keep(log, asdict(row))
                print(
                    f"{row.case:<16} seed {row.seed} {row.sparsity:4g} {row.method:<17} {row.metric} dense {row.dense:.4f} "
                    f"pruned {row.pruned:.4f}" + ("" if row.tuned is None else f" tuned {row.tuned:.4f}"),
                    file=sys.stderr,
                    flush=True,
                )
    by_tuning = sorted(_known(log), key=lambda row: row.tuned is not None)  # of two, the one that was tuned
    unique = {(r.case, r.seed, r.method, r.sparsity): r for r in by_tuning}
    order = {case: number for number, case in enumerate(CASES)}
    rows = sorted((row for row in unique.values() if row.case in order), key=lambda row: order[row.case])
    table = as_markdown(rows)
    print(table)
    write.mkdir(parents=True, exist_ok=True)
    draw(rows, write / "quality.svg")
    where = environment()
    table += f"\n{told_of_machine(where, threads)}"
    text = f"{PROTOCOL}\n\n{table}\n\n![Change of quality over sparsity, by method](quality.svg)"
    write_section(write / "results.md", "Quality", "benchmarks/quality.py", text)
    print(json.dumps({"environment": where, "threads": threads, "figures": _figures(rows)}))


def _figures(rows: Sequence[Measured]) -> dict[str, Mapping[str, object]]:
    keys = dict.fromkeys((row.case, row.method, row.sparsity) for row in rows)
    return {
        f"{case} {method} {sparsity:g}": asdict(
            summarize([row for row in rows if (row.case, row.method, row.sparsity) == (case, method, sparsity)])
        )
        for case, method, sparsity in keys
    }


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.option("--axis", type=click.Choice(["sparsity", "bytes"]), default="sparsity")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def choose_axis(axis: str, options: tuple[str, ...]) -> None:
    """Run the comparison of an axis with the remaining options, its --help among them."""
    {"sparsity": main, "bytes": quality_bytes.main}[axis](options)


if __name__ == "__main__":
    choose_axis()
