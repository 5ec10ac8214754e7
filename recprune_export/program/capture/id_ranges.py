"""Which ids are valid: read off the tables that the inputs look up.

Where an element of a request arrives at an embedding, the rows of the table bound the id.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, fx

from recprune_export.program.dataflow import IdLookup, trace_dataflow
from recprune_export.program.signature import IdRange

HIGHEST = 1 << 62


def find_id_ranges(module: fx.GraphModule, example: Sequence[Tensor]) -> dict[str, tuple[IdRange | None, ...]]:
    """Return for each placeholder that holds ids its ranges, as `signature.Input.ids` has them.

    `example` is a valid request.
    """
    origins = trace_dataflow(module, example)
    bounds: dict[int, IdRange] = {}
    for lookup in origins.lookups:
        _bound(bounds, lookup)
    return {name: found for name, numbers in origins.elements.items() if (found := _per_column(bounds, numbers))}


def _bound(bounds: dict[int, IdRange], lookup: IdLookup) -> None:
    element, offset = lookup.origin.element.flatten().tolist(), lookup.origin.offset.flatten().tolist()
    for number, added in zip(element, offset, strict=True):
        low, high = bounds.get(number, (-HIGHEST, HIGHEST))
        # An offset that a table's fields have below it is no licence for negative ids.
        bounds[number] = (max(low, -int(added), 0), min(high, lookup.rows - 1 - int(added)))


def _per_column(bounds: Mapping[int, IdRange], numbers: range) -> tuple[IdRange | None, ...]:
    found = [bounds.get(number) for number in numbers]
    if not any(found):
        return ()
    return (found[0],) if len(set(found)) == 1 else tuple(found)
