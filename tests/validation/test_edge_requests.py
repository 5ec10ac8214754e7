from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.program import BATCH, Input, Output, Signature, sample_request
from recprune_export.program.requests.input_rules import apply_input_rules
from recprune_export.validation import make_edge_requests, make_every_id_requests
from recprune_export.validation.edge_requests import (
    make_out_of_range_requests,
    make_out_of_range_sample,
    make_refused_requests,
    repeat_rows,
)

SIGNATURE = Signature(
    (
        Input("user", "int64", (BATCH,), ((0, 9),)),
        Input("tags", "int64", (BATCH, 4), ((1, 7),)),
        Input("mixed", "float32", (BATCH, 3), ((0, 4), None, (2, 3))),
        Input("flag", "bool", (BATCH,)),
        Input("count", "int32", (BATCH, 2)),
        Input("x", "float32", (BATCH, 5)),
    ),
    (Output("click", "float32", (BATCH,)),),
)


def within(request: dict[str, np.ndarray]) -> bool:
    inside = [(request["user"] >= 0) & (request["user"] <= 9), (request["tags"] >= 1) & (request["tags"] <= 7)]
    for column, (low, high) in ((0, (0, 4)), (2, (2, 3))):
        ids = request["mixed"][:, column]
        inside.append((low <= ids) & (ids <= high) & (ids == ids.round()))
    return all(part.all() for part in inside)


def check_types(request: dict[str, np.ndarray], rows: int) -> None:
    for spec in SIGNATURE.inputs:
        assert request[spec.name].dtype == np.dtype(spec.dtype)
        assert request[spec.name].shape == tuple(rows if size == BATCH else size for size in spec.shape)


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_drawn_requests_are_valid(rows: int, seed: int) -> None:
    request = sample_request(SIGNATURE, rows, seed)
    check_types(request, rows)
    assert within(request)


def test_the_same_seed_draws_the_same() -> None:
    one, two, other = (sample_request(SIGNATURE, 9, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["x"], other["x"])


def test_edges_are_valid_and_reach_both_ends() -> None:
    edges = make_edge_requests(SIGNATURE)
    for request in edges.values():
        check_types(request, len(request["user"]))
        assert within(request)
    assert any(len(request["user"]) == 1 for request in edges.values())
    for name, low, high in (("user", 0, 9), ("tags", 1, 7)):
        assert any((request[name] == low).all() for request in edges.values())
        assert any((request[name] == high).all() for request in edges.values())
    assert {-10.0, 0.0, 10.0} <= {float(request["x"].flat[0]) for request in edges.values()}


def test_every_id_of_every_range_is_there() -> None:
    (request,) = make_every_id_requests(SIGNATURE).values()
    check_types(request, 10)
    assert within(request)
    for values, low, high in (
        (request["user"], 0, 9), (request["tags"][:, 2], 1, 7), (request["mixed"][:, 0], 0, 4), (request["mixed"][:, 2], 2, 3)
    ):  # fmt: skip
        assert set(values.tolist()) == set(range(low, high + 1))


def test_the_ids_of_a_large_table_come_in_pieces() -> None:
    large = Signature((Input("user", "int64", (BATCH,), ((0, 2500),)),), ())
    pieces = make_every_id_requests(large)
    assert [len(r["user"]) for r in pieces.values()] == [1024, 1024, 453]
    assert np.concatenate([r["user"] for r in pieces.values()]).tolist() == list(range(2501))


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_rows_are_repeated_in_order(rows: int, start: int) -> None:
    request = repeat_rows({"user": np.array([4, 5, 6])}, rows, start)
    assert request["user"].tolist() == [4, 5, 6, 4, 5, 6, 4, 5, 6, 4, 5, 6][start : start + rows]


RULED = replace(
    SIGNATURE,
    inputs=tuple(
        replace(
            i,
            bad_ids=tuple(None if pair is None else pair[0] for pair in i.ids),
            number_limit=100.0 if i.dtype == "float32" else None,
        )
        for i in SIGNATURE.inputs
    ),
)


def test_out_of_range_requests_are_valid_once_the_rules_are_applied() -> None:
    requests = make_out_of_range_requests(RULED)
    assert {label for label, request in requests.items() if not within(request)} == {"ids out of range"}
    for request in requests.values():
        read = apply_input_rules(request, RULED)
        assert within(read)
        assert all(np.isfinite(values).all() for values in read.values())
    assert np.isinf(requests["infinite numbers"]["x"]).any()
    assert {-1, 10} <= set(requests["ids out of range"]["user"].tolist())
    assert not make_out_of_range_requests(SIGNATURE)


def test_a_refused_request_has_one_id_out_of_range() -> None:
    strict = replace(SIGNATURE, inputs=(replace(SIGNATURE.inputs[0], bad_ids=("error",)), *SIGNATURE.inputs[1:]))
    assert [int(request["user"][0]) for request in make_refused_requests(strict).values()] == [-1, 10]
    assert not make_refused_requests(RULED)


def test_the_sample_has_both_kinds_and_valid_rows() -> None:
    sample = make_out_of_range_sample(RULED, sample_request(RULED, 16, seed=0))
    assert sample is not None
    bad, infinite = ~within_rows(sample["user"]), np.isinf(sample["x"]).any(axis=1)
    assert np.flatnonzero(bad).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(infinite).tolist() == [4, 5]
    assert make_out_of_range_sample(SIGNATURE, sample) is None


def within_rows(users: np.ndarray) -> np.ndarray:
    return (users >= 0) & (users <= 9)
