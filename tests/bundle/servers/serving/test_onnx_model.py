"""The ends of rows have to fit the elements, in every form in which a model takes them."""

from typing import Any

import numpy as np
import pytest

from recprune_export.bundle.servers.serving.json_tensors import RequestError
from recprune_export.bundle.servers.serving.onnx_model import find_row_ends
from recprune_export.program import BATCH, Input, Signature
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.program.signature import LENGTHS, OFFSETS, OFFSETS_AND_END, Jagged

ROWS = {
    "a": np.array([[4, 7, -1], [-1, -1, -1], [5, -1, -1]]),
    "b": np.array([[1, -1], [2, 3], [4, -1]]),
}


def make_signature(form: str, *, values: str = "", stacked: bool = False, keys_last: bool = False) -> Signature:
    """Two inputs; with `values` all their elements lie in one tensor."""
    inputs = []
    for name, rows in ROWS.items():
        layout = Jagged(
            (0, 3), name, values or f"{name}_values", "ends" if stacked or values else f"{name}_ends",
            form=form, stacked=stacked, keys_last=keys_last,
        )  # fmt: skip
        inputs.append(Input(name, "int64", (BATCH, rows.shape[1]), ((0, 9),), jagged=layout))
    return Signature(tuple(inputs), ())


LAYOUTS: dict[str, Signature] = {
    **{f"{form} of each": make_signature(form) for form in (LENGTHS, OFFSETS, OFFSETS_AND_END)},
    **{f"stacked {form}": make_signature(form, stacked=True) for form in (LENGTHS, OFFSETS, OFFSETS_AND_END)},
    "stacked, keys last": make_signature(LENGTHS, stacked=True, keys_last=True),
    "one tensor of values": make_signature(LENGTHS, values="values"),
    "one tensor of values, stacked": make_signature(LENGTHS, values="values", stacked=True),
    "one tensor of values, offsets": make_signature(OFFSETS_AND_END, values="values"),
}


def check(signature: Signature, arrays: dict[str, np.ndarray]) -> None:
    found = find_row_ends(signature.to_dict()["inputs"])
    assert found
    for ends in found:
        ends.check(arrays)


@pytest.mark.parametrize("name", LAYOUTS)
def test_elements_that_fit_are_taken_and_one_too_many_or_too_few_is_refused(name: str) -> None:
    signature = LAYOUTS[name]
    arrays = to_file_arrays(signature, ROWS)
    check(signature, arrays)
    values = next(key for key in arrays if "values" in key)
    only_offsets = signature.inputs[0].jagged is not None and signature.inputs[0].jagged.form == OFFSETS
    changes: list[Any] = [arrays[values][:-1]] if only_offsets else [arrays[values][:-1], np.append(arrays[values], 1)]
    for change in changes if not only_offsets else [arrays[values][:-2]]:
        with pytest.raises(RequestError, match=f"'{values}'"):
            check(signature, {**arrays, values: change})


@pytest.mark.parametrize("ends", [[1, 2, 2], [0, 2, 1], [0, -1, 2], [0, 2, 9]])
def test_offsets_begin_at_0_and_rise_within_the_elements(ends: list[int]) -> None:
    signature = LAYOUTS[f"{OFFSETS} of each"]
    with pytest.raises(RequestError, match="'a_ends' must start at 0 and increase to at most 3"):
        check(signature, {**to_file_arrays(signature, ROWS), "a_ends": np.array(ends)})


def test_negative_lengths_are_refused() -> None:
    signature = LAYOUTS[f"{LENGTHS} of each"]
    with pytest.raises(RequestError, match="'a_ends' contains a length below 0"):
        check(signature, {**to_file_arrays(signature, ROWS), "a_ends": np.array([4, -1, 0])})
