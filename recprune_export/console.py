"""What the commands print: tables for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.data.stability import MAJOR, NOTICEABLE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.bundle.artifact import ArtifactInspection
    from recprune_export.bundle.verify import Verification
    from recprune_export.compression import Result
    from recprune_export.data.profile import Drift
    from recprune_export.gate.calibration import Calibration
    from recprune_export.gate.check import Check
    from recprune_export.inspection import Inspection
    from recprune_export.onnx.profiler import Profile
    from recprune_export.pruning.sensitivity import Sensitivity
    from recprune_export.pruning.standing import Standing
    from recprune_export.refresh.examination import Examination
    from recprune_export.search.sweep import Sweep
    from recprune_export.search.trials import Trial
    from recprune_export.training.train import Training
    from recprune_export.validation.footprint import FootprintReport
    from recprune_export.validation.latency import LatencyReport
    from recprune_export.validation.open_loop import OpenLoopReport
    from recprune_export.validation.rare_ids import RowReport
    from recprune_export.validation.study import Study


def print_training(training: "Training", *, as_json: bool) -> None:
    """Say how training went and what came of it."""
    checkpoint = training.checkpoint
    if as_json:
        values = {
            "checkpoint": str(training.path),
            "recommender": checkpoint.recommender,
            "parameters": training.parameters,
            "training_rows": training.rows,
            "test": dict(checkpoint.metrics),
            "notes": list(training.notes),
            **training.fitted.to_dict(),
        }
        return _print_json(values)
    console = _console()
    _print_notes(training.notes)
    epochs = _table(
        f"{checkpoint.recommender}, {training.rows:,} training rows", "epoch", "training loss", "validation", ""
    )
    for number, epoch in enumerate(training.fitted.epochs):
        kept = "kept" if number == training.fitted.best else ""
        epochs.add_row(str(number + 1), f"{epoch.loss:.4f}", f"{epoch.metric:.4f}", kept)
    console.print(epochs)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in checkpoint.metrics.items())
    console.print(f"Test: {metrics}", highlight=False)
    console.print(f"{training.parameters:,} parameters in {training.path}", highlight=False, soft_wrap=True)
    console.print(f"Next: recprune-export {training.path} --sparsity 0.7 --data FILE", highlight=False, soft_wrap=True)


def print_result(result: "Result", *, as_json: bool) -> None:
    """Say what was made, how small, how good and how fast it is."""
    if as_json:
        return _print_json(result.manifest.to_dict())
    from recprune_export.onnx.session import DEFAULT_OPTIONS

    console = _console()
    console.print(_sizes(result))
    if result.manifest.plan["fields"]["removed"]:
        console.print(_removed_fields(**result.manifest.plan["fields"]))
    if result.metrics["dense"]:
        console.print(_quality(result.metrics, result.manifest.settings["data"]))
    if result.rows is not None:
        _print_rows(console, result.rows)
    _print_latency(console, result.latency)
    console.print(_footprints(result.footprints))
    changes = ", ".join(result.session.options.differences(DEFAULT_OPTIONS)) or "ONNX Runtime's own are as good as any"
    console.print(f"Session options, tried on this machine: {changes}", highlight=False)
    console.print(_floors(result.manifest.cost["models"]))
    console.print(_rewrites(result.manifest.rewrites))
    for output in result.parity.outputs:
        console.print(
            f"Parity of '{output.name}' over {result.parity.rows} rows: largest error {output.max_absolute:.1e}, "
            f"relative {output.max_relative:.1e}",
            highlight=False,
        )
    stage: Mapping[str, Any] | None = result.manifest.plan
    while stage is not None:
        console.print(f"Pruned equals masked to {stage['soundness']['error']:.1e} in float64", highlight=False)
        stage = stage.get("then")
    _print_notes(result.notes)
    console.print(f"Bundle: {result.target} (ONNX opset {result.manifest.opset})", highlight=False, soft_wrap=True)
    console.print(f"Next: recprune-export verify {result.target}", highlight=False, soft_wrap=True)


def print_examination(found: "Examination") -> None:
    """Say whether a bundle holds on new rows, and by what."""
    console, quality = _console(), found.quality
    _print_notes(found.notes)
    table = _table(f"Quality on {quality.rows:,} new rows, {found.rows.which}", "", *_THEN_AND_NOW)
    for name in quality.now["pruned"]:
        models = ((when, model) for model in ("dense", "pruned") for when in (quality.then, quality.now))
        table.add_row(name, *(_figure(when.get(model, {}).get(name), ".4f") for when, model in models))
    console.print(table)
    if found.drifts:
        console.print(_drifts(found.drifts))
    if found.standings:
        console.print(_standings(found.standings))
    verdicts = _table("Does the plan hold?", "measure", "verdict", "")
    verdicts.columns[2].justify = "left"
    for finding in found.findings:
        style = "red" if finding.holds is False else "dim" if finding.holds is None else None
        verdicts.add_row(finding.measure, finding.verdict, finding.reason, style=style)
    console.print(verdicts)
    console.print(f"Verdict: {found.verdict}", highlight=False, soft_wrap=True)


_THEN_AND_NOW = ("dense, recorded", "dense, now", "artifact, recorded", "artifact, now")
_DRIFTS_SHOWN = 12


def _drifts(drifts: Sequence["Drift"]) -> "Table":
    table = _table(
        f"Drift: population stability index (below {NOTICEABLE:g} none, from {MAJOR:g} on major)",
        "field", "index", "by chance below", "unknown or mean, then", "now",
    )  # fmt: skip
    for drift in drifts[:_DRIFTS_SHOWN]:
        form = ".1%" if drift.kind == "ids" else ".3g"
        cells = (_figure(value, form) for value in (drift.before, drift.now))
        table.add_row(
            drift.name, f"{drift.psi:.3f}", f"{drift.chance:.3f}", *cells, style="red" if drift.major else None
        )
    if len(drifts) > _DRIFTS_SHOWN:
        table.add_row(f"{len(drifts) - _DRIFTS_SHOWN} more, with less", "", "", "", "")
    return table


def _standings(standings: Sequence["Standing"]) -> "Table":
    table = _table(
        "Ranking on the new rows: what the score says is lost",
        "group", "kind", "kept", "kept again", "by the plan", "by the best choice", "without the group",
    )  # fmt: skip
    for s in standings:
        again = "rotated" if s.same is None else f"{s.same} of {s.kept}"
        table.add_row(
            s.group, s.kind, f"{s.kept} of {s.width}", again, f"{s.lost:.2g}", f"{s.least:.2g}", f"{s.total:.2g}"
        )
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def print_refresh_json(found: "Examination", result: "Result | None") -> None:
    """Print what was found and, where the model was compressed again, the new bundle and its manifest."""
    new = {} if result is None else {"refreshed": str(result.target), "manifest": result.manifest.to_dict()}
    _print_json({**found.to_dict(), **new})


def tell_trial(trial: "Trial") -> None:
    """Say in one line what a trial of a sweep gave."""
    from recprune_export.progress import say

    assert trial.artifact is not None
    c, speed = trial.change, trial.artifact.overall
    say(
        f"sparsity {trial.sparsity:g}: {c.metric} {c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}], {speed.estimate:.2f}× as fast"
    )


def print_sweep(found: "Sweep", folder: Path, model: str, *, as_json: bool) -> None:
    """Show quality, size and speed over sparsity."""
    if as_json:
        return _print_json(found.to_dict())
    console = _console()
    first = found.trials[0]
    assert first.artifact is not None
    batches = [f"batch {batch}" for batch in first.artifact.speedup]
    title = f"Dense {first.change.metric} on validation rows {first.change.before:.4f}; times as fast as dense in ONNX Runtime"
    table = _table(title, "sparsity", f"{first.change.metric} [95 %]", "parameters", "MB", *batches, "")
    for number, trial in enumerate(found.trials):
        c, artifact = trial.change, trial.artifact
        assert artifact is not None
        table.add_row(
            f"{trial.sparsity:g}",
            f"{c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}]",
            f"{artifact.nonzero:,}",
            f"{artifact.bytes / 1e6:.2f}",
            *(f"{speed.estimate:.2f}×" for speed in artifact.speedup.values()),
            "knee" if number == found.knee else "",
        )
    console.print(table)
    drawn = folder / "sweep.svg"
    files = (
        f"{folder / 'sweep.json'}, {drawn}" if drawn.exists() else f"{folder / 'sweep.json'} (a plot needs matplotlib)"
    )
    console.print(f"Written: {files}", highlight=False, soft_wrap=True)
    chosen = found.trials[found.knee if found.knee is not None else 0].sparsity
    console.print(f"Next: recprune-export {model} --sparsity {chosen:g} --data FILE", highlight=False, soft_wrap=True)


def print_inspection(inspection: "Inspection", *, as_json: bool) -> None:
    """Show inputs, parameters, groups and frozen axes."""
    if as_json:
        return _print_json(inspection.to_dict())
    console = _console()
    signature = inspection.signature
    tensors = _table(f"{inspection.name}: {inspection.kind}", "", "name", "dtype", "shape", "ids")
    for kind, tensor in [("input", t) for t in signature.to_dict()["inputs"]] + [
        ("output", t) for t in signature.to_dict()["outputs"]
    ]:
        shape = " × ".join(str(size) for size in tensor["shape"])
        tensors.add_row(kind, tensor["name"], tensor["dtype"], shape, _ids(tensor.get("ids", [])))
    console.print(tensors)
    sizes = inspection.sizes
    console.print(
        f"Parameters: {sizes.tables:,} in tables, {sizes.rest:,} in the rest. {inspection.summary}",
        highlight=False,
    )
    groups = _table("Channel groups", "group", "kind", "width", "lies on")
    for group in inspection.groups:
        axes = [f"{tensor}:{axis}" for tensor, axis in group.axes()]
        more = f" and {len(axes) - 3} more" if len(axes) > 3 else ""
        groups.add_row(group.name, group.kind, str(group.width), ", ".join(axes[:3]) + more)
    console.print(groups)
    if inspection.fields is not None:
        fields = _table("Fields", "field", "parameters that go with it", "")
        for finding in inspection.fields:
            why = finding.frozen
            told = "can go" if why is None else f"stays: {why.text}" + (f" ({why.source})" if why.source else "")
            fields.add_row(finding.name, f"{finding.parameters:,}" if why is None else "", told)
        console.print(fields)
    if inspection.frozen:
        frozen = _table("Frozen", "reason", "axes (indices)")
        for reason, found in inspection.frozen_by_reason().items():
            places = ", ".join(f"{axis.tensor}:{axis.axis} ({axis.count})" for axis in found[:4])
            frozen.add_row(reason, places + (f" and {len(found) - 4} more" if len(found) > 4 else ""))
        console.print(frozen)


def print_scores(inspection: "Inspection", found: "Sensitivity", *, as_json: bool) -> None:
    """Show what the inspection found, what each score says of each group, and what is lost at smaller widths."""
    from recprune_export.pruning.sensitivity import SHARES

    if as_json:
        return _print_json({**inspection.to_dict(), "sensitivity": found.to_dict()})
    print_inspection(inspection, as_json=False)
    console = _console()
    losses = _table(
        "Lost by output error, as a fraction of what the group means",
        *("group", "width", "means", *(f"1/{share} stays" for share in SHARES), "rotated"),
    )
    for group in found.groups:
        cells = [f"{group.lost(share):.2%} ({group.kept(share)})" for share in SHARES]
        losses.add_row(
            group.group, str(group.width), f"{group.losses[0]:.2e}", *cells, "yes" if group.rotated else "no"
        )
    console.print(losses)
    names = list(found.groups[0].quantiles)
    for group in found.groups:
        table = _table(
            f"{group.group}, {group.width} channels", "score", "from best to worst", "median", "last tenth", ""
        )
        for name, quantiles in group.quantiles.items():
            rho = group.agreement.get((name, names[0]))
            agrees = "" if rho is None else f"agrees with {names[0]} {rho:+.2f}"
            cells = [f"{quantiles[len(quantiles) // 2]:.1%}", f"{quantiles[round(0.9 * (len(quantiles) - 1))]:.1%}"]
            table.add_row(name, _sketch(quantiles), *cells, agrees)
        console.print(table)
    agreement = _table(
        "Rank agreement of scores (Spearman), mean over groups", "", *(name.replace("-", "-\n") for name in names)
    )
    for one in names:
        correlations = [found.agreement(one, other) for other in names]
        agreement.add_row(one, *("" if rho is None else f"{rho:+.2f}" for rho in correlations))
    console.print(agreement)


def _sketch(values: Sequence[float]) -> str:
    """Bars for fractions of 1.

    >>> _sketch([1.0, 0.5, 0.0])
    '█▅▁'
    """
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[round(value * (len(bars) - 1))] for value in values)


def print_artifact(inspection: "ArtifactInspection", *, as_json: bool) -> None:
    """Show what a bundle or an ONNX file holds, and what a request costs."""
    if as_json:
        return _print_json(inspection.to_dict())
    console, counts, machine = _console(), inspection.counts, inspection.machine
    console.print(
        f"{inspection.name}: {counts.tables.parameters:,} parameters in tables, {counts.rest.parameters:,} in the rest, "
        f"{counts.total.nonzero:,} of them not zero; {counts.nodes} nodes, {counts.bytes:,} bytes",
        highlight=False,
    )
    table = _table(
        "Cost of a request",
        "batch",
        "multiply-adds",
        "read: weights and rows",
        "request and answer",
        "floor",
        "measured",
    )
    for batch, cost in inspection.costs.items():
        multiple = inspection.multiples.get(batch)
        table.add_row(
            str(batch),
            f"{cost.operations:,}",
            f"{cost.weights:,} B",
            f"{cost.interface:,} B",
            f"{cost.floor * 1e3:.3f} ms",
            "" if multiple is None else f"{multiple:.1f} × floor",
        )
    console.print(table)
    reads = " / ".join(f"{rate / 1e9:.0f}" for rate in machine.reads)
    threads = f"{machine.threads} thread" + ("s" if machine.threads > 1 else "")
    console.print(
        f"This machine, {threads}: {machine.fp32 / 1e9:.0f} billion multiply-adds a second in fp32, "
        f"{machine.int8 / 1e9:.0f} in int8; reads {reads} GB/s from cache, further cache and memory; "
        f"{machine.node * 1e6:.2f} µs a node, {machine.call * 1e6:.1f} µs a call",
        highlight=False,
    )
    if inspection.rewrites:
        console.print(_rewrites(inspection.rewrites))


def print_profile(profile: "Profile", nodes: int, *, as_json: bool) -> None:
    """Name the most expensive nodes, the slowest first."""
    if as_json:
        return _print_json(profile.to_dict())
    table = _table(
        f"Batch {profile.batch}, {profile.requests} requests: {profile.milliseconds:.3f} ms in the nodes, "
        f"floor {profile.floor:.3f} ms",
        "node",
        "operator",
        "ms",
        "share",
        "floor, ms",
    )
    for node in profile.nodes[:nodes]:
        table.add_row(node.name, node.operator, f"{node.milliseconds:.4f}", f"{node.share:.1%}", f"{node.floor:.4f}")
    rest = profile.nodes[nodes:]
    if rest:
        share = sum(node.share for node in rest)
        table.add_row(f"{len(rest)} more", "", f"{sum(n.milliseconds for n in rest):.4f}", f"{share:.1%}", "")
    _console().print(table)


def print_verification(verification: "Verification", study: "Study | None", *, as_json: bool) -> None:
    """Say what was checked, and what was measured."""
    if as_json:
        measured = {} if study is None else {"latency": study.to_dict()}
        return _print_json({**asdict(verification), **measured})
    worst = max((output.max_absolute for output in verification.outputs), default=0.0)
    click.echo(
        f"{verification.name}: {verification.files} files ({verification.bytes:,} bytes) as the manifest says; "
        f"ONNX Runtime gives the golden outputs of {verification.rows} rows to {worst:.1e}. {verification.seconds:.2f} s"
    )
    if study is not None:
        console = _console()
        for report in study.closed:
            _print_latency(console, report)
        for served in study.open:
            console.print(_open_loop(served))
        console.print(_footprints(study.footprints))


def print_check(check: "Check", *, as_json: bool) -> None:
    """Show every gate, and the verdict."""
    from recprune_export.gate.figures import HEADINGS, row
    from recprune_export.gate.findings import Verdict

    if as_json:
        return _print_json(check.to_dict())
    console = _console()
    table = _table(f"{check.new} against {check.base}", *HEADINGS)
    styles = {Verdict.FAIL: "red", Verdict.UNDECIDED: "yellow", Verdict.SKIPPED: "dim"}
    for finding in check.findings:
        table.add_row(*row(finding), style=styles.get(finding.verdict))
    console.print(table)
    if check.latency:
        batches = list(check.latency)
        tails = _table("Latency in ms, p50 / p95 / p99, not judged", "", *(f"batch {batch}" for batch in batches))
        times = [check.latency[batch].to_dict()["milliseconds"] for batch in batches]
        for name in ("BASE", "NEW"):
            tails.add_row(name, *(" / ".join(f"{ms:.3f}" for ms in of[name].values()) for of in times))
        console.print(tails)
    for finding in check.findings:
        if finding.verdict is not Verdict.PASS:
            console.print(f"{finding.gate}: {finding.reason}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"Verdict: {check.verdict.value}, after {check.seconds:.1f} s", highlight=False)


def print_calibration(calibration: "Calibration", *, as_json: bool) -> None:
    """Say what this machine can tell apart."""
    if as_json:
        return _print_json(calibration.to_dict())
    console = _console()
    table = _table(
        f"{calibration.name} against itself, {calibration.seconds:.0f} s", "", "ratio", "processes", "resolved"
    )
    for batch, found in calibration.resolutions.items():
        ratio = f"{found.ratio.estimate:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]"
        table.add_row(f"batch {batch}", ratio, str(found.processes), f"{found.smallest:.1%}")
    console.print(table)
    console.print(
        f"In this time a regression of {calibration.detectable:.1%} or more is found with --max-regression "
        f"{calibration.tolerance:.1%}, 95 times in 100 at each batch size.",
        highlight=False,
    )
    if not calibration.decides:
        console.print(
            "Equal artifacts may stay undecided: give more --time-limit, a larger --max-regression, or a quieter machine.",
            highlight=False,
        )


def _sizes(result: "Result") -> "Table":
    table = _table("Size, counted in the ONNX files", "", "dense", "pruned", "non-zero", "gone")
    dense, pruned, gone = result.counts["dense"], result.counts["pruned"], result.reduction
    for part, share in (("tables", gone.tables), ("rest", gone.rest)):
        before, after = getattr(dense, part), getattr(pruned, part)
        table.add_row(part, f"{before.parameters:,}", f"{after.parameters:,}", f"{after.nonzero:,}", f"{share:.1%}")
    for name, share in (("operations", gone.operations), ("bytes", gone.bytes)):
        table.add_row(name, f"{getattr(dense, name):,}", f"{getattr(pruned, name):,}", "", f"{share:.1%}")
    return table


def _removed_fields(removed: Sequence[str], importance: Mapping[str, float]) -> "Table":
    table = _table("Fields removed; their inputs stay and are ignored", "field", "rise of the loss without it")
    for name in removed:
        table.add_row(name, f"{importance[name]:+.2e}" if name in importance else "not measured")
    return table


def _quality(metrics: Mapping[str, Mapping[str, float]], data: str) -> "Table":
    table = _table(f"Quality on test rows of {data}, in ONNX Runtime", "", "dense", "pruned", "change")
    for name, dense in metrics["dense"].items():
        pruned = metrics["pruned"][name]
        table.add_row(name, f"{dense:.4f}", f"{pruned:.4f}", f"{pruned - dense:+.4f}")
    return table


def _print_rows(console: "Console", report: "RowReport") -> None:
    """Show which tables lost rows, which could not, and what it does to the requests that show such an id."""
    tables = _table("Rows: rare ids share one", "table", "ids from", "rows before", "rows")
    for table in report.tables:
        tables.add_row(table.table, ", ".join(table.inputs), f"{table.before:,}", f"{table.after:,}")
    console.print(tables)
    for refusal in report.refused:
        console.print(
            f"'{refusal.table}' keeps all rows: {refusal.reason}", highlight=False, soft_wrap=True, markup=False
        )
    parts = {"with a rare id": report.with_rare, "without": report.without_rare}
    quality = _table("Quality by kind of test row", "test rows", "", "dense", "pruned", "change")
    for said, part in parts.items():
        dense, pruned = part.metrics.get("dense", {}), part.metrics.get("pruned", {})
        for name, value in pruned.items():
            before = dense.get(name)
            known = ("", f"{value:.4f}", "") if before is None else (
                f"{before:.4f}", f"{value:.4f}", f"{value - before:+.4f}"
            )  # fmt: skip
            quality.add_row(f"{part.rows:,} {said}", name, *known)
    console.print(quality)
    console.print(
        f"Shared rows equal overwritten ones to {report.soundness.error:.1e} in float64; the remaps of ids take "
        f"{report.remap_bytes:,} bytes of the file",
        highlight=False,
    )


def _print_latency(console: "Console", report: "LatencyReport") -> None:
    console.print(_latency(report))
    for batch in report.samples:
        found = {name: report.outliers(batch, name) for name in report.contestants}
        named = [f"{o.count} of {name} (up to {o.largest[0][1]:.3f} ms)" for name, o in found.items() if o.count]
        if named:
            console.print(f"Outliers at batch {batch}, included above: {', '.join(named)}", highlight=False)


def _latency(report: "LatencyReport") -> "Table":
    batches = list(report.samples)
    table = _table(
        f"Latency in ms, p50 / p95 / p99, {_threads(report.threads)}", "", *(f"batch {batch}" for batch in batches)
    )
    for name in report.contestants:
        times = [report.percentiles(batch, name) for batch in batches]
        table.add_row(name, *(f"{t.p50:.3f} / {t.p95:.3f} / {t.p99:.3f}" for t in times))
    last = report.contestants[-1]
    for name in report.contestants[:-1]:
        ratios = [report.ratio(batch, name, last) for batch in batches]
        cells = [f"{r.estimate:.2f}× [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
        table.add_row(f"{name} : {last}", *cells)
    return table


def _open_loop(report: "OpenLoopReport") -> "Table":
    batches = list(report.served)
    table = _table(
        f"Latency from arrival in ms, p50 / p95 / p99, {report.qps:g} requests a second, {_threads(report.threads)}",
        "",
        *(f"batch {batch}" for batch in batches),
    )
    for name in report.contestants:
        cells = []
        for batch in batches:
            times, busy = report.percentiles(batch, name), report.served[batch][name].utilisation(report.qps)
            word = "cannot keep up" if report.saturated(batch, name) else f"busy {busy:.0%}"
            cells.append(f"{times.p50:.3f} / {times.p95:.3f} / {times.p99:.3f} ({word})")
        table.add_row(name, *cells)
    return table


def _footprints(report: "FootprintReport") -> "Table":
    from recprune_export.gate.figures import amount

    table = _table(
        f"In a fresh process, batch {report.batch}", "", "load", "first request", "memory", "peak while loading"
    )
    for name in report.runs:
        typical = report.typical(name)
        times = (amount(typical.load, "ms"), amount(typical.first_request, "ms"))
        table.add_row(name, *times, amount(typical.memory, "bytes"), amount(typical.peak, "bytes"))
    return table


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


def _floors(models: Mapping[str, Any]) -> "Table":
    batches = list(next(iter(models.values())))
    table = _table(
        "Floor of this machine in ms, and the median as a multiple of it", "", *(f"batch {b}" for b in batches)
    )
    for name, costs in models.items():
        table.add_row(f"{name} ONNX", *(f"{costs[b]['floor']:.3f}, {costs[b]['multiple']:.1f}×" for b in batches))
    return table


def _rewrites(rewrites: Sequence[Mapping[str, Any]]) -> "Table":
    batches = list(rewrites[0]["before"]) if rewrites else []
    table = _table("Rewrites of the graph, estimated change", "", "places", *(f"batch {b}" for b in batches), "")
    for each in rewrites:
        changes = [f"{each['after'][b] / each['before'][b] - 1:+.1%}" for b in batches]
        table.add_row(each["name"], str(each["places"]), *changes, "kept" if each["kept"] else each["reason"])
    return table


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def _ids(ranges: list[Any]) -> str:
    words = ["–" if pair is None else f"{pair[0]} to {pair[1]}" for pair in ranges]
    return "; ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _table(title: str, *columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # A pipe has no width; 80 columns would break the tables of a log.
    return console if console.is_terminal else Console(width=140)


def _print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=1))
