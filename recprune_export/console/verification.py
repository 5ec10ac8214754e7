"""What `verify` says."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from recprune_export.console.latency import footprint_table, open_loop_table, print_latency
from recprune_export.console.tables import make_console, print_json

if TYPE_CHECKING:
    from recprune_export.bundle.verify import Verification
    from recprune_export.validation.latency.latency_study import LatencyStudy


def print_verification(verification: "Verification", study: "LatencyStudy | None", *, as_json: bool) -> None:
    """Say what was checked, and what was measured."""
    if as_json:
        measured = {} if study is None else {"latency": study.to_dict()}
        return print_json({**asdict(verification), **measured})
    worst = max((output.max_absolute for output in verification.outputs), default=0.0)
    click.echo(
        f"{verification.name}: {verification.files} files ({verification.bytes:,} bytes) as the manifest says; "
        f"ONNX Runtime gives the golden outputs of {verification.rows} rows to {worst:.1e}. {verification.seconds:.2f} s"
    )
    said = {"valid": "Signed by the given key.", "unchecked": "It is signed; give --public-key to check by whom."}
    if verification.signature in said:
        click.echo(said[verification.signature])
    if study is not None:
        console = make_console()
        for report in study.closed:
            print_latency(console, report)
        for served in study.open:
            console.print(open_loop_table(served))
        console.print(footprint_table(study.footprints))
