"""`inspect`: the contents of a model or a bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import ROWS_OR_ARRAYS
from recprune_export.cli.main_group import main
from recprune_export.cli.options import infer_rules_option, loading_options, outputs_option, reading_options
from recprune_export.cli.parse_values import parse_json_object, parse_names
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import ONNXRUNTIME, PYTORCH, show_import
from recprune_export.cli.tables import make_console, make_table, print_json, print_notes, rewrite_table
from recprune_export.installation import require_whole_tool
from recprune_export.number_formats import format_bytes, format_significant
from recprune_export.program.loading.model_kind import is_artifact
from recprune_export.progress import show_status

if TYPE_CHECKING:
    from recprune_export.bundle.artifact_summary import ArtifactInspection
    from recprune_export.evidence import Estimate
    from recprune_export.inspection import FieldRemovability, Inspection
    from recprune_export.pruning.importance.sensitivity import Sensitivity


@main.command()
@loading_options
@click.option(
    "--latency-batch-sizes",
    default="1,32,256,1024",
    show_default=True,
    help="For a bundle: batch sizes for which costs are estimated.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="For a bundle: threads of ONNX Runtime."
)
@click.option(
    "--scores", is_flag=True, help="Also rank the channels of each group by every score and compare the rankings."
)
@click.option(
    "--data",
    type=ROWS_OR_ARRAYS,
    help="For --scores: rows, a file, a folder, a glob or an address.  [default: random requests]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="COLUMN",
    help="Label column. May be repeated. Not needed for checkpoints of `train`.",
)
@reading_options
@outputs_option
@infer_rules_option
@click.option("--fields", is_flag=True, help="Also list the fields that can be removed.")
@screen_options()
def inspect(
    model: Path,
    latency_batch_sizes: str,
    threads: int,
    scores: bool,
    data: Path | None,
    labels: tuple[str, ...],
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    outputs: str,
    infer_rules: bool,
    fields: bool,
    as_json: bool,
    factory_args: str | None,
    **source: Any,
) -> None:
    """Show inputs, parameters, channel groups and frozen axes.

    Frozen axes are listed with the reasons. For a bundle or an .onnx file: parameters, operations and bytes per request, and
    the least possible time on this machine.
    """
    if not scores and data:
        raise click.UsageError("--data is used only with --scores: give --scores as well.")
    with show_status(f"Reading {model}"):
        from recprune_export.bundle.archive.unpacking import is_packed, open_bundle_path

        is_exported = is_artifact(model) or is_packed(model)
    if is_exported:
        if scores:
            raise click.UsageError("--scores requires the dense model from which the bundle was made.")
        from recprune_export.settings import parse_batch_sizes

        batches = parse_batch_sizes(latency_batch_sizes)
        with show_import(ONNXRUNTIME):
            from recprune_export.bundle.artifact_summary import inspect_artifact

        with open_bundle_path(model) as folder, show_status(f"Reading {model}"):
            artifact = inspect_artifact(folder, batches, threads)
        return print_artifact(artifact, as_json=as_json)
    require_whole_tool("inspect of a model that is neither a bundle nor an .onnx file")
    with show_import(PYTORCH):
        from recprune_export.inspection import inspect_file

    source["factory_args"] = parse_json_object(factory_args)
    inspection = inspect_file(model, fields=fields, outputs=parse_names(outputs), infer_rules=infer_rules, **source)
    if not scores:
        return print_inspection(inspection, as_json=as_json)
    from recprune_export.api import compute_sensitivity
    from recprune_export.settings import Settings

    settings = Settings(
        separator=separator,
        encoding=encoding,
        allow_unknown=allow_unknown,
        outputs=parse_names(outputs),
        infer_rules=infer_rules,
    )
    sensitivity = compute_sensitivity(model, data=data, labels=labels, settings=settings, source=source)
    print_scores(inspection, sensitivity, as_json=as_json)


def print_artifact(inspection: "ArtifactInspection", *, as_json: bool) -> None:
    """Print the parameters of a bundle or an ONNX file, and the cost of a request."""
    if as_json:
        return print_json(inspection.to_dict())
    console, counts, machine = make_console(), inspection.counts, inspection.machine
    console.print(
        f"{inspection.name}: {counts.tables.parameters:,} parameters in tables, {counts.rest.parameters:,} in the rest, "
        f"{counts.total.nonzero:,} of them nonzero; {counts.nodes} nodes, {_count_running(inspection)} of them run for each "
        f"request; {format_bytes(counts.bytes)}",
        highlight=False,
    )
    table = make_table(
        "Cost of a request",
        "batch",
        "multiply-adds",
        "read: weights and rows",
        "request and response",
        "floor",
        "measured for the bundle",
    )
    for batch, cost in inspection.costs.items():
        measured = inspection.measured.get(batch)
        table.add_row(
            str(batch),
            cost.format_operations(),
            format_bytes(cost.weights),
            format_bytes(cost.interface),
            f"{format_significant(cost.floor * 1e3)} ms",
            "" if measured is None else _format_measured(measured),
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
        console.print(rewrite_table(inspection.rewrites))


def _format_measured(median: "Estimate") -> str:
    interval = f" [{median.low:.3f}, {median.high:.3f}]" if median.low < median.high else ""
    return f"{median.estimate:.3f} ms{interval}"


def _count_running(inspection: "ArtifactInspection") -> int:
    return sum(node.runs for node in next(iter(inspection.costs.values())).nodes)


def print_inspection(inspection: "Inspection", *, as_json: bool) -> None:
    """Print inputs, parameters, groups and frozen axes."""
    if as_json:
        return print_json(inspection.to_dict())
    from recprune_export.channels.group_labels import join_names, name_layer
    from recprune_export.cli.plan_tables import make_frozen_table

    console = make_console()
    signature = inspection.signature
    tensors = make_table(
        f"{inspection.name}: {inspection.kind}",
        "",
        "name",
        "dtype",
        "shape",
        "ids",
        texts=("name", "dtype", "shape", "ids"),
    )
    for kind, tensor in [("input", t) for t in signature.to_dict()["inputs"]] + [
        ("output", t) for t in signature.to_dict()["outputs"]
    ]:
        shape = " × ".join(str(size) for size in tensor["shape"])
        tensors.add_row(kind, tensor["name"], tensor["dtype"], shape, _format_ids(tensor.get("ids", [])))
    console.print(tensors)
    print_notes(inspection.notes)
    sizes = inspection.sizes
    console.print(
        f"Parameters: {sizes.tables:,} in tables, {sizes.rest:,} in the rest. {inspection.summary}",
        highlight=False,
    )
    groups = make_table("Channel groups", "group", "kind", "width", "layers", texts=("kind", "layers"))
    for group in inspection.groups:
        layers = join_names(name_layer(tensor) for tensor, _ in group.axes())
        groups.add_row(group.label, group.kind, str(group.width), layers)
    console.print(groups)
    if inspection.fields is not None:
        fields = make_table("Fields", "field", "parameters", "", texts=("",))
        for finding in inspection.fields:
            fields.add_row(finding.name, *_format_removability(finding))
        console.print(fields)
    if inspection.frozen:
        console.print(make_frozen_table(inspection.frozen))


def _format_removability(field: "FieldRemovability") -> tuple[str, str]:
    """Return the number of parameters removed with a field, and whether it can be removed."""
    if field.frozen is None:
        return f"{field.parameters:,}", "can be removed"
    return "", f"kept: {field.frozen.text}" + (f" ({field.frozen.source})" if field.frozen.source else "")


def _format_ids(ranges: list[Any]) -> str:
    words = ["–" if pair is None else f"{pair[0]} to {pair[1]}" for pair in ranges]
    return "; ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def print_scores(inspection: "Inspection", sensitivities: "Sensitivity", *, as_json: bool) -> None:
    """Print the inspection, the ranking of each group by every score, and the predicted loss at smaller widths."""
    from recprune_export.pruning.importance.sensitivity import SHARES

    if as_json:
        return print_json({**inspection.to_dict(), "sensitivity": sensitivities.to_dict()})
    print_inspection(inspection, as_json=False)
    console = make_console()
    losses = make_table(
        "Loss predicted by output error, as a fraction of the loss without the group",
        *("group", "width", "without it", *(f"1/{share} kept" for share in SHARES), "rotated"),
    )
    for group in sensitivities.groups:
        cells = [f"{group.relative_loss(share):.2%} ({group.width_at(share)})" for share in SHARES]
        losses.add_row(
            group.label, str(group.width), f"{group.losses[0]:.2e}", *cells, "yes" if group.rotated else "no"
        )
    console.print(losses)
    names = list(sensitivities.groups[0].quantiles)
    for group in sensitivities.groups:
        table = make_table(
            f"{group.label}, {group.width} channels", "score", "from best to worst", "median", "last tenth", ""
        )
        for name, quantiles in group.quantiles.items():
            rho = group.agreement.get((name, names[0]))
            agrees = "" if rho is None else f"agrees with {names[0]} {rho:+.2f}"
            cells = [f"{quantiles[len(quantiles) // 2]:.1%}", f"{quantiles[round(0.9 * (len(quantiles) - 1))]:.1%}"]
            table.add_row(name, _sketch(quantiles), *cells, agrees)
        console.print(table)
    agreement = make_table(
        "Rank agreement of scores (Spearman), mean over groups", "", *(name.replace("-", "-\n") for name in names)
    )
    for one in names:
        correlations = [sensitivities.agreement(one, other) for other in names]
        agreement.add_row(one, *("" if rho is None else f"{rho:+.2f}" for rho in correlations))
    console.print(agreement)


def _sketch(values: Sequence[float]) -> str:
    """Return bars for fractions of 1.

    >>> _sketch([1.0, 0.5, 0.0])
    '█▅▁'
    """
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[round(value * (len(bars) - 1))] for value in values)
