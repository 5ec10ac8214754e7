"""Which fields rows have: by name, in the user's units, with what is unknown."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from recprune_export.data import (
    ArraySpec,
    SchemaOverrides,
    infer_schema,
    infer_sequence_schema,
    load_arrays,
    load_clicks,
    load_sequences,
)
from recprune_export.finetuning import (
    CLICK_DEFAULTS,
    LabeledRows,
    NextItems,
    Objective,
    SampledRequests,
    make_data_profile,
    read_field_values,
)
from recprune_export.program import BATCH, Input, Signature
from recprune_export.program.capture import capture

NO_OBJECTIVE = Objective({}, {})
NOTHING = Signature((), ())


def test_encoded_rows_have_their_columns_in_the_users_units(clicks_file: Path) -> None:
    data = load_clicks(clicks_file, infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema)
    columns = {c.name: c for c in read_field_values(data, NOTHING, data.test)}
    assert set(columns) == {"user", "item", "category", "device", "tags", "age", "price", "label clicked"}
    raw = pl.read_parquet(clicks_file).filter(pl.col("split") == "test")
    np.testing.assert_allclose(columns["price"].flat, raw["price"].to_numpy(), rtol=1e-4)
    assert columns["tags"].flat.min() >= 1
    assert columns["label clicked"].flat.mean() == pytest.approx(raw["clicked"].mean())


def test_the_share_of_unknown_ids_is_that_of_rows_that_made_no_vocabulary(clicks_file: Path) -> None:
    data = load_clicks(clicks_file, infer_schema(clicks_file, SchemaOverrides(labels=("clicked",))).schema)
    profile = make_data_profile(LabeledRows(data, NO_OBJECTIVE, CLICK_DEFAULTS), NOTHING)
    assert profile is not None
    (user,) = (f for f in profile.fields if f.name == "user")
    held_out = np.concatenate([data.valid.inputs["user"], data.test.inputs["user"]])
    assert user.unknown == (held_out == 0).mean() > 0
    assert sum(user.counts) == len(held_out)
    assert profile.tested == len(data.test)


def test_columns_of_a_matrix_are_fields_where_each_has_its_ids() -> None:
    signature = Signature(
        (
            Input("x", "int64", (BATCH, 2), ((0, 9), None)),
            Input("bag", "int64", (BATCH, 3), ((0, 9),)),
            Input("dense", "float32", (BATCH,)),
        ),
        (),
    )
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(0, 9, (100, 2)), "bag": rng.integers(0, 9, (100, 3)), "dense": rng.random(100)}
    specs = [ArraySpec(i.name, i.dtype, tuple(int(s) for s in i.shape[1:]), i.ids) for i in signature.inputs]
    data = load_arrays({**arrays, "y": rng.integers(0, 2, 100)}, specs, ["y"], seed=0)
    columns = read_field_values(data, signature, data.train)
    kinds = [(c.name, c.ids) for c in columns]
    assert kinds == [("x[0]", True), ("x[1]", False), ("bag", True), ("dense", False), ("label y", False)]
    assert len(columns[2].flat) == 3 * len(data.train)


def test_histories_are_items_without_their_padding(sequences_file: Path) -> None:
    data = load_sequences(sequences_file, infer_sequence_schema(sequences_file, SchemaOverrides()))
    history, target = read_field_values(data, NOTHING, data.test)
    assert history.flat.min() >= 1
    assert len(target.flat) == len(data.test)
    profile = make_data_profile(NextItems(data, NO_OBJECTIVE, CLICK_DEFAULTS), NOTHING)
    assert profile is not None
    assert [f.name for f in profile.fields] == ["history", "next_item"]


def test_drawn_requests_have_no_profile() -> None:
    program = capture(nn.Linear(3, 1).eval(), (torch.zeros(2, 3),))
    assert make_data_profile(SampledRequests(program, NO_OBJECTIVE, CLICK_DEFAULTS), program.signature) is None
