import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.program.capture.export_module import disable_attention_fastpath
from tests.properties import check_any_plan, no_zeros, prunable


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 1)


class OfTensors(Head):
    def forward(self, user: Tensor, weight: Tensor) -> Tensor:
        return self.head(self.table(user)).squeeze(1) * weight  # type: ignore[no-any-return]


class OfDict(Head):
    def forward(self, request: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"click": self.head(self.table(request["user"])).squeeze(1) * request["weight"]}


class OfNested(Head):
    def forward(self, sides: tuple[dict[str, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        ids, weight = sides
        score = self.head(self.table(ids["user"])).squeeze(1)
        return score, score * weight


class OfMatrix(Head):
    """Ids as floats in one matrix, the second column shifted into the same table."""

    def forward(self, x: Tensor) -> Tensor:
        ids = x[:, :2].long() + torch.tensor([0, 5])
        return self.head(self.table(ids).sum(1)).squeeze(1) * x[:, 2]  # type: ignore[no-any-return]


USER, WEIGHT = torch.tensor([1, 2, 3]), torch.rand(3)


@pytest.mark.parametrize(
    ("module", "args", "kwargs", "inputs", "outputs"),
    [
        (OfTensors(), (USER, WEIGHT), {}, ["user", "weight"], ["output"]),
        (OfTensors(), (USER,), {"weight": WEIGHT}, ["user", "weight"], ["output"]),
        (OfDict(), ({"user": USER, "weight": WEIGHT},), {}, ["user", "weight"], ["click"]),
        (OfNested(), (({"user": USER}, WEIGHT),), {}, None, ["output_0", "output_1"]),
    ],
)
def test_requests_of_any_shape_become_flat_and_named(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Tensor], inputs: list[str] | None, outputs: list[str]
) -> None:
    program = capture(module, args, kwargs)
    assert inputs is None or [i.name for i in program.signature.inputs] == inputs
    assert [o.name for o in program.signature.outputs] == outputs
    assert program.signature.inputs[0].ids == ((0, 9),)
    for batch in (1, 7):
        user, weight = torch.randint(10, (batch,)), torch.rand(batch)
        request = dict(zip([i.name for i in program.signature.inputs], (user, weight), strict=True))
        expected = OfTensors.forward(module, user, weight)  # type: ignore[arg-type]
        torch.testing.assert_close(list(program(request).values())[-1], expected)


@pytest.mark.parametrize("names", [("0", "1"), ("_c0", "_c1"), ("--data", "2nd"), ("user id", "größe")])
def test_the_keys_of_a_request_are_its_names_whatever_they_are(names: tuple[str, str]) -> None:
    class OfKeys(Head):
        def forward(self, request: dict[str, Tensor]) -> dict[str, Tensor]:
            score = self.head(self.table(request[names[0]]))
            return {names[1]: score * request[names[1]].unsqueeze(1)}

    program = capture(OfKeys(), ({names[0]: USER, names[1]: WEIGHT},))
    assert [i.name for i in program.signature.inputs] == list(names)
    assert program({names[0]: USER, names[1]: WEIGHT}).keys() == {f"{names[1]}_output"}  # no two have one name
    assert program.analysis.groups


def test_an_example_of_one_row_is_enough() -> None:
    program = capture(OfTensors(), (USER[:1], WEIGHT[:1]))
    assert program({"user": USER, "weight": WEIGHT})["output"].shape == (3,)


def test_the_ids_of_each_column_are_read_off_the_tables() -> None:
    (x,) = capture(OfMatrix(), (torch.zeros(3, 3),)).signature.inputs
    assert x.ids == ((0, 9), (0, 4), None)


def test_the_module_is_left_as_it_was() -> None:
    module = OfTensors().train()
    capture(module, (USER, WEIGHT))
    assert module.training


class Baked(Head):
    def forward(self, user: Tensor) -> Tensor:
        return self.head(self.table(user)).view(3)  # type: ignore[no-any-return]


class Deciding(Head):
    def forward(self, user: Tensor) -> Tensor:
        return self.head(self.table(user)) if user.sum() > 3 else self.table(user)  # type: ignore[no-any-return]


class InNumPy(Head):
    def __init__(self) -> None:
        super().__init__()
        self.order = np.arange(3)

    def forward(self, user: Tensor) -> Tensor:
        order = self.order.copy()
        order[np.where(order > 0)] -= user.size(0)  # a size that varies is no number for NumPy
        if user.sum() > 100:
            order += 1
        return self.head(self.table(user)) + float(order.sum())  # type: ignore[no-any-return]


class Reading(Head):
    def forward(self, user: Tensor) -> Tensor:
        scores = self.head(self.table(user))
        return scores / scores.max().item()  # type: ignore[no-any-return]


class Silent(Head):
    def forward(self, user: Tensor) -> int:
        return 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Baked, "fixes the batch size.*x.size"),
        (Deciding, r"depends on the values of a request.*test_capture\.py"),
        (InNumPy, r"leaves PyTorch at .*test_capture\.py.*for NumPy"),
        (Reading, r"reads a number from a tensor at .*test_capture\.py.*\.item\(\).*compute with the tensor"),
        (Silent, "returns no tensor"),
    ],
)
def test_what_cannot_be_captured_is_said_with_its_line(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        capture(make(), (USER,))


class Detached(Head):
    """A forward of a service, whose answers need no gradients."""

    def forward(self, user: Tensor) -> Tensor:
        return self.head(self.table(user)).sigmoid().detach().clone()  # type: ignore[no-any-return]


class StopsGradient(Head):
    def forward(self, user: Tensor) -> Tensor:
        return self.head(self.table(user)) + self.table(user).detach()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("make", "trained"), [(Detached, {"table", "head"}), (StopsGradient, {"table", "head"})])
def test_answers_have_gradients_also_where_the_forward_detaches_them(
    make: Callable[[], nn.Module], trained: set[str]
) -> None:
    program = capture(make(), (USER,))
    program.module(USER)[0].sum().backward()
    with_gradient = {name.partition(".")[0] for name, p in program.parameters().items() if p.grad is not None}
    assert with_gradient == trained
    stops = any(node.target is torch.ops.aten.detach.default for node in program.module.graph.nodes)
    assert stops == (make is StopsGradient)


def test_an_example_without_a_batch_is_refused() -> None:
    with pytest.raises(CaptureError, match="batch axis"):
        capture(OfTensors(), (3, 4))


def test_sizes_of_which_nothing_can_be_proved_are_tried() -> None:
    """Heads folded into the batch: that 9·B is no multiple of 2·B is true, and more than torch.export can prove."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(72, 1)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.mix(self.table(ids)).view(ids.size(0) * 2, -1, 4)
            x = (x @ x.transpose(1, 2)).softmax(-1) @ x
            return self.head(x.view(ids.size(0), -1))  # type: ignore[no-any-return]

    ids = torch.randint(10, (3, 9))
    module = Heads()
    program = capture(module, (ids,))
    for rows in (1, 2, 5):
        request = ids[torch.arange(rows) % 3]
        torch.testing.assert_close(program.module(request)[0], module(request))


def test_the_data_of_a_request_is_no_constant() -> None:
    class Old(Head):
        def forward(self, user: Tensor) -> Tensor:
            return self.head(self.table(user)) * user.data.ne(0).float().unsqueeze(1)  # type: ignore[no-any-return]

    program = capture(Old(), (USER,))
    assert not program.module(torch.tensor([0, 0]))[0].any()
    assert program.module(torch.tensor([1, 2]))[0].all()


def test_heads_that_are_folded_into_the_batch_are_taken_out_again() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix, self.head = nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            heads = torch.cat(torch.split(self.mix(self.table(ids)), 2, dim=2), 0)
            mixed = (heads @ heads.transpose(1, 2)).softmax(-1) @ heads
            return self.head(torch.cat(torch.split(mixed, ids.shape[0], dim=0), 2)).squeeze(-1)  # type: ignore[no-any-return]

    ids = torch.randint(10, (3, 4))
    module = Folded()
    program, analysis = check_any_plan(module, ids)
    assert {("table.weight", 1), ("mix.weight", 0)} <= prunable(analysis)
    for rows in (1, 2, 5):
        request = ids[torch.arange(rows) % 3]
        torch.testing.assert_close(program.module(request)[0], module(request))


class InPieces(nn.Module):
    """Scores a batch in pieces, so that memory is bounded."""

    def __init__(self, weight_of_rows: float = 0.0) -> None:
        super().__init__()
        self.table, self.last, self.weight_of_rows = nn.Embedding(20, 4), nn.Linear(4, 1), weight_of_rows

    def forward(self, ids: Tensor) -> Tensor:
        pieces = ids.split(64)
        return torch.cat([self.last(self.table(piece)) for piece in pieces]) + self.weight_of_rows * len(pieces)


class GhostNorm(nn.Module):
    """Batch-norm over 128 rows at a time (Hoffer et al. 2017), which in serving is batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.last = nn.Embedding(20, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        parts = x.chunk(int(np.ceil(x.shape[0] / 128)), 0)
        return self.last(torch.cat([self.norm(part) for part in parts], 0))  # type: ignore[no-any-return]


class GhostNormByLen(GhostNorm):
    """The same, with the number of parts as PyTorch Frame counts them."""

    def __init__(self, length: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.length = length

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        parts = torch.chunk(x, math.ceil(self.length(x) / 128), dim=0)
        return self.last(torch.cat([self.norm(part) for part in parts], 0))  # type: ignore[no-any-return]


BY_LEN = (GhostNormByLen(lambda x: len(x)), GhostNormByLen(lambda x: x.shape[0]))


@pytest.mark.parametrize("module", [InPieces(), GhostNorm(), *BY_LEN])
def test_a_batch_that_is_answered_in_pieces_is_captured_as_one(module: nn.Module) -> None:
    module = no_zeros(module)
    program = capture(module, (torch.arange(6),))
    for rows in (1, 64, 65, 300):
        ids = torch.arange(rows) % 20
        with torch.no_grad():
            torch.testing.assert_close(program.module(ids)[0], module(ids))
    program.to_exported_program()


def test_pieces_that_change_the_answer_are_refused() -> None:
    with pytest.raises(CaptureError, match="batches of more than 64 rows in another way"):
        capture(no_zeros(InPieces(1.0)), (torch.arange(6),))


def test_a_causal_mask_of_a_transformer_is_not_looked_at() -> None:
    class Causal(Head):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.table, self.encoder = nn.Embedding(9, 4), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, history: Tensor) -> Tensor:
            mask = torch.full((5, 5), -torch.inf).triu(1)
            return self.encoder(self.table(history), mask=mask)[:, 2]

    module, history = Causal().eval(), torch.randint(9, (3, 5))
    program = capture(module, (history,))
    later = history.clone()
    later[:, 3:] = (later[:, 3:] + 1) % 9
    with torch.no_grad():
        torch.testing.assert_close(program({"history": history})["output"], module(history))
        torch.testing.assert_close(program({"history": later})["output"], module(history))


@pytest.mark.parametrize("nested", [False, True])
def test_padding_in_the_example_is_no_reason_to_refuse_a_transformer(nested: bool) -> None:
    class Padded(Head):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.table, self.encoder = nn.Embedding(9, 4), nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)

        def forward(self, history: Tensor) -> Tensor:
            return self.encoder(self.table(history), src_key_padding_mask=history == 0).mean(1)

    module, history = Padded().eval(), torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]])
    program = capture(module, (history,))
    answered = program({"history": history})["output"]
    with disable_attention_fastpath(), torch.no_grad():
        torch.testing.assert_close(answered, module(history))
    assert torch.isfinite(answered).all()


def test_a_change_in_place_of_a_view_prints_no_warning_of_pytorch() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.layer(x)
            hidden[:, :2].add_(1)
            return hidden

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(InPlace(), (torch.ones(3, 4),))
