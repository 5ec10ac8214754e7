import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.training import optimizers
from recprune_export.training.deferred_adam import DeferredAdam
from recprune_export.training.loop import Optimizer
from recprune_export.training.optimizers import find_long_tables

ROWS, WIDTH, RATE = 300, 3, 1e-2


def batches(count: int, size: int = 12, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids, few of them often, with duplicates in a batch, and the targets of their vectors."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = ROWS ** torch.rand(size, generator=generator)
        yield ids.long(), torch.randn(size, WIDTH, generator=generator)


def step(table: nn.Embedding, optimizer: Optimizer, ids: Tensor, target: Tensor, scale: float) -> None:
    optimizer.zero_grad()
    (scale * (table(ids) - target).square().sum()).backward()
    optimizer.step()


def pair(padding: int | None = None) -> tuple[nn.Embedding, nn.Embedding]:
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
    return table, copy.deepcopy(table)


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 2e-5), (1e-5, 2e-4)])  # of a whole gap one ε is taken
def test_the_weights_are_those_of_adam(scale: float, tolerance: float, padding: int | None) -> None:
    plain, deferred = pair(padding)
    adam, optimizer = torch.optim.Adam(plain.parameters(), lr=RATE), DeferredAdam([deferred], [], RATE)
    with optimizer.deferred():
        for ids, target in batches(250):
            torch.testing.assert_close(deferred(ids), plain(ids), rtol=0.0, atol=tolerance)
            step(plain, adam, ids, target, scale)
            step(deferred, optimizer, ids, target, scale)
    torch.testing.assert_close(deferred.weight, plain.weight, rtol=0.0, atol=tolerance)


def test_several_lookups_of_a_step_are_one_gradient() -> None:
    plain, deferred = pair()
    adam, optimizer = torch.optim.Adam(plain.parameters(), lr=RATE), DeferredAdam([deferred], [], RATE)
    with optimizer.deferred():
        for (first, target), (second, _) in zip(batches(40, seed=1), batches(40, seed=2), strict=True):
            for table, chosen in ((plain, adam), (deferred, optimizer)):
                chosen.zero_grad()
                (table(first) * table(second.reshape(3, 4)).reshape(-1, WIDTH) - target).square().sum().backward()
                chosen.step()
    torch.testing.assert_close(deferred.weight, plain.weight, rtol=0.0, atol=2e-5)


def test_a_step_changes_only_rows_of_the_batch_until_all_catch_up() -> None:
    _, table = pair()
    optimizer = DeferredAdam([table], [], RATE)
    with optimizer.deferred():
        for ids in (torch.tensor([5, 7, 5]), torch.tensor([9])):
            before = table.weight.detach().clone()
            step(table, optimizer, ids, torch.ones(len(ids), WIDTH), 1.0)
            assert table.weight.grad is not None
            assert table.weight.grad.is_sparse
            assert (table.weight != before).any(1).nonzero().flatten().tolist() == ids.unique().tolist()
        before = table.weight.detach().clone()
        optimizer.catch_up()
        assert (table.weight != before).any(1).nonzero().flatten().tolist() == [5, 7]


def test_the_table_afterwards_is_up_to_date_and_plain() -> None:
    _, table = pair()
    optimizer = DeferredAdam([table], [], RATE)
    with optimizer.deferred():
        for ids in (torch.tensor([5]), torch.tensor([9])):
            step(table, optimizer, ids, torch.ones(1, WIDTH), 1.0)
    after = table.weight.detach().clone()
    optimizer.catch_up()
    assert torch.equal(table.weight, after)
    assert not table.sparse
    assert not table._forward_pre_hooks


def test_long_tables_alone_are_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "LONG_TABLE_PARAMETERS", 80)
    spec = InputSpec({"user": 520, "kind": 519}, {"tags": 2000}, {"tags": 10}, labels=("click",))
    module = build_recommender("dlrm", spec, {"dim": 4})
    assert [len(table.weight) for table in find_long_tables(module, 100)] == [520]
    assert [len(table.weight) for table in find_long_tables(module, 10)] == [520, 519, 2000]
    sequential = build_recommender("sasrec", InputSpec(items=9000, max_length=4, labels=("item",)), {"dim": 4})
    assert not list(find_long_tables(sequential, 1))  # its table is also a matrix


@pytest.mark.parametrize("recommender", ["dlrm", "deepfm", "neumf"])
def test_a_recommender_is_trained_as_by_adam(recommender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "LONG_TABLE_PARAMETERS", 0)
    spec = InputSpec({"user": ROWS, "item": ROWS}, labels=("click",))
    torch.manual_seed(0)
    plain = build_recommender(recommender, spec, {"dim": WIDTH, "hidden": (8,)}).double()
    deferred = copy.deepcopy(plain)
    adam, optimizer = torch.optim.Adam(plain.parameters(), lr=RATE), optimizers.make_optimizer(deferred, 12, RATE)
    with optimizer.deferred():
        for (user, target), (item, _) in zip(batches(30, seed=1), batches(30, seed=2), strict=True):
            for module, chosen in ((plain, adam), (deferred, optimizer)):
                torch.manual_seed(1)  # of dropout
                chosen.zero_grad()
                (module({"user": user, "item": item})["click"] - target[:, 0]).square().sum().backward()
                chosen.step()
            assert sum(p.grad is not None and p.grad.is_sparse for p in deferred.parameters()) >= 2
    for one, other in zip(plain.parameters(), deferred.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=5e-5)
