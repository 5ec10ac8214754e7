"""The first lines that the main job prints: size, speed and quality."""

from typing import TYPE_CHECKING

from recprune_export.cli.tables import VERDICT_STYLES, echo, make_console
from recprune_export.evidence import Verdict
from recprune_export.terminal_text import escape_for_terminal

if TYPE_CHECKING:
    from recprune_export.bundle.manifest.manifest import Manifest
    from recprune_export.pipeline.compress import CompressionResult

GOOD, DOUBTFUL, BAD = "green", "yellow", "red"
NAME_WIDTH = 9


def print_headline(result: "CompressionResult") -> None:
    """Print one line each for size, planned bytes if any, speed and quality, and the warnings."""
    from recprune_export.bundle.key_figures import describe_quality, describe_size, describe_speed
    from recprune_export.bundle.storage_summary import describe_storage

    manifest = result.manifest
    for name, text, style in (
        ("Size", describe_size(manifest), _color_of_size(manifest)),
        ("Bytes", describe_storage(manifest), ""),
        ("Speed", describe_speed(manifest), _color_of_speed(manifest)),
        ("Quality", describe_quality(manifest), _color_of_quality(manifest)),
    ):
        if text is not None:
            print_line(name, text, style)
    for warning in result.warnings:
        echo(f"Warning: {warning}", err=True)


def print_line(name: str, text: str, style: str = "") -> None:
    """Print a name in color, followed by the text."""
    from rich.text import Text

    line = Text.assemble((f"{name + ':' if name else '':{NAME_WIDTH}}", f"bold {style}"), escape_for_terminal(text))
    make_console().print(line, soft_wrap=True)


def _color_of_size(manifest: "Manifest") -> str:
    from recprune_export.bundle.key_figures import read_reduction

    change = read_reduction(manifest)
    return GOOD if change is not None and change.bytes > 0 else DOUBTFUL


def _color_of_speed(manifest: "Manifest") -> str:
    """Return the color for the batch size with the smallest speed-up."""
    from recprune_export.bundle.key_figures import read_speedups

    slowest = min(read_speedups(manifest).values(), key=lambda ratio: ratio.estimate, default=None)
    if slowest is None or slowest.low <= 1.0 <= slowest.high:
        return DOUBTFUL
    return GOOD if slowest.low > 1.0 else BAD


def _color_of_quality(manifest: "Manifest") -> str:
    words = manifest.quality["verdict"] if manifest.quality else None
    return next((VERDICT_STYLES.get(verdict, GOOD) for verdict in Verdict if verdict.words == words), "")
