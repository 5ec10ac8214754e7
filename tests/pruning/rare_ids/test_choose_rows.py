import numpy as np
import pytest
import torch

from recprune_export.program import Program, sample_request_tensors
from recprune_export.pruning import choose_rows, count_ids, find_prunable_tables
from recprune_export.pruning.pruning_constants import RARE_LOOKUP_FRACTION
from tests.pruning.rare_ids.models import LENGTH, columns, fields


def request_of(program: Program, rows: int, seed: int) -> dict[str, torch.Tensor]:
    names = (i.name for i in program.signature.inputs)
    return dict(zip(names, sample_request_tensors(program.signature, rows, seed), strict=True))


def test_ids_are_counted_over_all_lookups_of_a_table() -> None:
    program = fields()
    requests = [request_of(program, 7, seed=0), request_of(program, 5, seed=1)]
    tables, _ = find_prunable_tables(program)
    counts = count_ids(program, tables.values(), requests)
    for name, inputs in (("user.weight", ["user"]), ("item.weight", ["item", "last"]), ("tags.weight", ["tags"])):
        shown = torch.cat([r[i].reshape(-1) for r in requests for i in inputs])
        assert counts[name].tolist() == torch.bincount(shown, minlength=tables[name].rows).tolist()
    assert counts["tags.weight"].sum() == 12 * LENGTH


def test_ids_are_counted_where_they_arrive_at_the_table() -> None:
    program = columns()
    tables, _ = find_prunable_tables(program)
    counts = count_ids(program, tables.values(), [{"ids": torch.tensor([[1, 1, 1], [1, 2, 2]])}])
    assert np.flatnonzero(counts["table"]).tolist() == [1, 11, 12, 19, 20]
    assert counts["table"][1] == 2


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_the_rarest_ids_of_all_tables_go_first(share: float) -> None:
    tables, _ = find_prunable_tables(fields())
    rng = np.random.default_rng(0)
    counts = {name: rng.integers(0, 1000, table.rows) for name, table in tables.items()}
    chosen = {part.table: part for part in choose_rows(tables.values(), counts, share)}
    gone = np.concatenate([counts[name][part.shared_mask()] for name, part in chosen.items()])
    common = [n for table in tables.values() for n in table.reserved_ids]
    stay = np.concatenate(
        [
            np.delete(counts[name], [*np.flatnonzero(part.shared_mask()), *tables[name].reserved_ids])
            for name, part in chosen.items()
        ]
    )
    assert common
    assert len(gone) == int(share * sum(table.rows for table in tables.values()))
    assert gone.max() <= stay.min()


def test_padding_and_unknown_keep_their_rows_however_rare_they_are() -> None:
    tables, _ = find_prunable_tables(fields(padding=3))
    counts = {name: np.where(np.isin(np.arange(t.rows), list(t.reserved_ids)), 0, 100) for name, t in tables.items()}
    assert tables["tags.weight"].reserved_ids == {0, 3, 4}
    for part in choose_rows(tables.values(), counts, 0.9):
        assert not part.shared_mask()[list(tables[part.table].reserved_ids)].any()


def test_auto_gives_up_a_small_part_of_the_lookups() -> None:
    tables, _ = find_prunable_tables(fields())
    counts = {name: np.where(np.arange(t.rows) < t.rows // 2, 10_000, 1) for name, t in tables.items()}
    parts = choose_rows(tables.values(), counts, "auto")
    assert {part.table for part in parts} == set(tables)
    for part in parts:
        assert part.retained_count == part.rows // 2
        assert counts[part.table][part.shared_mask()].sum() <= RARE_LOOKUP_FRACTION * counts[part.table].sum()


def test_a_table_stays_whole_where_its_remap_would_be_larger_than_what_goes() -> None:
    tables, _ = find_prunable_tables(fields())
    (user,) = [t for name, t in tables.items() if name == "user.weight"]
    few = user.rows // user.dim + 1  # (few - 1) · dim is at most rows

    def chosen(rare: int) -> int:
        return len(
            choose_rows([user], {user.name: np.r_[np.full(user.rows - rare, 1_000_000), np.zeros(rare)]}, "auto")
        )

    assert (chosen(few), chosen(few + 1)) == (0, 1)


def test_of_equally_rare_ids_the_highest_goes_first() -> None:
    tables, _ = find_prunable_tables(fields())
    user = tables["user.weight"]
    (part,) = choose_rows([user], {user.name: np.zeros(user.rows, dtype=np.int64)}, 0.5)
    assert part.keep == ((0, user.rows // 2 - 1),)
