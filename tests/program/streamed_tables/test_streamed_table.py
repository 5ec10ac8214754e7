"""Streamed tables: the same numbers as a table in memory, by every way of reading them."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export import memory_limit
from recprune_export.errors import ModelError, ModelFileError
from recprune_export.program import Program
from recprune_export.program.capture._capture import capture
from recprune_export.program.streamed_tables import StoredPart, StoredParts, StreamedTable, store_tables

ROWS, COLUMNS = 40, 6
aten = torch.ops.aten


def store(table: Tensor, file: Path, row_cuts: Sequence[int], column_cuts: Sequence[int]) -> StreamedTable:
    """Write a table in parts, some bytes apart from each other."""
    parts, content = [], b"head"
    rows, columns = (
        [0, *sorted(set(cuts)), n] for cuts, n in ((row_cuts, table.shape[0]), (column_cuts, table.shape[1]))
    )
    for first, last in pairwise(rows):
        for left, right in pairwise(columns):
            parts.append(StoredPart(file, len(content), first, left, last - first, right - left))
            content += table[first:last, left:right].contiguous().view(torch.uint8).numpy().tobytes() + b"gap"
    file.write_bytes(content)
    return StreamedTable(StoredParts("table", (table.shape[0], table.shape[1]), table.dtype, parts))


def make_table(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def streamed(tmp_path: Path) -> StreamedTable:
    return store(make_table(), tmp_path / "table.bin", (7, 22), (2,))


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, ROWS - 1), max_size=3),
    st.lists(st.integers(1, COLUMNS - 1), max_size=2),
    st.lists(st.integers(0, ROWS - 1), max_size=9),
    st.integers(0, ROWS),
    st.integers(0, ROWS),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_rows_of_any_division_are_those_of_the_table(
    tmp_path_factory: pytest.TempPathFactory,
    row_cuts: list[int], column_cuts: list[int], ids: list[int], start: int, stop: int, dtype: torch.dtype,
) -> None:  # fmt: skip
    table = make_table(dtype)
    streamed = store(table, tmp_path_factory.mktemp("parts") / "table.bin", row_cuts, column_cuts)
    numbers = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(streamed[start:stop], table[start:stop])
    assert torch.equal(nn.functional.embedding(numbers, streamed), table[numbers])
    assert torch.equal(streamed[numbers], table[numbers])
    assert torch.equal(streamed[-1], table[-1])


def test_changes_of_columns_are_made_row_by_row(streamed: StreamedTable) -> None:
    table, matrix = make_table(), torch.randn(3, 3, dtype=torch.float64)
    positions = torch.tensor([[0, 2, 4], [1, 3, 5]])
    expected = table.clone()
    for indices in positions:
        expected[:, indices] = (table[:, indices].double() @ matrix).float()
    changed = StreamedTable(streamed.rows.multiply_columns(positions, matrix)).index_select(1, torch.tensor([5, 0]))
    assert isinstance(changed, StreamedTable)
    assert torch.equal(changed.double()[3:9], expected[3:9, [5, 0]].double())
    ids = torch.tensor([[4, 4], [0, 39]])
    assert torch.equal(nn.functional.embedding(ids, changed), expected[:, [5, 0]][ids])


@pytest.mark.parametrize("ids", [[-1], [ROWS]])
def test_ids_out_of_range_are_refused_as_torch_refuses_them(streamed: StreamedTable, ids: list[int]) -> None:
    with pytest.raises(IndexError, match="index out of range"):
        nn.functional.embedding(torch.tensor(ids), streamed)


def test_an_operator_on_all_rows_reads_them_where_they_fit(streamed: StreamedTable) -> None:
    assert torch.equal(streamed @ torch.eye(COLUMNS), make_table())


def test_an_operator_on_all_rows_is_refused_where_they_do_not_fit(
    streamed: StreamedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: streamed.nbytes)
    with pytest.raises(
        ModelError, match=r"'table' of 960 B does not fit into memory.*'aten\.mm\.default' needs all of its rows"
    ):
        streamed @ torch.eye(COLUMNS)


def test_a_file_that_becomes_shorter_is_reported(streamed: StreamedTable, tmp_path: Path) -> None:
    with (tmp_path / "table.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ModelFileError, match="was truncated while 'table' was read"):
        streamed[0:ROWS]


class _Scorer(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.head = nn.Linear(COLUMNS, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(nn.functional.embedding(ids, self.table))  # type: ignore[no-any-return]


def capture_both(streamed: StreamedTable) -> tuple[Program, Program]:
    torch.manual_seed(0)
    scorer = _Scorer(streamed)
    plain = copy.deepcopy(scorer)
    plain.table = nn.Parameter(make_table())
    ids = torch.tensor([1, 2, 3])
    return capture(scorer, (ids,)), capture(plain, (ids,))


def test_a_captured_program_keeps_the_table_in_its_file(streamed: StreamedTable) -> None:
    program, plain = capture_both(streamed)
    assert isinstance(program.module.table, StreamedTable)
    request = {program.signature.inputs[0].name: torch.arange(ROWS)}
    assert all(torch.equal(a, b) for a, b in zip(program(request).values(), plain(request).values(), strict=True))


def test_stored_tables_are_plain_tensors_of_the_same_numbers(streamed: StreamedTable) -> None:
    stored = store_tables(capture_both(streamed)[0])
    assert type(stored.module.table) is nn.Parameter
    assert torch.equal(stored.module.table, make_table())
