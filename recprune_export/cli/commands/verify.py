"""`verify`: check a bundle against its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recprune_export.cli.input_paths import BUNDLE, PUBLIC_KEY
from recprune_export.cli.latency_tables import footprint_table, open_loop_table, print_latency
from recprune_export.cli.main_group import main
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import ONNXRUNTIME, show_import
from recprune_export.cli.tables import echo, make_console, print_json, prints_after_work
from recprune_export.number_formats import format_bytes
from recprune_export.progress import show_status

if TYPE_CHECKING:
    from recprune_export.bundle._verify import Verification
    from recprune_export.validation.latency.latency_study import LatencyStudy


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--public-key", type=PUBLIC_KEY, metavar="PEM", help="Require a signature by this Ed25519 key.")
@click.option("--latency", is_flag=True, help="Measure latency, load time and memory again, on this machine.")
@click.option(
    "--latency-batch-sizes", default="1,32,256", show_default=True, help="Batch sizes for the latency measurement."
)
@click.option(
    "--thread-counts", default="1,all", show_default=True, help="Numbers of threads for the latency measurement."
)
@click.option(
    "--qps",
    type=click.FloatRange(0, min_open=True),
    help="Also measure with this many requests per second, arriving at random times.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="Largest measuring time for each batch size.",
)
@screen_options()
def verify(
    bundle: Path,
    public_key: Path | None,
    latency: bool,
    latency_batch_sizes: str,
    thread_counts: str,
    qps: float | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Verify the files and golden outputs of a bundle.

    Checksums, schema, golden outputs and the signature are checked. The bundle may be packed. Only ONNX Runtime is required.
    """
    from recprune_export.settings import parse_batch_sizes, parse_thread_counts

    sizes, counts = parse_batch_sizes(latency_batch_sizes), parse_thread_counts(thread_counts)
    with show_import(ONNXRUNTIME):
        from recprune_export.bundle._verify import verify as run
        from recprune_export.bundle.archive.unpacking import open_bundle_path

    with open_bundle_path(bundle) as folder:
        with show_status(f"Verifying {bundle}"):
            verification, study = run(folder, public_key), None
        if latency:
            from recprune_export.bundle.remeasure_latency import measure_bundle

            study = measure_bundle(folder, batches=sizes, threads=counts, qps=qps, seconds=seconds)
    print_verification(bundle, verification, study, as_json=as_json)


@prints_after_work
def print_verification(
    bundle: Path, verification: "Verification", study: "LatencyStudy | None", *, as_json: bool
) -> None:
    """Print the checks, and the measurements if there are any."""
    if as_json:
        latency = {} if study is None else {"latency_study": study.to_dict()}
        return print_json({"bundle": bundle, **verification.to_dict(), **latency})
    worst = max((output.max_absolute for output in verification.outputs), default=0.0)
    echo(
        f"{verification.name}: {verification.files} files ({format_bytes(verification.bytes)}) match the manifest; "
        f"ONNX Runtime reproduces the golden outputs of {verification.rows} rows to within {worst:.1e}. {verification.seconds:.2f} s"
    )
    signatures = {
        "valid": "The signature matches the given key.",
        "unchecked": "The bundle is signed; give --public-key to check the signature.",
    }
    if verification.signature in signatures:
        echo(signatures[verification.signature])
    if verification.raw_rows == "unchecked":
        echo("The encoding of the raw rows is not checked: polars is not installed.")
    if study is not None:
        from recprune_export.validation.latency.speedup import find_speedup

        console = make_console()
        for report in study.closed:
            print_latency(console, report)
            values = {"threads": report.threads, "clock": report.clock, "ratios": report.summarize_ratios()}
            if (speedup := find_speedup(values)) is not None:
                console.print(f"Speed:   {speedup}", highlight=False, soft_wrap=True)
            for warning in report.warnings:
                echo(f"Warning: {warning}", err=True)
        for open_loop in study.open:
            console.print(open_loop_table(open_loop))
        console.print(footprint_table(study.footprints))
