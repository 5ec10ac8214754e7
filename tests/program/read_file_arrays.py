"""Rows of a request from the arrays that a file takes: the inverse of `to_file_arrays`."""

from collections.abc import Mapping

import numpy as np

from recprune_export.data.list_columns import to_matrix
from recprune_export.program.requests.jagged_inputs import is_packed, list_file_inputs, read_rows
from recprune_export.program.signature import Input, Signature


def read_file_arrays(signature: Signature, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays of rows from the arrays that a file takes."""
    request: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for spec in list_file_inputs(signature):
        jagged = spec.members[0].jagged
        if spec.is_rows and jagged is not None:
            totals = [sum(len(arrays[v]) for v in dict.fromkeys(_values_of(i) for i in spec.members))]
            if jagged.stacked:
                totals = [len(arrays[_values_of(i)]) for i in spec.members]
            parts = read_rows(arrays[spec.name], jagged, len(spec.members), totals)
            counts |= {i.name: count for i, count in zip(spec.members, parts, strict=True)}
    for spec in list_file_inputs(signature):
        if spec.is_rows:
            continue
        if not is_packed(spec.members[0]):
            request[spec.name] = arrays[spec.name]
            continue
        start = 0
        for member in spec.members:
            assert member.jagged is not None
            count = counts[member.jagged.present]
            request[member.name] = to_matrix(arrays[spec.name][start : start + int(count.sum())], count)
            start += int(count.sum())
    return request


def _values_of(spec: Input) -> str:
    assert spec.jagged is not None
    return spec.jagged.values
