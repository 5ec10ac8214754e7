"""Compare the cost model with measurements: single operators, whole graphs, and the effect of each rewrite.

    python benchmarks/bench_cost_model.py [--corpus corpus.py] [--only NAME] [--operator NAME] [--latency-batch-sizes 1,32,256,1024]

For each kind of operator (operator_cases.py): measured : estimated, and the factor by which each constant of
`onnx/cost/cost_constants.py` should be multiplied for the best fit (cost_fit.py), with the interval that contains nine in ten resamples.
`--only -` leaves out the models, `--operator -` the operators. For each model (the reference recommenders, or those of a corpus, see
third_party.py): the estimate for its graph as a fraction of the measured 20th percentile; and for each rewrite, kept or not, applied to
the graph after the previous rewrites, the estimated and the measured time as a fraction of the time before. One thread, before and after
interleaved. Prints tables, how often the estimate has the right sign, and JSON as the last line.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import torch
from cost_fit import fit, ratios
from onnx_ir.passes.common import RemoveUnusedNodesPass
from operator_cases import PERCENT, measure_operators
from third_party import load_corpus

from recprune_export.onnx import (
    PASSES,
    REFERENCE,
    REWRITES,
    estimate_cost,
    fill_shapes,
    make_in_memory_session,
    strip_weights,
)
from recprune_export.onnx._translate import translate
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from recprune_export.validation import Backend, RequestCycles, measure_latency, sample_cycles

SAME = 0.03  # what differs by less is the same
CLICKS = InputSpec(
    categorical={"user": 50_000, "item": 20_000, **{f"field{i}": 100 for i in range(6)}},
    multi_valued={"tags": 500},
    lengths={"tags": 10},
    n_numeric=8,
    labels=("click",),
)
SPECS = {
    "mmoe": InputSpec(**{**vars(CLICKS), "labels": ("click", "buy")}),
    "sasrec": InputSpec(items=10_000, max_length=50, labels=("next_item",)),
}


def programs(corpus: Path | None, only: str) -> Iterator[tuple[str, Program]]:
    """Yield the models that can be captured."""
    if corpus is None:
        for name in RECOMMENDERS:
            if only in name:
                spec = SPECS.get(name, CLICKS)
                yield name, capture(build_recommender(name, spec, {}).eval(), (spec.example_request(),))
        return
    others = load_corpus(corpus)
    for name in others.REGISTRY:
        if only not in name:
            continue
        try:
            made, inputs, *_ = others.build(name)
            yield name, capture(made, *(((), inputs) if isinstance(inputs, dict) else (tuple(inputs),)))
        except Exception as error:  # the models are anybody's
            click.echo(f"{name}: left out, {type(error).__name__}")


def plain(program: Program) -> ir.Model:
    """Return the graph before any rewrite."""
    model = translate(program)
    for each in PASSES:
        each(model)
    return model


def milliseconds(graphs: Sequence[ir.Model], requests: RequestCycles, seconds: float) -> list[dict[int, float]]:
    """Measure graphs against each other; return a low percentile by batch."""
    runs = [make_in_memory_session(graph) for graph in graphs]
    contestants = [Backend(str(i), lambda request, run=run: run(list(request.values()))) for i, run in enumerate(runs)]
    report = measure_latency(contestants, requests, threads=1, seconds=seconds)
    samples = report.samples
    return [
        {batch: float(np.percentile(samples[batch][str(i)], PERCENT)) for batch in requests} for i in range(len(graphs))
    ]


def estimates(graph: ir.Model, batches: Sequence[int]) -> dict[int, float]:
    """Estimate milliseconds by batch."""
    bare = strip_weights(graph).model
    return {batch: estimate_cost(bare, batch).estimate * 1e3 for batch in batches}


def try_model(name: str, program: Program, batches: Sequence[int], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what was estimated and measured, of the whole graph and of each rewrite."""
    graph = plain(program)
    requests = sample_cycles(program.signature, batches, seed=0)
    (measured,), estimated = milliseconds([graph], requests, seconds), estimates(graph, batches)
    yield {
        "model": name,
        "what": "whole",
        "estimate": {b: estimated[b] / measured[b] for b in batches},
        "measured": measured,
    }
    for each in REWRITES:
        after = graph.clone()
        if not each(after):
            continue
        RemoveUnusedNodesPass()(after)
        fill_shapes(after)
        before_ms, after_ms = milliseconds([graph, after], requests, seconds)
        told, tells = estimates(graph, batches), estimates(after, batches)
        yield {
            "model": name,
            "what": each.__name__,
            "estimate": {b: tells[b] / told[b] for b in batches},
            "measured": {b: after_ms[b] / before_ms[b] for b in batches},
        }
        graph = after


def right_direction(results: Sequence[dict[str, Any]]) -> float:
    """Return how often estimate and measurement agree on which form is faster, or call it a draw."""
    pairs = [(r["estimate"][b], r["measured"][b]) for r in results if r["what"] != "whole" for b in r["measured"]]
    agree = [abs(m - 1) < SAME or abs(e - 1) < SAME or (e < 1) == (m < 1) for e, m in pairs]
    return float(np.mean(agree)) if agree else 1.0


def try_operators(batches: Sequence[int], seconds: float, only: str) -> dict[str, Any]:
    """Print and return measured : estimated by operator, and the factors of the constants that fit best."""
    cases = list(measure_operators(REFERENCE, batches, seconds, only))
    if not cases:
        return {}
    factors = fit(cases)
    now, fitted = ratios(cases), ratios(cases, factors)
    click.echo(f"{'measured : estimated':<22} " + " ".join(f"{b:>6}" for b in batches) + "   as fitted")
    for operator, by_batch in now.items():
        cells = [" ".join(f"{r[b]:>6.2f}" for b in batches) for r in (by_batch, fitted[operator])]
        click.echo(f"{operator:<22} " + "   ".join(cells))
    click.echo(f"\n{'constant':<32} factor that fits best (* where that is not 1 beyond noise)")
    for name, each in factors.items():
        click.echo(f"{name:<32} {each.factor:.2f} [{each.low:.2f}, {each.high:.2f}]{' *' if each.differs else ''}")
    click.echo()
    told = {name: {**vars(each), "differs": each.differs} for name, each in factors.items()}
    return {"ratios": now, "fitted": fitted, "factors": told}


@click.command(help=__doc__.splitlines()[0])
@click.option("--corpus", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", default="", help="Part of a model's name.")
@click.option("--operator", default="", help="Part of an operator's name.")
@click.option("--latency-batch-sizes", "batches", default="1,32,256,1024", show_default=True)
@click.option("--seconds", default=0.3, show_default=True, help="For each comparison and batch.")
def main(corpus: Path | None, only: str, operator: str, batches: str, seconds: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = [int(part) for part in batches.split(",")]
    operators = try_operators(sizes, seconds, operator)
    click.echo(f"{'':<40} " + " ".join(f"{f'batch {b}':>22}" for b in sizes))
    results = []
    for name, program in programs(corpus, only):
        for result in try_model(name, program, sizes, seconds):
            results.append(result)
            whole = result["what"] == "whole"
            cells = [
                f"{result['estimate'][b]:.2f} of {result['measured'][b]:.3f} ms"
                if whole
                else f"est. {result['estimate'][b]:.2f} meas. {result['measured'][b]:.2f}"
                for b in sizes
            ]
            label = name if whole else f"    {result['what']}"
            click.echo(f"{label:<40} " + " ".join(f"{cell:>22}" for cell in cells))
    whole = [r["estimate"] for r in results if r["what"] == "whole"]
    spread = {b: np.percentile([w[b] for w in whole], (10, 50, 90)).round(2).tolist() for b in sizes} if whole else {}
    click.echo(f"Estimate as a fraction of the measured, 10th, 50th, 90th percentile of models: {spread}")
    click.echo(
        f"Rewrites of which the estimate tells the direction (within {SAME:.0%}): {right_direction(results):.1%}"
    )
    click.echo(
        json.dumps(
            {
                "benchmark": "cost_model",
                "operators": operators,
                "direction": right_direction(results),
                "spread": spread,
                "each": results,
            }
        )
    )


if __name__ == "__main__":
    main()
