"""Whole fields: masked equals pruned for any set that can go, and the inputs of those that went are ignored."""

import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError, UsageError
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program import Program, sample_request, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import (
    FieldPlan,
    Float64Interpreter,
    ParameterCounter,
    apply_plan,
    check_soundness,
    field_channels,
    remove_fields,
    select_fields,
    with_fields,
)
from recprune_export.pruning.apply import make_mask
from recprune_export.pruning.fields.field_selection import explain_field_refusal, make_field_plan
from tests.properties import no_zeros
from tests.pruning.models import scorer
from tests.recommenders.test_recommenders import make, spec_of

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2, 3]])
NUMBERS = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


class Tables(nn.Module):
    """Four columns of one matrix of ids, a table each."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9 + i, 6) for i in range(4))
        self.last = nn.Sequential(nn.Linear(inputs, 5), nn.ReLU(), nn.Linear(5, 1))

    def vectors(self, ids: Tensor) -> list[Tensor]:
        return [table(ids[:, column]) for column, table in enumerate(self.tables)]


class PairsAndNumbers(Tables):
    """A DLRM: dot products of all pairs, among them with the dense part."""

    def __init__(self) -> None:
        super().__init__(6 + 10)
        self.dense = nn.Linear(2, 6)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        dense = torch.relu(self.dense(numbers))
        fields = torch.stack([dense, *self.vectors(ids)], 1)
        rows, columns = torch.tril_indices(5, 5, -1)
        return self.last(torch.cat([dense, (fields @ fields.transpose(1, 2))[:, rows, columns]], 1))  # type: ignore[no-any-return]


class ProductsOfPairs(Tables):
    """A PNN: each pair is picked by two lists, and a pair goes with either of its fields."""

    def __init__(self) -> None:
        super().__init__(24 + 6 + 2)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        fields = torch.stack(self.vectors(ids), 1)
        left, right = zip(*itertools.combinations(range(4), 2), strict=True)
        products = (fields[:, list(left)] * fields[:, list(right)]).sum(2)
        return self.last(torch.cat([fields.flatten(1), products, numbers], 1))  # type: ignore[no-any-return]


class OuterProducts(Tables):
    """An xDeepFM: a convolution over all pairs of fields, and a cross layer with a residual."""

    def __init__(self) -> None:
        super().__init__(24 + 3)
        self.pairs, self.cross = nn.Conv1d(16, 3, 1), nn.Linear(24, 24)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        fields = torch.stack(self.vectors(ids), 1)
        pairs = (fields.unsqueeze(2) * fields.unsqueeze(1)).flatten(1, 2)
        flat = fields.flatten(1)
        crossed = flat * self.cross(flat) + flat
        return self.last(torch.cat([crossed, self.pairs(pairs).sum(2)], 1)) + numbers.sum(1, keepdim=True)  # type: ignore[no-any-return]


class SumsOfGated(nn.Module):
    """One table with offsets; gates by field, statistics over all of them, a mean over fields, a chain of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(44, 6)
        self.register_buffer("offsets", torch.tensor([0, 9, 19, 30]))
        self.gates, self.norm = nn.Linear(24, 4), nn.LayerNorm(24)
        self.last = nn.Linear(12, 1)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        fields = self.table(ids + self.offsets)
        gates = torch.sigmoid(self.gates(self.norm(fields.flatten(1))))
        first, *others = (gates[:, i : i + 1] * fields[:, i] for i in range(4))
        total = first
        for other in others:
            total = total + other
        return self.last(torch.cat([fields.mean(1), total], 1)) + numbers.sum(1, keepdim=True)  # type: ignore[no-any-return]


def _reference(name: str) -> Program:
    return capture(make(name), (spec_of(name).example_request(),))


def _field_names(program: Program) -> list[str]:
    analysis = with_fields(program).analysis
    return [f.name for g in analysis.groups if g.kind == "field" for channel in g.channels for f in channel.fields]


def _draw(program: Program, rows: int, seed: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in sample_request(program.signature, rows, seed).items()}


def _otherwise(program: Program, request: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The same request with other ids in some fields."""
    fields = with_fields(program).analysis.fields
    assert fields is not None
    changed, drawn = {name: value.clone() for name, value in request.items()}, _draw(program, 7, seed=9)
    for field in (f for f in fields.ordered if f.name in names):
        columns = slice(None) if field.columns is None else list(field.columns)
        changed[field.input].reshape(7, -1)[:, columns] = drawn[field.input].reshape(7, -1)[:, columns]
    return changed


def _check_removal(program: Program, names: Sequence[str]) -> Program | None:
    """Assert that a set of fields goes soundly, or is refused; return what is left."""
    program = with_fields(program, names)
    analysis = program.analysis
    if explain_field_refusal(analysis, names) is not None:
        return None
    plan = make_field_plan(analysis, names)
    pruned = apply_plan(program, plan)
    soundness = check_soundness(program, plan, pruned)
    assert soundness.error <= soundness.tolerance
    expected = ParameterCounter(program).sizes(plan.removed(analysis))
    assert sum(p.numel() for p in pruned.parameters().values()) == expected.tables + expected.rest
    request = _draw(program, 7, seed=1)
    other = _otherwise(program, request, names)
    assert any(not torch.equal(request[name], other[name]) for name in request)
    with torch.no_grad():
        assert all(torch.equal(answer, pruned(other)[name]) for name, answer in pruned(request).items())
    return pruned


def _check_that_what_goes_whole_is_zero(program: Program) -> None:
    analysis = with_fields(program).analysis
    request = sample_request_tensors(program.signature, batch=3)
    for channel in field_channels(analysis):
        original = Float64Interpreter(program, make_mask(analysis, frozenset((channel.identity,))), keep_values=True)
        original(*request)
        gone = {name for name, channels in analysis.removed_entirely_by.items() if channel.identity in channels}
        assert gone
        assert not any(bool(original.values[name].any()) for name in gone if name in original.values)


@pytest.mark.parametrize(
    ("program", "most"),
    [
        pytest.param(lambda: _reference("deepfm"), 4, id="deepfm"),
        pytest.param(lambda: _reference("dlrm"), 4, id="dlrm"),
        pytest.param(lambda: capture(no_zeros(PairsAndNumbers()), (IDS, NUMBERS)), 4, id="pairs and numbers"),
        pytest.param(lambda: capture(no_zeros(ProductsOfPairs()), (IDS, NUMBERS)), 2, id="products of pairs"),
        pytest.param(lambda: capture(no_zeros(OuterProducts()), (IDS, NUMBERS)), 3, id="outer products"),
        pytest.param(lambda: capture(no_zeros(SumsOfGated()), (IDS, NUMBERS)), 3, id="sums of gated"),
    ],
)
def test_any_set_of_fields_goes_soundly(program, most: int) -> None:  # type: ignore[no-untyped-def]
    captured = program()
    names = _field_names(captured)
    assert len(names) >= 4
    _check_that_what_goes_whole_is_zero(captured)
    dense = sum(p.numel() for p in captured.parameters().values())
    rng = random.Random(0)
    for size in range(1, most + 1):
        for chosen in [rng.sample(names, size) for _ in range(2)]:
            pruned = _check_removal(captured, chosen)
            assert pruned is not None, f"{chosen} could not go"
            assert sum(p.numel() for p in pruned.parameters().values()) < dense


def test_a_table_that_others_use_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(9, 4), nn.Linear(8, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.last(torch.cat([self.table(a), self.table(b)], 1))  # type: ignore[no-any-return]

    program = capture(no_zeros(Shared()), (IDS[:, 0], IDS[:, 1]))
    pruned = _check_removal(program, ["a"])
    assert pruned is not None
    assert {name: tuple(p.shape) for name, p in pruned.parameters().items()} == {
        "table.weight": (9, 4), "last.weight": (1, 4), "last.bias": (1,),
    }  # fmt: skip


def test_the_input_stays_in_the_onnx_signature_and_is_ignored(tmp_path: Path) -> None:
    program = _reference("dlrm")
    names = _field_names(program)[:2]
    pruned = remove_fields(program, FieldPlan(tuple(names))).program
    assert [i.name for i in pruned.signature.inputs] == [i.name for i in program.signature.inputs]
    file = export_onnx(pruned, tmp_path / "model.onnx")
    session = make_session(file.path, 1)
    assert {i.name for i in session.get_inputs()} == {i.name for i in program.signature.inputs}
    request = _draw(program, 7, seed=1)
    others = _otherwise(program, request, names)
    plain, changed = (run(session, {name: t.numpy() for name, t in r.items()}) for r in (request, others))
    for name, answer in plain.items():
        assert np.array_equal(answer, changed[name])


def test_the_field_that_the_loss_needs_least_goes_first() -> None:
    module = PairsAndNumbers()
    with torch.no_grad():
        module.tables[1].weight.mul_(1e-6)
    program = capture(module.eval(), (IDS, NUMBERS))
    requests = [_draw(program, 64, seed) for seed in range(2)]
    with torch.no_grad():
        batches = [(request, program(request)) for request in requests]

    def distance(response: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([(response[name] - wanted[name]).square().mean() for name in wanted]).sum()

    fields = select_fields(program, 1, batches, distance)
    assert fields.removed == ("ids[1]",)
    assert set(fields.importance) == {f"ids[{i}]" for i in range(4)}
    assert min(fields.importance, key=lambda name: fields.importance[name]) == "ids[1]"


def test_what_cannot_go_is_refused_in_a_sentence() -> None:
    program = scorer()
    with pytest.raises(PruningError, match=r"it has no field 'price', only item, user"):
        remove_fields(program, FieldPlan(("price",)))
    with pytest.raises(
        PruningError, match=r"user, item cannot be removed from this model: aten.linear of zeros is not zero"
    ):
        remove_fields(program, FieldPlan(("user", "item")))
    request = _draw(program, 8, seed=0)
    with pytest.raises(UsageError, match=r"--prune-fields 2 is more than possible: of the 2 fields of this model, 1"):
        select_fields(program, 2, [(request, {})], lambda response, _: next(iter(response.values())).square().mean())
    assert remove_fields(program, FieldPlan()).program is program
