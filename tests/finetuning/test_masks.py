"""Masks hold exactly the most important weights, chosen without a copy of a table."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.finetuning import NonZeroTarget, apply_masks, compute_masks
from recprune_export.finetuning.masks import find_threshold
from recprune_export.program.capture import capture
from tests.largest_allocation import LargestAllocation

NUMBERS = st.one_of(
    st.floats(0.0, width=32, allow_subnormal=False), st.sampled_from([0.0, 1.0, 1.0 + 2.0**-23, 2.0**127])
)


@given(st.lists(NUMBERS, max_size=40), st.data())
def test_a_threshold_has_as_many_numbers_above_it_as_were_asked_for(numbers: list[float], data: st.DataObject) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    count = data.draw(st.integers(0, len(values)))
    size = data.draw(st.integers(1, 41))
    threshold = find_threshold(lambda: iter(values.split(size)), count)
    largest = values.topk(count).values
    above, equal = values > threshold.value, values == threshold.value
    assert int(above.sum()) + threshold.ties == count
    assert 0 <= threshold.ties <= int(equal.sum())
    expected = torch.cat([values[above], values[equal][: threshold.ties]]).sort(descending=True).values
    assert torch.equal(largest, expected)


class Tables(nn.Module):
    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(rows, dim), nn.Embedding(7, dim)
        self.layer = nn.Linear(dim, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.first(ids) + self.second(ids % 7)).squeeze(1)  # type: ignore[no-any-return]


TABLES = frozenset({"first.weight", "second.weight"})


PROGRAM = capture(Tables(40, 4), (torch.tensor([0, 1, 2]),))


@given(st.integers(0, 200), st.booleans(), st.integers(0, 3))
def test_the_most_important_weights_stay_and_of_equal_ones_the_first(allowed: int, coarse: bool, seed: int) -> None:
    torch.manual_seed(seed)
    weights = {name: p.detach() for name, p in PROGRAM.parameters().items() if name in TABLES}
    for weight in weights.values():
        weight.normal_()
        if coarse:
            weight.round_()
    masks = compute_masks(PROGRAM, TABLES, NonZeroTarget(allowed, 5))
    scores = torch.cat([(w.square() / w.square().mean()).flatten() for w in weights.values()])
    expected = torch.zeros(len(scores), dtype=torch.bool)
    expected[scores.argsort(descending=True, stable=True)[:allowed]] = True
    assert bool(masks) == (allowed < len(scores))
    if masks:
        assert torch.equal(torch.cat([masks[name].flatten() for name in weights]), expected)


def test_zeros_in_a_table_cost_a_byte_a_weight() -> None:
    program = capture(Tables(200_000, 16), (torch.tensor([0, 1, 2]),))
    with LargestAllocation() as largest:
        masks = compute_masks(program, TABLES, NonZeroTarget(1_000_000, 5))
        apply_masks(program, masks)
    assert sum(int(p.count_nonzero()) for name, p in program.parameters().items() if name in TABLES) == 1_000_000
    assert largest.bytes <= program.parameters()["first.weight"].numel()
