"""Valid ids, derived from the tables in which the inputs are looked up.

Where an element of a request reaches an embedding, the number of rows of the table bounds the id.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, fx

from recprune_export.program.dataflow import IdLookup, trace_dataflow
from recprune_export.program.signature import IdRange


def find_id_ranges(module: fx.GraphModule, example: Sequence[Tensor]) -> dict[str, tuple[IdRange | None, ...]]:
    """Return the ranges of each placeholder that holds ids, in the form of `signature.Input.ids`.

    `example` is a valid request.
    """
    origins = trace_dataflow(module, example)
    bounds: dict[int, IdRange] = {}
    for lookup in origins.lookups:
        _bound(bounds, lookup)
    return {name: ranges for name, numbers in origins.elements.items() if (ranges := _per_column(bounds, numbers))}


def _bound(bounds: dict[int, IdRange], lookup: IdLookup) -> None:
    highest = 1 << 62  # above any number of rows
    element, offset = lookup.origin.element.flatten().tolist(), lookup.origin.offset.flatten().tolist()
    for number, added in zip(element, offset, strict=True):
        low, high = bounds.get(number, (-highest, highest))
        # An offset of fields that share a table does not make negative ids valid.
        bounds[number] = (max(low, -int(added), 0), min(high, lookup.rows - 1 - int(added)))


def _per_column(bounds: Mapping[int, IdRange], numbers: range) -> tuple[IdRange | None, ...]:
    ranges = [bounds.get(number) for number in numbers]
    if not any(ranges):
        return ()
    return (ranges[0],) if len(set(ranges)) == 1 else tuple(ranges)
