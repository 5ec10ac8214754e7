"""Section on the bytes of the file: the curve of predicted loss over bytes, the chosen point, and the bits of each weight."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.bundle.storage_summary import format_loss, read_storage
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.report.numbers import format_bytes, format_percent
from recprune_export.report.page import PageFigure, PageTable, Section, name_markup
from recprune_export.report.plots.loss_curve import draw_loss_curve

MAX_ROWS = 40
TITLE = "Predicted loss over bytes"
EXPLANATION = (
    "Dimensions, widths and bits were chosen together to minimize the predicted loss within the byte limit. It is in units "
    "of the training loss. Each point is the best plan of its size; neighboring points show the cost of "
    "one step more or less. The diamond is this bundle."
)


def storage_section(manifest: Manifest) -> Section | None:
    """Return the curve, the points on it, and the bits of tables and layers; None where bits were not planned."""
    storage = read_storage(manifest)
    if storage is None:
        return None
    points = sorted([*storage.curve, storage.point], key=lambda point: point.bytes)
    figure = PageFigure(
        draw_loss_curve(
            "loss-curve",
            TITLE,
            [(point.bytes, point.loss) for point in points],
            (storage.point.bytes, storage.point.loss),
            across="kB of the ONNX file",
            up="predicted loss",
        ),
        TITLE,
        PageTable(
            "The best plans near this plan",
            ("file", "of this bundle's bytes", "predicted loss", "predicted µs"),
            tuple(_describe_point(point, storage.point) for point in points),
        ),
    )
    after = (
        f"The limit was {format_bytes(storage.max_bytes)}. The least predicted loss of any plan of this size is estimated at "
        f"{format_loss(storage.least_loss_estimate)}from the dual problem; this is not a lower bound.",
        f"The predicted µs are the times of the lookups and matrix products of a request of {storage.rows} rows, on the machine of "
        "the cost constants: they compare plans and exclude the time that all plans share.",
    )
    return Section("storage", "Bytes and bits", (EXPLANATION,), (figure,), (_make_bits_table(storage),), after=after)


def _describe_point(point: RatePoint, chosen: RatePoint) -> tuple[str, str, str, str]:
    mark = " (this bundle)" if point == chosen else ""
    time = f"{point.microseconds:.3g}" if point.microseconds else "–"
    return format_bytes(point.bytes) + mark, format_percent(point.bytes / chosen.bytes), format_loss(point.loss), time


def _make_bits_table(storage: StoragePlan) -> PageTable:
    weights = [
        *((name, "table", bits) for name, bits in storage.bits.tables.items()),
        *((name, "layer", bits) for name, bits in storage.bits.layers.items()),
    ]
    more = "" if len(weights) <= MAX_ROWS else f", the first {MAX_ROWS} of {len(weights):,}; all are in plan.json"
    rows = tuple((name_markup(name), kind, str(bits)) for name, kind, bits in weights[:MAX_ROWS])
    return PageTable(f"Planned bits of each weight{more}", ("weight", "kind", "bits"), rows, frozenset({0, 1}))
