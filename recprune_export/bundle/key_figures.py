"""Key figures of a bundle in sentences, only from its manifest, for screen, report and README."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.evidence import Estimate, Verdict
from recprune_export.number_formats import format_bytes, format_estimate, format_ratio, format_share
from recprune_export.onnx.counts import Counts, Reduction, reduction
from recprune_export.validation.latency.speedup import RATIO, find_speedup


def describe_figures(manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence on the size and one on the speed, if they were measured."""
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
        f"removed, {format_share(change.zeroed.parameters)} are zero"
    )


def describe_speed(manifest: Manifest) -> str | None:
    """Return the speed-up over the dense ONNX file with its interval and conditions, then those at other batch sizes."""
    speedup = find_speedup(manifest.latency)
    if speedup is None:
        return None
    others = [
        f"{format_ratio(ratio)} at {batch}"
        for batch, ratio in read_speedups(manifest).items()
        if batch != speedup.batch
    ]
    return "; ".join([str(speedup), *([", ".join(others)] if others else [])])


def describe_quality(manifest: Manifest) -> str | None:
    """Return the change of the metric on test rows with its interval and the verdict; None without labeled rows."""
    change, quality = manifest.change, manifest.quality
    if not change:
        return None
    difference = Estimate(change["after"] - change["before"], *change["interval"])
    text = (
        f"{change['metric']} {change['before']:.4f} to {change['after']:.4f}, {format_estimate(difference)} on "
        f"{change['rows']:,} test rows"
    )
    if not quality:
        return text
    limit = f"{quality['limit']:.2g}"
    judged = {
        Verdict.HOLDS.words: f"a loss of at most {limit}",
        Verdict.FAILS.words: f"a loss of more than {limit}",
    }.get(quality["verdict"], f"inconclusive for a loss of {limit}, too few rows")
    return f"{text}: {judged}"


def read_speedups(manifest: Manifest) -> dict[int, Estimate]:
    """Return the speed-up of the pruned file over the dense ONNX file, by increasing batch size; empty without a dense file."""
    ratios = {int(batch): of[RATIO] for batch, of in manifest.latency.get("ratios", {}).items() if RATIO in of}
    return {batch: Estimate(*(of[end] for end in ("estimate", "low", "high"))) for batch, of in sorted(ratios.items())}


def read_counts(manifest: Manifest) -> tuple[Counts, Counts] | None:
    """Return the counts of the dense and of the pruned file; None if they were not counted."""
    dense, pruned = manifest.counts["dense"], manifest.counts["pruned"]
    return (Counts.from_dict(dense), Counts.from_dict(pruned)) if dense and pruned else None


def read_reduction(manifest: Manifest) -> Reduction | None:
    """Return the reduction of both files, computed from the counts, which earlier bundles also have."""
    counts = read_counts(manifest)
    return None if counts is None else reduction(*counts)
