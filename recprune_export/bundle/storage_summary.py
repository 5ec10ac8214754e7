"""The point of a plan on the curve of predicted loss over bytes, as recorded in the manifest, in figures and sentences."""

from collections import Counter
from collections.abc import Mapping

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.number_formats import format_bytes, format_share, format_significant
from recprune_export.onnx.counts import Counts
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan


def read_storage(manifest: Manifest) -> StoragePlan | None:
    """Return the bits of the weights and the chosen point; None if bits were not planned."""
    storage = manifest.plan.get("storage")
    return None if storage is None else StoragePlan.from_dict(storage)


def find_neighbors(storage: StoragePlan) -> tuple[RatePoint, ...]:
    """Return the points of the curve with the next smaller and the next larger number of bytes than the chosen one, if any."""
    fewer = [point for point in storage.curve if point.bytes < storage.point.bytes]
    more = [point for point in storage.curve if point.bytes > storage.point.bytes]
    pairs = (max(fewer, key=lambda p: p.bytes, default=None), min(more, key=lambda p: p.bytes, default=None))
    return tuple(point for point in pairs if point is not None)


def describe_storage(manifest: Manifest) -> str | None:
    """Return the bytes, the predicted loss with that of the neighbors, and the number of weights for each number of bits."""
    storage = read_storage(manifest)
    if storage is None or not manifest.counts["dense"]:
        return None
    dense, pruned = (Counts.from_dict(manifest.counts[name]).bytes for name in ("dense", "pruned"))
    return (
        f"{format_bytes(pruned)}, {format_share(pruned / dense)} of the dense file; {describe_point(storage)}; "
        f"{describe_bits(storage)}"
    )


def describe_point(storage: StoragePlan) -> str:
    """Return the limit, and the predicted loss of the point and its neighbors on the curve.

    >>> from recprune_export.stored_bits import StoredBits
    >>> curve = (RatePoint(900, 0.003), RatePoint(1_200, 0.001))
    >>> describe_point(StoragePlan(StoredBits(), 1_010, RatePoint(1_000, 0.002), 0.002, curve))
    'at most 1.01 kB; predicted loss 0.0020, 0.0030 at 900 B, 0.0010 at 1.20 kB'
    >>> describe_point(StoragePlan(StoredBits(), 1_010, RatePoint(1_000, 0.002, 85.0), 0.002))
    'at most 1.01 kB; predicted loss 0.0020; predicted time to read the weights 85 µs at batch 256'
    """
    others = "".join(f", {format_loss(p.loss)} at {format_bytes(p.bytes)}" for p in find_neighbors(storage))
    return (
        f"at most {format_bytes(storage.max_bytes)}; predicted loss {format_loss(storage.point.loss)}{others}"
        f"{_format_time(storage)}"
    )


def _format_time(storage: StoragePlan) -> str:
    time = storage.point.microseconds
    return f"; predicted time to read the weights {time:.3g} µs at batch {storage.rows}" if time else ""


def describe_bits(storage: StoragePlan) -> str:
    """Return the number of tables and of layers for each number of bits.

    >>> from recprune_export.stored_bits import StoredBits
    >>> bits = StoredBits({"user": 4, "item": 4, "day": 32}, {"mlp": 8})
    >>> describe_bits(StoragePlan(bits, 10, RatePoint(9, 0.1), 0.1))
    'bits of tables: 1 in 32, 2 in 4; of layers: 1 in 8'
    """
    kinds: dict[str, Mapping[str, int]] = {"tables": storage.bits.tables, "layers": storage.bits.layers}
    texts = [f"of {kind}: {_format_histogram(bits)}" for kind, bits in kinds.items() if bits]
    return f"bits {'; '.join(texts)}" if texts else "no weight has planned bits"


def _format_histogram(bits: Mapping[str, int]) -> str:
    counts = Counter(bits.values())
    return ", ".join(f"{counts[number]} in {number}" for number in sorted(counts, reverse=True))


def format_loss(loss: float) -> str:
    """Format a predicted loss, in units of the training loss, with two significant digits.

    >>> format_loss(0.00214), format_loss(5.2e-7), format_loss(0.0)
    ('0.0021', '5.2e-07', '0')
    """
    return f"{loss:.1e}" if 0.0 < abs(loss) < 1e-4 else format_significant(loss, 2) if loss else "0"
