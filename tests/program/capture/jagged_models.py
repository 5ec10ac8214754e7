"""Models whose rows have different numbers of ids, with requests in many forms, and rows to ask them for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

IDS, WIDTH, BATCH = 50, 8, 8
OFFSETS = torch.tensor([0, 2, 2, 5, 6, 9, 10, 12])


def draw_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, IDS, shape, generator=torch.Generator().manual_seed(seed))


class Checked:
    """A class of the user that checks what it is built from."""

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        assert values.numel() >= 0
        assert lengths.numel() >= 0
        self.values, self.lengths = values, lengths


pytree.register_pytree_node(
    Checked,
    lambda x: ([x.values, x.lengths], None),
    lambda leaves, _: Checked(*leaves),
    serialized_type_name="tests.Checked",
    flatten_with_keys_fn=lambda x: (
        [(pytree.GetAttrKey("values"), x.values), (pytree.GetAttrKey("lengths"), x.lengths)],
        None,
    ),
)


@dataclass
class Bag:
    values: Tensor
    offsets: Tensor


@dataclass
class TwoBags:
    user: Bag
    item: Bag
    numbers: Tensor


class Pair(NamedTuple):
    ids: Tensor
    numbers: Tensor


class Model(nn.Module):
    """A table of which rows are summed, and a linear layer; `answer` reads the request."""

    def __init__(self, answer: Callable[..., Tensor], mode: str = "sum", *, last_included: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.EmbeddingBag(IDS, WIDTH, mode=mode, include_last_offset=last_included)
        self.top = nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, 1))
        self._answer = (answer,)

    def forward(self, *request: Any) -> Tensor:
        return self.top(self._answer[0](self.table, *request))  # type: ignore[no-any-return]


def by_lengths(table: nn.Module, ids: Checked) -> Tensor:
    return table(ids.values, torch.cumsum(ids.lengths, 0) - ids.lengths)  # type: ignore[no-any-return]


def by_keys(table: nn.Module, values: Tensor, lengths: Tensor) -> Tensor:
    """Lengths of two keys, of all rows of the first one and then of the second: their sums are added."""
    flat = lengths.reshape(-1)
    return table(values, torch.cumsum(flat, 0) - flat).reshape(2, -1, WIDTH).sum(0)  # type: ignore[no-any-return]


def by_lists(table: nn.Module, offsets: Any, indices: list[Tensor]) -> Tensor:
    return torch.stack([table(i, o) for i, o in zip(indices, offsets, strict=True)]).sum(0)


def by_segments(table: nn.Module, ids: Tensor, lengths: Tensor) -> Tensor:
    rows = nn.functional.embedding(ids, table.weight)  # type: ignore[arg-type]
    return torch.segment_reduce(rows, "mean", lengths=lengths, axis=0, initial=0)


def by_search(table: nn.Module, request: dict[str, Tensor]) -> Tensor:
    """The row of each id is found among the ends of the rows, of which there are more than in the example."""
    ids, offsets = request["genres__values"], request["genres__offsets"]
    row = torch.searchsorted(offsets[1:].contiguous(), torch.arange(ids.shape[0]), right=True)
    rows = nn.functional.embedding(ids, table.weight)  # type: ignore[arg-type]
    return torch.zeros(offsets.shape[0] - 1, WIDTH).index_add(0, row, rows)


LENGTHS = torch.tensor([2, 3, 1, 4, 2, 3, 3, 2])
KEYED = torch.tensor([[1, 2, 3, 0, 1, 2, 1, 0], [1, 1, 1, 1, 1, 2, 2, 1]])
ONE_HOT = torch.arange(BATCH)

# What the tensors mean, by the name of the form: the model, its request, and the names of its inputs in the file.
FORMS: dict[str, tuple[Model, tuple[Any, ...], tuple[str, ...]]] = {
    "a registered class": (
        Model(by_lengths),
        (Checked(draw_ids(20), LENGTHS),),
        ("input_0_values", "input_0_lengths"),
    ),
    "offsets": (
        Model(lambda table, ids, offsets: table(ids, offsets)),
        (draw_ids(14), OFFSETS),
        ("input_0", "input_1"),
    ),
    "offsets and end": (
        Model(lambda table, ids, offsets: table(ids, offsets), "mean", last_included=True),
        (draw_ids(14), torch.cat([OFFSETS, torch.tensor([14])])),
        ("input_0", "input_1"),
    ),
    "weights": (
        Model(lambda table, ids, weights, offsets: table(ids, offsets, weights)),
        (draw_ids(14), torch.rand(14), OFFSETS),
        ("input_0", "input_1", "input_2"),
    ),
    "weights of one id in each row": (
        Model(lambda table, ids, weights, offsets: table(ids, offsets, weights)),
        (draw_ids(BATCH), torch.rand(BATCH), ONE_HOT),
        ("input_0", "input_1", "input_2"),
    ),
    "stacked offsets": (
        Model(by_lists),
        (ONE_HOT.repeat(3, 1), [draw_ids(BATCH, seed=n) for n in range(3)]),
        ("input_0", "input_1_0", "input_1_1", "input_1_2"),
    ),
    "stacked offsets of several ids": (
        Model(by_lists),
        (torch.stack([OFFSETS, ONE_HOT, OFFSETS]), [draw_ids(14), draw_ids(BATCH), draw_ids(13)]),
        ("input_0", "input_1_0", "input_1_1", "input_1_2"),
    ),
    "a list of offsets": (
        Model(by_lists),
        ([ONE_HOT] * 3, [draw_ids(BATCH, seed=n) for n in range(3)]),
        ("input_0_0", "input_0_1", "input_0_2", "input_1_0", "input_1_1", "input_1_2"),
    ),
    "stacked lengths of two keys": (Model(by_keys), (draw_ids(20), KEYED), ("input_0", "input_1")),
    "lengths of two keys": (Model(by_keys), (draw_ids(20), KEYED.reshape(-1)), ("input_0", "input_1")),
    "offsets with the keys last": (
        Model(lambda table, offsets, indices: by_lists(table, offsets.T, indices)),
        (torch.stack([OFFSETS, ONE_HOT, OFFSETS], 1), [draw_ids(14), draw_ids(BATCH), draw_ids(13)]),
        ("input_0", "input_1_0", "input_1_1", "input_1_2"),
    ),
    "lengths of two keys, with the keys last": (
        Model(lambda table, values, lengths: by_keys(table, values, lengths.T)),
        (draw_ids(20), KEYED.T.contiguous()),
        ("input_0", "input_1"),
    ),
    "means of segments": (Model(by_segments), (draw_ids(20), LENGTHS), ("input_0", "input_1")),
    "a search among offsets": (
        Model(by_search),
        ({"genres__values": draw_ids(14), "genres__offsets": torch.cat([OFFSETS, torch.tensor([14])])},),
        ("input_0_genres__values", "input_0_genres__offsets"),
    ),
    "nested dataclasses": (
        Model(lambda table, r: table(r.user.values, r.user.offsets) * table(r.item.values, r.item.offsets) + r.numbers),
        (TwoBags(Bag(draw_ids(14), OFFSETS), Bag(draw_ids(12), ONE_HOT), torch.randn(BATCH, 1)),),
        (
            "input_0_user_values",
            "input_0_user_offsets",
            "input_0_item_values",
            "input_0_item_offsets",
            "numbers",
        ),
    ),
}
