"""Valid ids, derived from the tables in which the inputs are looked up.

Where an element of a request reaches an embedding, directly or by arithmetic, the number of rows of the table bounds it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from recprune_export.program.dataflow import IdLookup, trace_dataflow
from recprune_export.program.id_arithmetic import Bounds, StepChains, find_valid_values
from recprune_export.program.signature import IdRange


def find_id_ranges(module: fx.GraphModule, example: Sequence[Tensor]) -> dict[str, tuple[IdRange | None, ...]]:
    """Return the ranges of each placeholder that holds ids, in the form of `signature.Input.ids`.

    `example` is a valid request.
    """
    origins = trace_dataflow(module, example)
    bounds: dict[int, Bounds] = {}
    for lookup in origins.lookups:
        _bound(bounds, lookup, origins.chains)
    known = {
        number: (int(low), int(high)) for number, (low, high) in bounds.items() if math.isfinite(high) and low <= high
    }
    return {name: ranges for name, numbers in origins.elements.items() if (ranges := _per_column(known, numbers))}


def _bound(bounds: dict[int, Bounds], lookup: IdLookup, chains: StepChains) -> None:
    pairs = torch.stack([lookup.origin.element.flatten(), lookup.origin.steps.flatten()])
    for number, steps in pairs.unique(dim=1).T.tolist():
        low, high = bounds.get(number, (0.0, math.inf))  # an offset does not make negative ids valid
        valid = find_valid_values(chains[steps], (0, lookup.rows - 1))
        if valid is not None:
            bounds[number] = (max(low, valid[0]), min(high, valid[1]))


def _per_column(bounds: Mapping[int, IdRange], numbers: range) -> tuple[IdRange | None, ...]:
    ranges = [bounds.get(number) for number in numbers]
    if not any(ranges):
        return ()
    return (ranges[0],) if len(set(ranges)) == 1 else tuple(ranges)
