"""Small models, each with one thing that misleads an analysis that guesses."""

import math

import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import analyze
from recprune_export.program import sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import GroupPlan, Plan, apply_plan
from tests.properties import check_any_plan, group_of, no_zeros, prunable, reasons

IDS = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


class Fields(nn.Module):
    """Three tables of one width, and an MLP over whatever `forward` makes of them."""

    def __init__(self, width: int = 6, inputs: int = 18) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10, width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 1))

    def vectors(self, ids: Tensor) -> list[Tensor]:
        return [table(ids[:, i]) for i, table in enumerate(self.tables)]


TABLES = {(f"tables.{i}.weight", 1) for i in range(3)}


def test_pairs_before_the_dense_part_of_a_dlrm() -> None:
    class PairsFirst(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=3 + 18 + 5)
            self.dense = nn.Linear(2, 5)

        def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
            stacked = torch.stack(self.vectors(ids), 1)
            dots = stacked @ stacked.transpose(1, 2)
            rows, columns = torch.triu_indices(3, 3, 1)
            parts = [dots[:, rows, columns], stacked.flatten(1), torch.relu(self.dense(numbers))]
            return self.mlp(torch.cat(parts, 1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(PairsFirst(), IDS, torch.randn(3, 2))
    assert TABLES | {("dense.weight", 0), ("mlp.0.weight", 1)} <= prunable(analysis)


def test_a_tensor_concatenated_with_itself() -> None:
    class Twice(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=12)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tables[0](ids[:, 0])
            return self.mlp(torch.cat([x, x], 1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Twice(), IDS)
    (group,) = [g for g in analysis.groups if g.kind == "embedding"]
    assert group.width == 6
    assert all(sum(s.tensor == "mlp.0.weight" for s in c.slices) == 2 for c in group.channels)


@pytest.mark.parametrize("how", ["view", "reshape", "flatten", "view with -1"])
def test_stacked_tables_keep_widths_of_their_own(how: str) -> None:
    class Stacked(Fields):
        def forward(self, ids: Tensor) -> Tensor:
            stacked = torch.stack(self.vectors(ids), 1)
            flat = {
                "view": lambda: stacked.view(len(ids), 18),
                "reshape": lambda: stacked.reshape(-1, 18),
                "flatten": lambda: stacked.flatten(1),
                "view with -1": lambda: stacked.view(stacked.shape[0], -1),
            }[how]()
            return self.mlp(flat)  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Stacked(), IDS)
    embeddings = [g for g in analysis.groups if g.kind == "embedding"]
    assert [g.width for g in embeddings] == [6, 6, 6]


def test_a_view_that_splits_what_was_concatenated() -> None:
    class Split(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=6)

        def forward(self, ids: Tensor) -> Tensor:
            return self.mlp(torch.cat(self.vectors(ids), 1).view(len(ids), -1, 6).sum(1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Split(), IDS)
    assert group_of(analysis, "tables.0.weight", 1) >= TABLES


def test_a_table_of_two_fields_of_which_one_goes_through_a_sigmoid() -> None:
    class Shared(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=13)

        def forward(self, ids: Tensor) -> Tensor:
            plain, squashed = self.tables[0](ids[:, 0]), torch.sigmoid(self.tables[0](ids[:, 1]))
            score = (plain * squashed).sum(1, keepdim=True)
            return self.mlp(torch.cat([plain, squashed, score], 1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Shared(), IDS)
    assert ("tables.0.weight", 1) in prunable(analysis)


def test_a_sum_over_a_sigmoid_counts_what_was_masked() -> None:
    class Summed(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.mlp(torch.sigmoid(self.tables[0](ids[:, 0])).sum(1, keepdim=True))  # type: ignore[no-any-return]

    check_any_plan(Summed(), IDS)


def test_widths_that_are_the_same_number_by_accident() -> None:
    class Sixteen(nn.Module):
        """16 rows, 16 fields, 16 dimensions, 16 hidden units."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.wide = nn.Embedding(16, 16), nn.Linear(16, 16)
            self.last = nn.Linear(16 * 16, 1)

        def forward(self, ids: Tensor) -> Tensor:
            hidden = torch.relu(self.wide(self.table(ids)))
            return self.last(hidden.view(len(ids), 16 * 16))  # type: ignore[no-any-return]

    program, analysis = check_any_plan(Sixteen(), torch.arange(256).reshape(16, 16) % 16)
    assert {("table.weight", 1), ("wide.weight", 0)} <= prunable(analysis)
    assert ("table.weight", 0) not in prunable(analysis)
    assert [i.shape for i in program.signature.inputs] == [("batch", 16)]


def test_an_operator_without_a_rule_in_the_middle_freezes_its_neighbours_alone() -> None:
    class Odd(Fields):
        def forward(self, ids: Tensor) -> Tensor:
            first, *others = self.vectors(ids)
            return self.mlp(torch.cat([torch.special.i0(first), *others], 1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Odd(), IDS)
    assert "has no rule" in reasons(analysis, "tables.0.weight", 1)
    assert {("tables.1.weight", 1), ("tables.2.weight", 1), ("mlp.0.weight", 0)} <= prunable(analysis)


def test_a_dimension_that_is_used_as_a_scale_keeps_its_value() -> None:
    class Scaled(Fields):
        def __init__(self) -> None:
            super().__init__(inputs=9)

        def forward(self, ids: Tensor) -> Tensor:
            stacked = torch.stack(self.vectors(ids), 1)
            dots = stacked @ stacked.transpose(1, 2) / math.sqrt(stacked.shape[-1])
            return self.mlp(dots.flatten(1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Scaled(), IDS)
    assert prunable(analysis) >= TABLES


@pytest.mark.parametrize("how", ["mean", "layer_norm", "rms_norm", "norm", "layer_norm without gain"])
def test_statistics_over_channels_keep_their_count(how: str) -> None:
    class Normalised(Fields):
        def __init__(self) -> None:
            super().__init__(inputs={"mean": 1, "norm": 1}.get(how, 6))
            self.norm = nn.RMSNorm(6) if how == "rms_norm" else nn.LayerNorm(6, elementwise_affine="without" not in how)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tables[0](ids[:, 0]) * self.tables[1](ids[:, 1])
            if how == "mean":
                x = x.mean(1, keepdim=True)
            elif how == "norm":
                x = x.norm(dim=1, keepdim=True)
            else:
                x = self.norm(x)
            return self.mlp(x)  # type: ignore[no-any-return]

    program, analysis = check_any_plan(Normalised(), IDS)
    assert {("tables.0.weight", 1), ("tables.1.weight", 1)} <= prunable(analysis)
    assert program.signature.inputs[0].name == "ids"


def test_an_output_that_exposes_an_embedding_keeps_it_whole() -> None:
    class Exposed(Fields):
        def forward(self, ids: Tensor) -> dict[str, Tensor]:
            vectors = self.vectors(ids)
            return {"score": self.mlp(torch.cat(vectors, 1)), "user": vectors[0]}

    _, analysis = check_any_plan(Exposed(), IDS)
    assert reasons(analysis, "tables.0.weight", 1) == "the model returns it"
    assert {("tables.1.weight", 1), ("mlp.0.weight", 0)} <= prunable(analysis)


def test_tied_weights_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.mix, self.out = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
            self.out.weight = self.items.weight

        def forward(self, history: Tensor) -> Tensor:
            return self.out(torch.relu(self.mix(self.items(history))).mean(1))  # type: ignore[no-any-return]

    program, analysis = check_any_plan(Tied(), torch.tensor([[1, 2], [3, 4]]))
    assert len(program.parameters()) == 3
    (table,) = analysis.tables
    assert {("mix.weight", 0), ("mix.weight", 1)} <= group_of(analysis, table, 1)


def test_dead_channels_can_go_without_changing_anything() -> None:
    """A model in which some channels were zeroed by hand: removing those, and no others, changes no output."""

    class Small(Fields):
        def forward(self, ids: Tensor) -> Tensor:
            return self.mlp(torch.cat(self.vectors(ids), 1))  # type: ignore[no-any-return]

    program = capture(no_zeros(Small()), (IDS,))
    analysis = analyze(program)
    parts = tuple(GroupPlan(g.name, g.kind, g.width, tuple(range(0, g.width, 2))) for g in analysis.groups)
    plan = Plan("dead", parts)
    gone = plan.removed(analysis)
    with torch.no_grad():
        for group in analysis.groups:
            for channel in group.channels:
                for s in channel.slices if channel.identity in gone else ():
                    program.parameters()[s.tensor].select(s.axis, s.index).zero_()
    pruned = apply_plan(program, plan)
    tensors = sample_request_tensors(program.signature, 64)
    with torch.no_grad():
        (before,), (after,) = program.module(*tensors), pruned.module(*tensors)
    assert float((before - after).abs().max()) <= 1e-6 * float(before.abs().max())


def test_a_number_is_no_axis() -> None:
    """Gates that hold one number each: a softmax or a sum of it works along an axis that is not there."""

    class Gated(Fields):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.Parameter(torch.randn(3))

        def forward(self, ids: Tensor) -> Tensor:
            gates = [(gate / 0.3).softmax(-1) + gate.sum(-1) + gate.cumsum(0) for gate in self.gates]
            parts = [x * gate for x, gate in zip(self.vectors(ids), gates, strict=True)]
            return self.mlp(torch.cat(parts, 1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Gated(), IDS)
    assert prunable(analysis) >= TABLES


def test_one_of_several_interests_picked_for_each_row() -> None:
    """`x[rows, best]`: which interest is taken depends on the request, which dimensions there are does not."""

    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.interests = nn.Embedding(10, 6), nn.Linear(6, 4 * 5)

        def forward(self, item: Tensor, history: Tensor) -> Tensor:
            interests = self.interests(self.table(history).mean(1)).unflatten(1, (4, 5))
            scores = interests @ self.interests(self.table(item))[:, :5].unsqueeze(-1)
            rows = torch.arange(len(item))
            best = interests[rows, scores.argmax(1).squeeze(-1)]
            return (best * best).sum(-1)

    _, analysis = check_any_plan(Best(), torch.tensor([1, 2, 3]), IDS)
    assert {("table.weight", 1), ("interests.weight", 0)} <= prunable(analysis)


def test_a_diagonal_is_taken_of_a_square() -> None:
    class Diagonal(Fields):
        def __init__(self) -> None:
            super().__init__()
            self.square = nn.Parameter(torch.randn(3, 6, 6))

        def forward(self, ids: Tensor) -> Tensor:
            scaled = torch.einsum("bnd,ndd->bnd", torch.stack(self.vectors(ids), 1), self.square)
            return self.mlp(scaled.flatten(1))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Diagonal(), IDS)
    assert prunable(analysis) >= TABLES


@pytest.mark.parametrize(
    "how",
    ["hstack", "a part written in place", "an index written in place", "broadcast", "repeated mask", "distance"],
)
def test_operators_that_are_others_under_another_name(how: str) -> None:
    class Written(Fields):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.lower = nn.Parameter(torch.randn(2)), nn.Linear(6, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = torch.stack(self.vectors(ids), 1)
            if how == "hstack":
                x = torch.hstack([x[:, 0], x[:, 1], x[:, 2]])
            elif how == "a part written in place":
                x[:, :, 1:3] = self.shared
            elif how == "an index written in place":
                x[:, 1] = torch.relu(self.tables[0](ids[:, 1]))
            elif how == "broadcast":
                x = sum(torch.broadcast_tensors(x, torch.relu(x[:, :1])))
            elif how == "repeated mask":
                x = x * (ids > 2).float().unsqueeze(-1).repeat_interleave(x.shape[-1], dim=2)
            else:
                near = nn.functional.pairwise_distance(x[:, :1], x[:, 1:])
                x = torch.cat([x.flatten(1)[:, :16], near], 1)
            return self.mlp(x.flatten(1))  # type: ignore[no-any-return]

    program, analysis = check_any_plan(Written(), IDS)
    assert "tables.2.weight" in {tensor for tensor, _ in prunable(analysis)}
    assert not {"aten.hstack.default", "aten.slice_scatter.default"} & {
        str(n.target) for n in program.module.graph.nodes
    }
