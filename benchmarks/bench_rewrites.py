"""The benefit of each graph rewrite: how many models it applies to, where the cost model keeps it, and its gain in ONNX Runtime.

    python benchmarks/bench_rewrites.py [--corpus corpus.py] [--models dlrm] [--rewrites fold_affine,join_columns] [--threads 1]

The models are the reference recommenders with the fields of an online shop ("shop/…"), of Criteo, of the anime ratings
and of the census of cases.py, and those of a corpus (see third_party.py). Each is dense, and pruned to widths that differ
from table to table; ours are pruned to equal widths too, four of those quantized, and the shop's are exported with the
user's inputs shared. Weights are random: a rewrite looks at the graph alone. Every model is exported for all batch
sizes together and for some alone.

Then, on the `--most` models where a rewrite that was kept has the largest estimated gain, the file with all rewrites
and the file without that one take turns in one process, in new sessions, created `--seatings` times. The gain is how many times longer
the file without takes, with a 99 % interval over the seatings; a rewrite is supported where one lies above 1. Results are appended to
--cache, and an interrupted run continues from there. Prints a table, and JSON as the last line.
"""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import torch
from bench_cost_model import CLICKS, SPECS, plain
from models import CRITEO, MODELS, make
from results import keep, kept
from third_party import load_corpus

from recprune_export.evidence import Estimate
from recprune_export.onnx import (
    BEFORE_SHARING,
    LAST,
    REWRITES,
    Pass,
    Probe,
    Rewrite,
    fill_shapes,
    name_interface,
    rewrite,
    save_onnx,
)
from recprune_export.onnx import export as module
from recprune_export.program import Program, Signature, sample_request
from recprune_export.program.capture import capture
from recprune_export.pruning import AllocationStrategy, Budget, apply_plan, make_plan, rank_by
from recprune_export.quantization import _quantize as quantize
from recprune_export.quantization import make_error_judge
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from recprune_export.validation import (
    RequestCycles,
    interval_of_few,
    log_ratio,
    make_onnxruntime_backend,
    measure_repeated_sessions,
    sample_cycles,
)

BATCHES = (1, 32, 256, 1024)  # of an export, together
SERVED = (BATCHES, (1,), (256,))  # one batch size alone lets a rewrite pass that costs more at others
MEASURED = (1, 32, 256)
FEWEST = 16  # rounds of a seating
ANIME = InputSpec(  # of the data that the cases of cases.py are trained on
    categorical={"user": 4666, "item": 6925, "type": 7, "main_genre": 41},
    multi_valued={"genres": 46},
    lengths={"genres": 13},
    n_numeric=2,
    labels=("label",),
)
CENSUS_ROWS = (
    10,
    53,
    48,
    18,
    4,
    25,
    16,
    6,
    11,
    3,
    4,
    7,
    9,
    7,
    7,
    51,
    39,
    9,
    10,
    9,
    10,
    4,
    4,
    6,
    43,
    43,
    43,
    6,
    4,
    4,
    4,
    3,
)
CENSUS = InputSpec(
    categorical={f"field{number}": rows for number, rows in enumerate(CENSUS_ROWS)},
    n_numeric=7,
    labels=("income", "never_married"),
)
CASES = {
    **{f"anime/{name}": ANIME for name in ("dlrm", "deepfm", "dcn_v2", "neumf", "two_tower")},
    **{f"census/{name}": InputSpec(**{**vars(CENSUS), "labels": ("income",)}) for name in ("two_tower", "dcn_v2")},
    "census/mmoe": CENSUS,
}
OURS = ("shop/", "criteo/", "anime/", "census/")
SHARED = ("user", "field0", "field1", "field2")
PRUNED: Mapping[str, tuple[float, AllocationStrategy]] = {"equal .7": (0.7, "uniform"), "unequal .9": (0.9, "loss")}
INT8 = {"criteo/dlrm", "criteo/deepfm", "criteo/sasrec", "criteo/two_tower"}
CALIBRATION = (4, 64)  # requests, rows
WIDE = 0.2  # of the answers' variance: random weights say nothing of what int8 costs in quality


@dataclass(frozen=True)
class Case:
    """A model, the form in which it is exported, and the batch sizes of which the export knows."""

    model: str
    variant: str
    batches: tuple[int, ...]

    @property
    def rewrites(self) -> Sequence[Pass]:
        """The passes that are tried."""
        return quantize.REWRITES if self.variant.endswith("int8") else REWRITES


@dataclass(frozen=True)
class Graph:
    """A graph before any rewrite, the requests on which rewrites are proved, and what a request may be."""

    model: ir.Model
    probes: Sequence[Probe]
    signature: Signature


@dataclass(frozen=True)
class Corpus:
    """Names of all models, and the file of those that other people wrote."""

    path: Path | None

    def names(self) -> list[str]:
        """Return every name, ours first."""
        ours = [f"shop/{name}" for name in RECOMMENDERS] + [f"criteo/{name}" for name in (*MODELS, "neumf", "mmoe")]
        return ours + list(CASES) + list(load_corpus(self.path).REGISTRY if self.path else ())

    def capture(self, name: str) -> Program:
        """Build and capture a model."""
        torch.manual_seed(0)
        family, _, rest = name.partition("/")
        if family == "criteo" and rest in MODELS:
            model = make(rest)
            return capture(model.module, (), dict(model.example))
        if name.startswith(OURS):
            spec = CASES.get(name) or (SPECS.get(rest, CLICKS) if family == "shop" else _criteo(rest))
            return capture(build_recommender(rest, spec, {}).eval(), (spec.example_request(),))
        assert self.path is not None
        others, inputs, *_ = load_corpus(self.path).build(name)
        return capture(others, *(((), inputs) if isinstance(inputs, dict) else (tuple(inputs),)))


def _criteo(name: str) -> InputSpec:
    return InputSpec(**{**vars(CRITEO), "labels": ("click", "buy")}) if name == "mmoe" else CRITEO


def variants(name: str) -> list[str]:
    """Return the forms in which a model is exported."""
    if not name.startswith(OURS):
        return ["dense", "unequal .9"]
    shared = ["shared"] if name.startswith("shop/") and name != "shop/sasrec" else []
    return ["dense", *PRUNED, *shared, *(["equal .7 int8"] if name in INT8 else [])]


@lru_cache(maxsize=1)
def captured(corpus: Corpus, name: str) -> Program:
    """Return the dense program."""
    return corpus.capture(name)


@lru_cache(maxsize=2)
def graph_of(corpus: Corpus, name: str, variant: str, without: str = "") -> Graph:
    """Return the graph of a model in one of its forms, shared inputs split without the rewrite of that name."""
    program = captured(corpus, name)
    key = variant.removesuffix(" int8")
    if key in PRUNED:
        program = pruned(program, *PRUNED[key])
    if variant.endswith("int8"):
        return _quantized(program)
    signature, probes = program.signature, module._make_probes(program.signature)
    model = plain(program)
    if variant == "shared":
        signature = signature.with_shared(SHARED)
        before = [each for each in BEFORE_SHARING if each.__name__ != without]
        model, probes = module._apply_sharing(model, signature, probes, before)
    return Graph(model, probes, signature)


def pruned(program: Program, sparsity: float, way: AllocationStrategy) -> Program:
    """Remove structure at random; "loss" leaves each table a width that follows from the scale of its scores."""
    analysis = program.analysis
    generator = torch.Generator().manual_seed(0)
    scales = torch.randn(len(analysis.groups), generator=generator).exp()
    scores = {
        g.name: scale * torch.rand(g.width, generator=generator)
        for g, scale in zip(analysis.groups, scales, strict=True)
    }
    budget = Budget(sparsity, sparsity, table_structured_fraction=1.0, rest_structured_fraction=1.0)
    return apply_plan(program, make_plan(program, rank_by(scores), budget, "random", way))


def _quantized(program: Program) -> Graph:
    """The int8 form of the exported file, before the rewrites that only quantized files have."""
    signature = program.signature
    requests, rows = CALIBRATION
    calibration = [sample_request(signature, rows, seed) for seed in range(requests)]
    with tempfile.TemporaryDirectory() as scratch:
        source = module.export_onnx(program, Path(scratch) / "source.onnx").path
        target = Path(scratch) / "int8.onnx"
        timed = sample_cycles(signature, MEASURED, seed=0)
        result = quantize.quantize(
            source, target, "int8", calibration, timed, make_error_judge(calibration, WIDE), rewrites=()
        )
        model = ir.from_proto(ir.to_proto(ir.load(result.path)))  # of nothing that lies in the scratch folder
    fill_shapes(model)
    return Graph(model, [list(request.values()) for request in calibration[:2]], signature)


def rewritten(graph: Graph, passes: Sequence[Pass], batches: Sequence[int]) -> tuple[ir.Model, tuple[Rewrite, ...]]:
    """Return the graph as it is written to the file, and what became of each rewrite."""
    model, report = rewrite(graph.model, passes, graph.probes, batches)
    model = model.clone()
    for each in LAST:
        each(model)
    name_interface(model, [i.name for i in graph.signature.inputs], [o.name for o in graph.signature.outputs])
    return model, report


def survey(corpus: Corpus, name: str) -> Iterator[dict[str, Any]]:
    """Yield, by form and batch sizes, what became of each rewrite that fires."""
    for variant in variants(name):
        for batches in SERVED:
            case = Case(name, variant, batches)
            row: dict[str, Any] = {"kind": "survey", **asdict(case), "failure": "", "rewrites": []}
            try:
                _, report = rewritten(graph_of(corpus, name, variant), case.rewrites, batches)
            except Exception as error:  # the models are anybody's
                yield {**row, "failure": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
                break
            yield {**row, "rewrites": [each.to_dict() for each in report]}


@dataclass(frozen=True)
class Comparison:
    """How the file with all rewrites is compared with the file without one."""

    threads: int
    seatings: int
    seconds: float
    scratch: Path

    def gain(self, corpus: Corpus, case: Case, name: str) -> dict[str, Any]:
        """Measure; `lost` names the other rewrites that are not kept without this one, `same` says that no node changed."""
        graph = graph_of(corpus, case.model, case.variant)
        bare = graph_of(corpus, case.model, case.variant, name) if case.variant == "shared" else graph
        without = [each for each in case.rewrites if each.__name__ != name]
        pairs = ((graph, case.rewrites), (bare, without))
        models, reports = zip(*(rewritten(each, passes, case.batches) for each, passes in pairs), strict=True)
        all_kept, still_kept = ({each.name for each in report if each.kept} for report in reports)
        row = {"lost": sorted(all_kept - still_kept - {name}), "gained": sorted(still_kept - all_kept)}
        if _operators(models[0]) == _operators(models[1]):
            return {**row, "same": True, "gains": {}}
        files = {"with": self.scratch / "with.onnx", "without": self.scratch / "without.onnx"}
        for model, path in zip(models, files.values(), strict=True):
            save_onnx(model, path)
        batches = tuple(batch for batch in MEASURED if batch in case.batches)
        gains = self._measure(files, sample_cycles(graph.signature, batches, seed=0))
        return {**row, "same": False, "gains": {str(batch): asdict(gain) for batch, gain in gains.items()}}

    def _measure(self, files: Mapping[str, Path], requests: RequestCycles) -> dict[int, Estimate]:
        makers = {name: partial(make_onnxruntime_backend, name, path, self.threads) for name, path in files.items()}
        rng = np.random.default_rng(0)
        seatings = measure_repeated_sessions(
            makers, requests, count=self.seatings, seconds=self.seconds, rng=rng, min_rounds=FEWEST
        )
        return {
            batch: interval_of_few([log_ratio(each[batch], "without", "with") for each in seatings]).apply(math.exp)
            for batch in requests
        }


def _operators(model: ir.Model) -> list[tuple[str, tuple[tuple[Any, ...] | None, ...]]]:
    """Operators and shapes of their results, in order: two files that agree in them take the same time."""
    return [
        (node.op_type, tuple(tuple(map(str, v.shape)) if v.shape is not None else None for v in node.outputs))
        for node in model.graph
    ]


def estimated_gain(report: Mapping[str, Any]) -> float:
    """Return the largest estimated gain over the batch sizes that are measured, or over all where none is."""
    batches = [batch for batch in report["before"] if int(batch) in MEASURED] or list(report["before"])
    return max(report["before"][batch] / report["after"][batch] for batch in batches)


def promising(rows: Iterable[Mapping[str, Any]], name: str, most: int) -> list[Case]:
    """Return where a rewrite that was kept has the largest estimated gain: `most` models, of each its best case."""
    gains: dict[str, tuple[float, Case]] = {}
    for row in rows:
        for report in row["rewrites"]:
            if report["name"] == name and report["kept"]:
                case = Case(row["model"], row["variant"], tuple(row["batches"]))
                key = f"{case.model} {'int8' if case.variant.endswith('int8') else ''}"
                gains[key] = max(gains.get(key, (0.0, case)), (estimated_gain(report), case), key=lambda pair: pair[0])
    return [case for _, case in sorted(gains.values(), key=lambda pair: -pair[0])[:most]]


def sharing(name: str) -> list[Case]:
    """Return where a rewrite is measured that comes before inputs are shared as well."""
    before = any(each.__name__ == name for each in BEFORE_SHARING)
    return [Case(f"shop/{model}", "shared", BATCHES) for model in ("dlrm", "deepfm", "two_tower") if before]


def summary(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return what is known of one rewrite: models on which it fires and is kept, gains, and the case of its surest gain."""
    reports = [(row["model"], each) for row in rows if row["kind"] == "survey" for each in row["rewrites"]]
    mine = [(model, each) for model, each in reports if each["name"] == name]
    gains = [
        {"model": row["model"], "variant": row["variant"], "batches": row["batches"], "batch": int(batch), **gain}
        for row in rows
        if row["kind"] == "gain" and row["rewrite"] == name
        for batch, gain in row["gains"].items()
    ]
    best = max(gains, key=lambda gain: gain["low"], default=None)
    return {
        "rewrite": name,
        "fires": len({model for model, _ in mine}),
        "kept": len({model for model, each in mine if each["kept"]}),
        "estimated": max((estimated_gain(each) for _, each in mine if each["kept"]), default=None),
        "measured": len(gains),
        "above": sum(gain["low"] > 1 for gain in gains),
        "below": sum(gain["high"] < 1 for gain in gains),
        "same": sum(row["kind"] == "gain" and row["rewrite"] == name and row["same"] for row in rows),
        "lost": sorted(
            {other for row in rows if row["kind"] == "gain" and row["rewrite"] == name for other in row["lost"]}
        ),
        "best": best,
        "supported": best is not None and best["low"] > 1,
    }


HEADER = f"{'rewrite':<18} fires  kept  estimated  intervals above/below/all  surest gain"


def as_line(entry: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    best = entry["best"]
    estimated = f"{entry['estimated']:.2f}" if entry["estimated"] else "-"
    surest = "-"
    if best:
        surest = (
            f"{best['estimate']:.3f} [{best['low']:.3f}, {best['high']:.3f}]  {best['model']}, {best['variant']}, "
            f"batch {best['batch']} of {','.join(map(str, best['batches']))}"
        )
    return (
        f"{entry['rewrite']:<18} {entry['fires']:>5} {entry['kept']:>5} {estimated:>10}  "
        f"{entry['above']:>9}/{entry['below']}/{entry['measured']:<13}  {surest}"
    )


@click.command(help=__doc__.splitlines()[0])
@click.option("--corpus", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--models", default="", help="Part of a model's name.")
@click.option("--rewrites", default="", help="Names, measured in this order; all where empty.")
@click.option("--most", default=4, show_default=True, help="Models on which a rewrite is measured.")
@click.option("--threads", default=1, show_default=True)
@click.option("--seatings", default=8, show_default=True)
@click.option("--seconds", default=0.15, show_default=True, help="For each seating and batch size.")
@click.option("--cache", default="artifacts/rewrites.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(
    corpus: Path | None, models: str, rewrites: str, most: int, threads: int, seatings: int, seconds: float, cache: Path
) -> None:
    torch.set_num_threads(1)
    cache.parent.mkdir(parents=True, exist_ok=True)
    chosen = Corpus(corpus)
    surveyed = {row["model"] for row in kept(cache) if row["kind"] == "done"}
    for name in chosen.names():
        if models in name and name not in surveyed:
            for row in survey(chosen, name):
                keep(cache, row)
            keep(cache, {"kind": "done", "model": name})
            click.echo(f"surveyed {name}", err=True)
    rows = [row for row in kept(cache) if row["kind"] == "survey"]
    names = rewrites.split(",") if rewrites else [each.__name__ for each in (*REWRITES, *quantize.REWRITES)]
    with tempfile.TemporaryDirectory() as scratch:
        comparison = Comparison(threads, seatings, seconds, Path(scratch))
        for name in dict.fromkeys(names):
            for case in [*promising(rows, name, most), *sharing(name)]:
                key = {
                    "kind": "gain",
                    "rewrite": name,
                    "threads": threads,
                    **asdict(case),
                    "batches": list(case.batches),
                }
                if any(key.items() <= row.items() for row in kept(cache)):
                    continue
                row = {**key, **comparison.gain(chosen, case, name)}
                keep(cache, row)
                click.echo(json.dumps(row), err=True)
    everything = kept(cache)
    table = [summary(everything, name) for name in dict.fromkeys(names)]
    click.echo(f"{len({row['model'] for row in rows if not row['failure']})} models, threads: {threads}\n{HEADER}")
    click.echo("\n".join(map(as_line, table)))
    failures = sorted({f"{row['model']}, {row['variant']}: {row['failure']}" for row in rows if row["failure"]})
    click.echo("\n".join(failures))
    click.echo(json.dumps({"benchmark": "rewrites", "threads": threads, "failures": failures, "each": table}))


if __name__ == "__main__":
    main()
