"""Key figures of a bundle in sentences, from its manifest alone: screen, report and README print these."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.number_formats import format_bytes, format_share
from recprune_export.onnx.counts import Counts, Reduction, reduction
from recprune_export.validation.latency.speedup import find_speedup


def describe_figures(manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence on the size and one on the speed; none on what was not measured."""
    return tuple(text for text in (describe_size(manifest), describe_speed(manifest)) if text is not None)


def describe_size(manifest: Manifest) -> str | None:
    """Return the bytes of both files, and the removed and the zeroed fraction of the parameters."""
    counts, change = read_counts(manifest), read_reduction(manifest)
    if counts is None or change is None:
        return None
    sizes = " to ".join(format_bytes(of.bytes) for of in counts)
    word = "smaller" if change.bytes >= 0 else "larger"
    return (
        f"{sizes}, {format_share(abs(change.bytes))} {word}: {format_share(change.removed.parameters)} of the parameters are "
        f"removed, and {format_share(change.zeroed.parameters)} are in the file, but zero"
    )


def describe_speed(manifest: Manifest) -> str | None:
    """Return the speed-up over the dense ONNX file with its interval and conditions."""
    speedup = find_speedup(manifest.latency)
    return None if speedup is None else str(speedup)


def read_counts(manifest: Manifest) -> tuple[Counts, Counts] | None:
    """Return the counts of the dense and of the pruned file; None if they were not counted."""
    dense, pruned = manifest.counts["dense"], manifest.counts["pruned"]
    return (Counts.from_dict(dense), Counts.from_dict(pruned)) if dense and pruned else None


def read_reduction(manifest: Manifest) -> Reduction | None:
    """Return the reduction of both files, computed from the counts, which earlier bundles have as well."""
    counts = read_counts(manifest)
    return None if counts is None else reduction(*counts)
