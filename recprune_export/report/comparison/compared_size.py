"""Section on the size of two bundles: bytes by kind, parameters and operations."""

from collections.abc import Callable

from recprune_export.bundle.key_figures import read_counts
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.onnx.counts import Counts
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO, format_bytes, format_count, format_ratio
from recprune_export.report.page import Headline, PageFigure, PageTable, Section
from recprune_export.report.plots.paired_bars import BarPair, draw_paired_bars

KINDS: dict[str, Callable[[Counts], int | None]] = {
    "embedding tables": lambda counts: counts.tables.bytes,
    "other weights": lambda counts: counts.rest.bytes,
    "graph, scales, constants": lambda counts: (
        None if counts.total.bytes is None else counts.bytes - counts.total.bytes
    ),
}
TITLE = "Bytes of model.onnx by kind"
EXPLANATION = "Weights are counted as they are stored: in fewer bits they take fewer bytes. Scales of such weights are among the last kind."


def compare_size(pair: BundlePair) -> Section | None:
    """Return bytes by kind and counts of both; None if one of them was not counted."""
    sides = [read_counts(manifest) for manifest in (pair.a, pair.b)]
    if sides[0] is None or sides[1] is None:
        return None
    a, b = sides[0][1], sides[1][1]
    bars = (
        [BarPair(kind, read(a), read(b)) for kind, read in KINDS.items()] if _knows_kinds(a) and _knows_kinds(b) else []
    )
    figures = (PageFigure(draw_paired_bars("bytes", TITLE, bars, format_bytes), TITLE),) if bars else ()
    rows = [(f"bytes of {kind}", *map(_format_bytes, (read(a), read(b)))) for kind, read in KINDS.items()]
    if not _knows_kinds(a) and not _knows_kinds(b):
        rows = []
    table = PageTable(
        "Sizes",
        ("", *SIDES),
        (
            ("bytes of model.onnx", format_bytes(a.bytes), format_bytes(b.bytes)),
            *rows,
            ("bytes of the whole bundle", *(format_bytes(sum_files(manifest)) for manifest in (pair.a, pair.b))),
            ("parameters", *(format_count(of.total.parameters) for of in (a, b))),
            ("of these not zero", *(format_count(of.total.nonzero) for of in (a, b))),
            ("multiply-adds for one row", *(of.format_operations() for of in (a, b))),
            ("nodes of the graph", *(format_count(of.nodes) for of in (a, b))),
        ),
    )
    return Section("size", "Size", (EXPLANATION,) if bars else (), figures, (table,))


def headline_size(pair: BundlePair) -> Headline | None:
    """Return the ratio of the file sizes of A and B."""
    sides = [read_counts(manifest) for manifest in (pair.a, pair.b)]
    if sides[0] is None or sides[1] is None:
        return None
    a, b = sides[0][1].bytes, sides[1][1].bytes
    word = "B is smaller" if b < a else "B is larger" if b > a else "equal sizes"
    return Headline(word, format_ratio(max(a, b) / min(a, b)), (f"A has {format_bytes(a)}, B {format_bytes(b)}.",))


def sum_files(manifest: Manifest) -> int:
    """Return the bytes of all files of a bundle together."""
    return sum(file.bytes for file in manifest.files.values())


def _knows_kinds(counts: Counts) -> bool:
    """Return whether bytes by kind were counted; earlier bundles do not have them."""
    return counts.total.bytes is not None


def _format_bytes(count: int | None) -> str:
    return TO if count is None else format_bytes(count)
