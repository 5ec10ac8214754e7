"""The first lines of the main job's screen: how much smaller, how much faster, and what the quality became."""

from typing import TYPE_CHECKING

from recprune_export.cli.tables import VERDICT_STYLES, echo, make_console
from recprune_export.evidence import Estimate, Verdict
from recprune_export.number_formats import format_estimate, format_ratio

if TYPE_CHECKING:
    from recprune_export.bundle.manifest.manifest import Manifest
    from recprune_export.pipeline.compress import CompressionResult

GOOD, NAME_WIDTH = "green", 9


def print_headline(result: "CompressionResult") -> None:
    """Print a line each on size, speed and quality, one on planned bytes where there are any, and the warnings."""
    from recprune_export.bundle.key_figures import describe_size
    from recprune_export.bundle.storage_summary import describe_storage

    manifest = result.manifest
    speed, speed_style = describe_speeds(manifest)
    smaller = (
        manifest.counts["pruned"]["bytes"] < manifest.counts["dense"]["bytes"] if manifest.counts["dense"] else False
    )
    for name, text, style in (
        ("Size", describe_size(manifest), GOOD if smaller else "yellow"),
        ("Bytes", describe_storage(manifest), ""),
        ("Speed", speed, speed_style),
        ("Quality", *describe_quality(manifest)),
    ):
        if text is not None:
            print_line(name, text, style)
    for warning in result.warnings:
        echo(f"Warning: {warning}", err=True)


def print_line(name: str, text: str, style: str = "") -> None:
    """Print a name in color, then the text beside it."""
    from rich.text import Text

    from recprune_export.terminal_text import escape_for_terminal

    line = Text.assemble((f"{name + ':' if name else '':{NAME_WIDTH}}", f"bold {style}"), escape_for_terminal(text))
    make_console().print(line, soft_wrap=True)


def describe_speeds(manifest: "Manifest") -> tuple[str | None, str]:
    """Return the speed-up over dense ONNX at the batch size of the headline, then at all others, and the color of the slowest.

    None without a dense file to compare with.
    """
    from recprune_export.validation.latency.speedup import RATIO, find_speedup

    speedup = find_speedup(manifest.latency)
    if speedup is None:
        return None, ""
    ratios = {
        int(batch): Estimate(*(by_name[RATIO][end] for end in ("estimate", "low", "high")))
        for batch, by_name in manifest.latency["ratios"].items()
        if RATIO in by_name
    }
    others = ", ".join(
        f"{format_ratio(ratios[batch])} at {batch}" for batch in sorted(ratios) if batch != speedup.batch
    )
    slowest = min(ratios.values(), key=lambda ratio: ratio.estimate)
    style = GOOD if slowest.low > 1.0 else "red" if slowest.high < 1.0 else "yellow"
    return f"{speedup}{f'; {others}' if others else ''}", style


def describe_quality(manifest: "Manifest") -> tuple[str | None, str]:
    """Return the change of the metric on test rows with its interval and the verdict, and the color; None without labeled rows."""
    change, quality = manifest.change, manifest.quality
    if not change:
        return None, ""
    difference = Estimate(change["after"] - change["before"], *change["interval"])
    text = (
        f"{change['metric']} {change['before']:.4f} to {change['after']:.4f}, {format_estimate(difference)} on "
        f"{change['rows']:,} test rows"
    )
    if not quality:
        return text, ""
    verdict = next(verdict for verdict in Verdict if verdict.words == quality["verdict"])
    limit = f"{quality['limit']:.2g}"
    judged = {
        Verdict.HOLDS: f"a loss of at most {limit}",
        Verdict.FAILS: f"a loss of more than {limit}",
    }.get(verdict, f"too few rows to tell whether it loses more than {limit}")
    return f"{text}: {judged}", VERDICT_STYLES.get(verdict, GOOD)
