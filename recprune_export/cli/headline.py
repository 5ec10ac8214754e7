"""The first lines of the main job's screen: size, planned bytes, speed and quality."""

from typing import TYPE_CHECKING

from recprune_export.cli.tables import echo, make_console
from recprune_export.evidence import Estimate
from recprune_export.number_formats import format_estimate

if TYPE_CHECKING:
    from recprune_export.bundle.manifest.manifest import Manifest
    from recprune_export.pipeline.compress import CompressionResult


def print_headline(result: "CompressionResult") -> None:
    """Print a line each on size, planned bytes, speed and quality, and the warnings."""
    from recprune_export.bundle.key_figures import describe_size, describe_speed
    from recprune_export.bundle.storage_summary import describe_storage

    console = make_console()
    lines = {
        "Size": describe_size(result.manifest),
        "Bytes": describe_storage(result.manifest),
        "Speed": describe_speed(result.manifest),
        "Quality": describe_quality(result.manifest),
    }
    for name, text in lines.items():
        if text is not None:
            console.print(f"{name + ':':9}{text}", highlight=False, soft_wrap=True)
    for warning in result.warnings:
        echo(f"Warning: {warning}", err=True)


def describe_quality(manifest: "Manifest") -> str | None:
    """Return the change of the metric on test rows with its interval; None without labeled rows."""
    change = manifest.change
    if not change:
        return None
    difference = Estimate(change["after"] - change["before"], *change["interval"])
    return (
        f"{change['metric']} {change['before']:.4f} to {change['after']:.4f}, {format_estimate(difference)} on "
        f"{change['rows']:,} test rows"
    )
