"""Apply to arrays the rules of an exported graph for ids out of range and for large numbers, which the graph applies to its inputs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recprune_export.data.list_columns import ABSENT
from recprune_export.program.requests.random_requests import RequestArrays
from recprune_export.program.signature import ERROR, BadId, Input, Signature


def with_bad_ids(signature: Signature, rule: str, unknown: Mapping[str, int] | None = None) -> Signature:
    """Return the signature in which `rule`, "unknown" or "error", decides about ids out of range.

    With "unknown", such an id becomes the id in `unknown` for the input, or else the one in the signature, or else the lowest valid id of
    its range.

    >>> user = Input("user", "int64", ("batch",), ((0, 9),))
    >>> with_bad_ids(Signature((user,), ()), "unknown").inputs[0].bad_ids
    (0,)
    """
    inputs = tuple(
        replace(i, bad_ids=_choose_bad_ids(i, rule, (unknown or {}).get(i.name))) if i.ids else i
        for i in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _choose_bad_ids(spec: Input, rule: str, unknown: int | None) -> tuple[BadId, ...]:
    if rule == ERROR:
        return tuple(None if pair is None else ERROR for pair in spec.ids)
    before = spec.bad_ids or (None,) * len(spec.ids)
    chosen: list[BadId] = []
    for pair, earlier in zip(spec.ids, before, strict=True):
        candidates = (unknown, earlier)
        named = [c for c in candidates if isinstance(c, int) and pair is not None and pair[0] <= c <= pair[1]]
        chosen.append(None if pair is None else named[0] if named else pair[0])
    return tuple(chosen)


def apply_input_rules(request: Mapping[str, np.ndarray], signature: Signature) -> RequestArrays:
    """Return `request` as the exported graph reads it: ids out of range replaced, large numbers clipped.

    Ids that the graph refuses and absent elements of jagged inputs are not changed.

    >>> user = Input("user", "int64", ("batch",), ((0, 9),), bad_ids=(0,))
    >>> apply_input_rules({"user": np.array([-1, 5, 10])}, Signature((user,), ()))["user"].tolist()
    [0, 5, 0]
    """
    return {**request, **{i.name: _apply_to_input(i, request[i.name]) for i in signature.inputs}}


def find_bad_ids(spec: Input, values: np.ndarray) -> np.ndarray:
    """Return where `values` holds an id outside its range, as booleans of the same shape; NaN counts as outside, absent elements do
    not."""
    outside = np.zeros(values.shape, dtype=bool)
    by_column = outside.reshape(*values.shape[:-1], -1) if len(spec.ids) > 1 else outside[..., None]
    numbers = values if len(spec.ids) > 1 else values[..., None]
    for column, pair in enumerate(spec.ids):
        if pair is not None:
            ids = numbers[..., column]
            by_column[..., column] = ~((ids >= pair[0]) & (ids <= pair[1]))
    return outside if spec.jagged is None else outside & (values != ABSENT)


def _apply_to_input(spec: Input, values: np.ndarray) -> np.ndarray:
    result = values
    if spec.number_limit is not None:
        result = np.clip(result, -spec.number_limit, spec.number_limit).astype(values.dtype)
    replaced = [bad if isinstance(bad, int) else None for bad in spec.bad_ids]
    if any(bad is not None for bad in replaced):
        outside = find_bad_ids(spec, result)
        fill = np.array([0 if bad is None else bad for bad in replaced]).astype(values.dtype)
        allowed = np.array([bad is not None for bad in replaced])
        result = np.where(outside & allowed, fill, result).astype(values.dtype)
    return result
