"""Recommenders on real data in fewer bits, with zeros and with channels alone: the loss of quality, and the savings.

    python benchmarks/formats.py [--cases anime/dlrm,...] [--sparsities .7,.9] [--seeds 3] [--hidden 512,512,256]

Dense recommenders are trained with each seed. Then the stages of the main job prune, tune and export them: with channels and single
weights removed, as by default; that file quantized; with more zeros; and with channels alone. With --hidden, the recommenders have these
hidden layers and are separate cases; for these, the layers are also pruned by themselves, with whole tables. All figures are those of
ONNX files in ONNX Runtime: metrics of the test rows, paired by seed, and times of all files of a seed in turns, beside the dense one.
Models, files and measurements are kept in --cache, so that an interrupted run can continue. Writes tables into docs/, prints the same,
and JSON as the last line.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from cases import CASES, Case, Shortened, shortened, slug, trained
from formats_table import Measured, Method, Speed, Tables
from results import keep, kept, told_of_machine, write_section

from recprune_export.api import load_model, make_task
from recprune_export.environment import environment, read_cpu_name
from recprune_export.finetuning import Task
from recprune_export.metrics import read_first_metric
from recprune_export.onnx import OnnxFile, ServingConfig, count, export_onnx, reduction
from recprune_export.pipeline import (
    QuantizedExport,
    export_pruned,
    make_latency_requests,
    make_predictor,
    prune,
    quantize_export,
    validate_parity,
)
from recprune_export.program import Program
from recprune_export.recommenders import is_sequential
from recprune_export.settings import Settings, parse_batch_sizes
from recprune_export.validation import log_ratio, make_onnxruntime_backend, measure_repeated_sessions, typical_time

DOCS = Path(__file__).parent.parent / "docs"
DENSE, FP32 = "dense.onnx", "fp32"
FEWEST = 20  # rounds of a seating

_LAYERS: Mapping[str, Any] = {"embedding_sparsity": 0.0, "structured_fraction": 0.0}
METHODS = {
    "channels and zeros": Method(bits=("fp16", "int8", "int4")),
    "channels alone": Method({"structured_fraction": 1.0}),
    "half channels, half zeros": Method({"structured_fraction": 0.5}),
    "layers: zeros": Method(_LAYERS, layers=True),
    "layers: channels": Method({**_LAYERS, "structured_fraction": 1.0}, layers=True),
}
PROTOCOL = """\
The stages of the main job prune dense recommenders to the given sparsity, separately in tables and in other layers,
zeros included, and tune them with at most a tenth of the steps of training. All figures are for ONNX files in ONNX
Runtime.

- *Channels and zeros* is the default: removed channels contribute most of the sparsity, single zeros the remainder. It is
  also quantized, with a loss of at most .001 of the validation metric. *Channels alone* has a structured fraction of 1,
  *half channels, half zeros* one of .5 (in log space). *Layers* prunes only the layers, not the tables: zeros without
  removed channels, or channels alone.
- *Change*: the metric on the test rows minus that of the dense file of the same seed; the mean over seeds with its 95 %
  interval (Student's t).
- *Gone*: the fraction of the dense parameters that is removed or zero, counted in the file. *kB*: the size of the file
  with its weights.
- *Batch*: the speed-up over the dense model as PyTorch's exporter writes it, {threads}. All files of a seed take turns in
  one process, each round with other test rows. Sessions are created again for each of {repeats} repeats. Each repeat gives
  the ratio of tenth percentiles, which other work on the machine disturbs least; the table shows the middle mean over
  all repeats of all seeds with its 95 % interval."""
WIDE = """\
Cases with widths in their names, such as *anime/dlrm 512-512-256*, are the same recommenders on the same rows with these hidden
layers. They have far more units than the rows need, to test layers that are as wide as those of larger recommenders."""


@dataclass(frozen=True)
class Subject:
    """A dense recommender of one seed, its file, and the rows; `task` tunes for a tenth of the steps."""

    case: str
    seed: int
    program: Program
    task: Shortened
    settings: Settings
    folder: Path
    file: OnnxFile
    metric: str
    value: float

    @classmethod
    def prepare(cls, name: str, case: Case, settings: Settings, folder: Path, cache: Path) -> "Subject":
        """Train, or take what was trained before, and export."""
        known = trained(name, case, settings.seed, folder, cache)
        loaded = load_model(known.checkpoint, None, {})
        task = make_task(loaded, folder / case.data, (), settings)
        own = cache / "onnx" / f"{slug(name)}-{settings.seed}"
        own.mkdir(parents=True, exist_ok=True)
        file = export_onnx(loaded.program, own / DENSE, rewrites=())
        metric, value = _metric(file, task)
        short = shortened(task, known, loaded.program)
        return cls(name, settings.seed, loaded.program, short, settings, own, file, metric, value)

    def row(self, method: str, sparsity: float, bits: str, file: OnnxFile, note: str, start: float) -> Measured:
        """Count and test a file."""
        gone = reduction(count(self.file.path), count(file.path))
        return Measured(
            self.case,
            self.seed,
            method,
            sparsity,
            bits,
            self.metric,
            self.value,
            self.file.bytes,
            value=_metric(file, self.task)[1],
            bytes=file.bytes,
            tables_gone=gone.tables,
            rest_gone=gone.rest,
            file=str(file.path.relative_to(self.folder)),
            note=note,
            seconds=time.perf_counter() - start,
        )


def _metric(file: OnnxFile, task: Task) -> tuple[str, float]:
    return read_first_metric(task.test(make_predictor(file)))


def make(of: Subject, name: str, sparsity: float) -> Iterator[Measured]:
    """Prune, tune, export and test; then the same in fewer bits."""
    method, start = METHODS[name], time.perf_counter()
    settings = of.settings.with_options(sparsity=sparsity, **method.wishes)
    pruned = prune(of.program, settings.pruning, settings.finetuning, of.task, seed=settings.seed)
    file = export_pruned(
        pruned, ServingConfig(settings.latency.latency_batch_sizes), of.folder / f"{slug(name)}-{sparsity:g}.onnx"
    )
    validate_parity(pruned.program, file, of.task)
    yield of.row(name, sparsity, FP32, file, "", start)
    for bits in method.bits:
        yield _quantize(of, name, settings.with_options(quantize=bits), file)


def _quantize(of: Subject, name: str, settings: Settings, file: OnnxFile) -> Measured:
    start = time.perf_counter()
    mode, batches = settings.quantization.quantize, settings.latency.latency_batch_sizes
    quantized = quantize_export(
        file, settings.quantization, batches, of.task, of.folder / mode,
        threads=settings.latency.threads, seed=settings.seed,
    )  # fmt: skip
    assert quantized is not None
    return of.row(name, settings.pruning.sparsity, mode, quantized.file, _forms(quantized), start)


def _forms(made: QuantizedExport) -> str:
    plan = made.quantized.plan
    count_of = f"{sum(choice.is_quantized for choice in plan.layers)} of {len(plan.layers)}"
    layers = f"{count_of} linear layers in int8; " if plan.layers else ""
    forms = [choice.form for choice in plan.tables]
    tables = ", ".join(f"{forms.count(form)} {form}" for form in dict.fromkeys(forms))
    back = f"; taken back for quality: {'; '.join(made.quantized.relaxations)}" if made.quantized.relaxations else ""
    return f"{layers}tables: {tables or 'none'}{back}."


def speed_of(subject: Subject, rows: Sequence[Measured], repeats: int, seconds: float) -> Speed:
    """Let all files of a subject take turns, in new sessions for each seating."""
    threads, files = subject.settings.latency.threads, list(dict.fromkeys(row.file for row in rows))
    makers = {name: partial(make_onnxruntime_backend, name, subject.folder / name, threads) for name in (DENSE, *files)}
    requests = make_latency_requests(subject.settings.latency.latency_batch_sizes, subject.task, subject.file.signature)
    rng = np.random.default_rng(subject.seed)
    found = measure_repeated_sessions(makers, requests, count=repeats, seconds=seconds, rng=rng, min_rounds=FEWEST)
    dense = {str(batch): float(np.median([typical_time(s[batch][DENSE]) for s in found])) for batch in requests}
    faster = {
        file: {str(batch): [log_ratio(seating[batch], DENSE, file) for seating in found] for batch in requests}
        for file in files
    }
    return Speed(subject.case, subject.seed, threads, read_cpu_name(), dense, faster)


@dataclass(frozen=True)
class Cache:
    """What was measured before."""

    folder: Path

    @property
    def rows(self) -> list[Measured]:
        """The newest of each file; a row whose file is gone counts for nothing."""
        newest: dict[tuple[object, ...], Measured] = {}
        for values in kept(self.folder / "formats.jsonl"):
            row = Measured(**values)
            newest[row.case, row.seed, row.sparsity, row.method, row.bits] = row
        return [row for row in newest.values() if (self._files(row) / row.file).is_file()]

    @property
    def speeds(self) -> list[Speed]:
        """The newest of each case and seed."""
        found = [Speed(**values) for values in kept(self.folder / "formats-latency.jsonl")]
        return list({(speed.case, speed.seed): speed for speed in found}.values())

    def of(self, case: str, seed: int) -> list[Measured]:
        """Return the rows of one case and seed."""
        return [row for row in self.rows if (row.case, row.seed) == (case, seed)]

    def add(self, row: Measured) -> None:
        """Keep a row, and say so."""
        keep(self.folder / "formats.jsonl", asdict(row))
        print(
            f"{row.case} seed {row.seed} {row.sparsity:g} {row.method} {row.bits}: {row.metric} dense {row.dense:.4f} -> "
            f"{row.value:.4f}, {row.bytes / 1e3:,.0f} kB ({row.seconds:.0f} s) {row.note}",
            file=sys.stderr,
            flush=True,
        )

    def add_speed(self, speed: Speed) -> None:
        """Keep the times of all files of a subject."""
        keep(self.folder / "formats-latency.jsonl", asdict(speed))
        print(f"{speed.case} seed {speed.seed}: {len(speed.faster)} files timed", file=sys.stderr, flush=True)

    def is_timed(self, rows: Sequence[Measured], settings: Settings) -> bool:
        """Whether every file of `rows`, all of one case and seed, was timed as `settings` ask."""
        known = [speed for speed in self.speeds if (speed.case, speed.seed) == (rows[0].case, rows[0].seed)]
        wanted = {row.file for row in rows}
        batches = {str(batch) for batch in settings.latency.latency_batch_sizes}
        return any(
            s.threads == settings.latency.threads and wanted <= set(s.faster) and batches == set(s.dense) for s in known
        )

    def _files(self, row: Measured) -> Path:
        return self.folder / "onnx" / f"{slug(row.case)}-{row.seed}"


def measure(
    name: str, case: Case, settings: Settings, wanted: Sequence[tuple[str, float]], folder: Path, cache: Cache,
    repeats: int, seconds: float,
) -> None:  # fmt: skip
    """Make and measure what is not known yet of one case and seed."""
    done = {(row.method, row.sparsity, row.bits) for row in cache.of(name, settings.seed)}
    left = [
        (method, s)
        for method, s in wanted
        if (method, s, FP32) not in done or any((method, s, bits) not in done for bits in METHODS[method].bits)
    ]
    if not left and cache.is_timed(cache.of(name, settings.seed), settings):
        return
    subject = Subject.prepare(name, case, settings, folder, cache.folder)
    for method, sparsity in left:
        for row in make(subject, method, sparsity):
            cache.add(row)
    rows = cache.of(name, settings.seed)
    if not cache.is_timed(rows, settings):
        cache.add_speed(speed_of(subject, rows, repeats, seconds))


def with_hidden(names: Sequence[str], hidden: str) -> dict[str, Case]:
    """Return the cases, with other hidden layers where that is asked for.

    >>> list(with_hidden(["anime/dlrm"], "512,256"))
    ['anime/dlrm 512-256']
    """
    if not hidden:
        return {name: CASES[name] for name in names}
    for name in names:
        if is_sequential(CASES[name].recommender):
            raise click.UsageError(f"{name} has no hidden layers to widen: leave it out of --cases, or --hidden out.")
    widths = [int(width) for width in hidden.split(",")]
    told = "-".join(map(str, widths))
    return {f"{name} {told}": replace(CASES[name], config={"hidden": widths}) for name in names}


@click.command(help=__doc__.splitlines()[0])
@click.option("--cases", default="anime/dlrm,anime/deepfm,anime/dcn_v2,beauty/sasrec", show_default=True)
@click.option("--sparsities", default=".7,.9", show_default=True)
@click.option("--methods", default="", help="Divided by semicolons; all that suit the cases, by default.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--hidden", default="", help="Widths of hidden layers, for cases of their own: 512,512,256.")
@click.option(
    "--latency-batch-sizes",
    "batches",
    default="1,64,256",
    show_default=True,
    help="Files are made for these, and timed at them: one cache for each choice.",
)
@click.option("--data-folder", default=Path("../shared/data"), show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default=Path("artifacts/quality"), show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--repeats", default=6, show_default=True, help="Of each seed.")
@click.option("--seconds", default=1.0, show_default=True, help="For each batch size of a seating.")
@click.option("--remark", default="", help="What a reader should know of the machine, such as other work on it.")
@click.option("--write", default=DOCS, type=click.Path(path_type=Path, file_okay=False), help="Folder of results.md.")
def main(
    cases: str, sparsities: str, methods: str, seeds: int, hidden: str, batches: str, data_folder: Path, cache: Path,
    threads: int, repeats: int, seconds: float, remark: str, write: Path,
) -> None:  # fmt: skip
    """Measure what is not known yet, then write everything that is known."""
    torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    suited = [name for name, method in METHODS.items() if hidden or not method.layers]
    names = methods.split(";") if methods else suited
    if unknown := set(names) - set(METHODS):
        raise click.BadParameter(f"there is no method '{min(unknown)}'; choose of {'; '.join(METHODS)}.")
    wanted = [(name, sparsity) for sparsity in sorted(map(float, sparsities.split(","))) for name in names]
    known = Cache(cache)
    for name, case in with_hidden(cases.split(","), hidden).items():
        for seed in range(seeds):
            settings = Settings(seed=seed, threads=threads, latency_batch_sizes=parse_batch_sizes(batches))
            measure(name, case, settings, wanted, data_folder, known, repeats, seconds)
    tables = Tables(METHODS, [row for row in known.rows if row.method in METHODS], known.speeds)
    where = environment()
    text = f"{tables.as_markdown()}\n{told_of_machine(where, threads)}{' ' + remark if remark else ''}"
    print(text)
    intro = "\n\n".join(
        [PROTOCOL.format(repeats=repeats, threads=f"{threads} thread{'s' if threads > 1 else ''}"), WIDE]
    )
    write_section(write / "results.md", "Fewer bits", "benchmarks/formats.py", f"{intro}\n\n{text}")
    print(json.dumps({"environment": where, "threads": threads, "figures": tables.figures()}))


if __name__ == "__main__":
    main()
