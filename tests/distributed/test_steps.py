"""Collectives, layers and gradients of several processes are those of one process on the whole batch."""

from pathlib import Path

import polars as pl
import pytest
import torch

from recprune_export.bundle.write import stage_bundle
from recprune_export.distributed.command import is_divided_command
from recprune_export.distributed.row_shards import CHUNK_BYTES
from tests.distributed.processes import Processes
from tests.distributed.steps import (
    gather_by_order,
    gather_rows,
    gather_whole_table,
    leave,
    load_streamed_rows,
    lock,
    make_layers,
    predict,
    set_local_processes,
    sums,
    train_layers,
    work_on_main,
)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_are_gathered_in_the_order_of_the_batch(three: Processes, rows: int) -> None:
    for number, (numbers, marks, gradient) in enumerate(three.call(gather_rows, rows)):
        assert numbers == list(range(rows))
        assert marks == [str(row % 2 == 0) for row in range(rows)]
        assert gradient.tolist() == list(range(number, rows, 3))


def test_rows_that_are_not_dealt_in_turn_are_gathered_by_their_order(two: Processes) -> None:
    assert two.call(gather_by_order) == [[0, 10, 20, 30, 40]] * 2


def test_each_process_answers_its_share_of_a_request(two: Processes) -> None:
    assert two.call(predict, 5) == [[3, 0, 2, 4, 6, 8], [2, 0, 2, 4, 6, 8]]
    assert two.call(predict, 1) == [[1, 0]] * 2


def test_gradients_and_parts_of_the_loss_are_summed(two: Processes) -> None:
    for number, (gradients, listed, total, slope) in enumerate(two.call(sums)):
        assert gradients.tolist() == [[3, 3, 4, 4], [3, 3, 1, 1], [3, 3, 1, 1]]
        assert listed[0] is not None
        assert listed[0].tolist() == [1, 1]
        assert listed[1] is None
        assert (total, slope) == (9.0, 3.0), number


@pytest.mark.parametrize("rows", [2, 7])
def test_batch_norm_and_dropout_act_as_on_the_whole_batch(three: Processes, rows: int) -> None:
    module, values = make_layers(rows)
    torch.manual_seed(5)
    answers = module(values)
    answers.pow(3).sum().backward()
    for number, (own, gradient, variance) in enumerate(three.call(train_layers, rows)):
        torch.testing.assert_close(own, answers[number::3].detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, module[0].weight.grad, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(variance, module[1].running_var, rtol=1e-9, atol=1e-9)


def test_a_table_is_put_together_in_the_first_process_or_in_all(two: Processes) -> None:
    rows = CHUNK_BYTES // 8 + 3  # more than one chunk
    expected = torch.arange(rows * 2.0).reshape(rows, 2)
    first, second = two.call(gather_whole_table, rows, False)
    assert torch.equal(first, expected)
    assert second is None
    assert all(torch.equal(table, torch.arange(10.0).reshape(5, 2)) for table in two.call(gather_whole_table, 5, True))


def test_what_the_first_process_does_alone_ends_for_all_alike(two: Processes) -> None:
    assert two.call(work_on_main) == [([False, "failed in 0", "again"], True)] * 2
    assert two.call(leave) == ["goes on, divided: False", "left with 0"]


@pytest.mark.parametrize("hosts", [1, 2])
def test_rows_are_written_once_a_host(two: Processes, tmp_path: Path, hosts: int) -> None:
    pl.DataFrame({"user": range(400), "y": [0, 1] * 200}).write_parquet(tmp_path / "rows.parquet")
    two.call(set_local_processes, 2 // hosts)
    (file, users, readers), (other_file, other_users, other_readers) = two.call(load_streamed_rows, tmp_path)
    assert users == other_users
    assert (readers, other_readers) == (2, 2)
    assert (file == other_file) is (hosts == 1)


def test_a_lock_that_another_run_holds_is_refused_in_all(two: Processes, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    assert two.call(lock, target) == [str(target)] * 2
    with stage_bundle(target):
        messages = two.call(lock, target)
    assert len(set(messages)) == 1
    assert "is writing to" in messages[0]


@pytest.mark.parametrize(
    ("arguments", "divided"),
    [
        (["model.pt", "--sparsity", "0.7"], True),
        (["compress", "model.pt"], True),
        (["sweep", "model.pt"], True),
        (["verify", "bundle"], False),
        (["train", "-h"], False),
        (["--version"], False),
        ([], False),
    ],
)
def test_commands_that_divide_rows(arguments: list[str], divided: bool) -> None:
    assert is_divided_command(arguments, ["compress", "sweep", "train", "verify"]) == divided
