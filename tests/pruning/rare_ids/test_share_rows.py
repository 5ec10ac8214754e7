from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from recprune_export.errors import PruningError
from recprune_export.onnx import count, export_onnx, make_session, remap_bytes, run
from recprune_export.program import Program, tensor_at
from recprune_export.pruning import (
    RowPlan,
    apply_plan,
    check_rows,
    check_soundness,
    choose_rows,
    find_prunable_tables,
    share_rows,
)
from recprune_export.pruning.rare_ids._share_rows import SMOOTHING, compute_shared_row
from recprune_export.validation import make_every_id_requests
from tests.properties import random_plan
from tests.pruning.rare_ids.models import columns, fields, tied

MODELS: dict[str, Callable[[], Program]] = {
    "fields": fields, "another padding": lambda: fields(padding=3), "columns": columns,
}  # fmt: skip


@cache
def model(name: str) -> Program:
    return MODELS[name]()


def random_rows(program: Program, seed: int) -> tuple[tuple[RowPlan, ...], dict[str, np.ndarray]]:
    """Keep rows by chance, and counts by chance."""
    rng = np.random.default_rng(seed)
    tables, _ = find_prunable_tables(program)
    counts = {name: rng.integers(0, 9, table.rows) for name, table in tables.items()}
    parts = []
    for name, table in tables.items():
        keep = rng.random(table.rows) < rng.random()
        keep[list(table.reserved_ids)] = True
        keep[rng.permutation([i for i in range(table.rows) if i not in table.reserved_ids])[0]] = False
        parts.append(RowPlan.from_ids(name, table.rows, np.flatnonzero(keep)))
    return tuple(parts), counts


def overwritten(program: Program, rows: tuple[RowPlan, ...], counts: dict[str, np.ndarray]) -> Program:
    """The same model, its shared row written over each row that goes."""
    copy = program.with_copied_parameters()
    with torch.no_grad():
        for part in rows:
            table = tensor_at(copy.module, part.table)
            gone = np.flatnonzero(part.shared_mask())
            table[gone] = compute_shared_row(table, part, counts[part.table])
    return copy


def answers(program: Program, request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        response = program({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in request.items()})
    return {name: value.numpy() for name, value in response.items()}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MODELS)
def test_remapped_equals_overwritten_on_every_id(name: str, seed: int) -> None:
    program = model(name)
    rows, counts = random_rows(program, seed)
    smaller, reference = share_rows(program, rows, counts), overwritten(program, rows, counts)
    assert smaller.signature == program.signature
    for part in rows:
        assert len(tensor_at(smaller.module, part.table)) == part.retained_count + 1
    for request in make_every_id_requests(program.signature).values():
        for output, value in answers(reference, request).items():
            np.testing.assert_array_equal(answers(smaller, request)[output], value)
    assert check_rows(program, smaller, rows).error == 0.0


def test_the_original_is_left_as_it_is() -> None:
    program = fields()
    before = {name: p.detach().clone() for name, p in program.parameters().items()}
    code = program.module.code
    share_rows(program, *random_rows(program, 0))
    assert program.module.code == code
    assert all(torch.equal(before[name], p) for name, p in program.parameters().items())


def test_the_shared_row_is_the_mean_weighted_by_frequency() -> None:
    table = torch.randn(5, 3, dtype=torch.float64)
    part, count = RowPlan.from_ids("t", 5, [0, 3]), np.array([9, 4, 0, 9, 1])
    expected = (4.5 * table[1] + 0.5 * table[2] + 1.5 * table[4]) / 6.5
    assert SMOOTHING == 0.5
    torch.testing.assert_close(compute_shared_row(table, part, count), expected)
    torch.testing.assert_close(compute_shared_row(table, part, None), table[[1, 2, 4]].mean(0))


def test_the_padding_moves_with_its_row_and_gets_no_gradient() -> None:
    program = fields(padding=3)
    part = RowPlan.from_ids("tags.weight", 17, [0, 3, 4, 9])
    smaller = share_rows(program, (part,), {})
    lookups = [
        n for n in smaller.module.graph.nodes if n.target is torch.ops.aten.embedding.default and len(n.args) > 2
    ]
    assert [n.args[2] for n in lookups] == [1]
    torch.testing.assert_close(tensor_at(smaller.module, "tags.weight")[1], tensor_at(program.module, "tags.weight")[3])
    request = {i.name: torch.full((2, *i.shape[1:]), 3) for i in smaller.signature.inputs}  # type: ignore[arg-type]
    smaller({**request, "tags": torch.tensor([[3, 0, 5, 6], [9, 9, 3, 4]])})["click"].sum().backward()
    moved = dict(smaller.module.named_parameters())["tags.weight"].grad
    assert moved is not None
    assert (moved != 0).any(1).tolist() == [True, False, True, True, True]  # the last is the shared row: ids 5 and 6


def test_a_table_that_also_scores_is_refused_and_the_others_are_not() -> None:
    program = tied()
    tables, refused = find_prunable_tables(program)
    assert list(tables) == ["users.weight"]  # positions are looked up by constants: they are no table of ids
    assert [r.table for r in refused] == ["items.weight"]
    assert "read as a whole, by aten." in refused[0].reason
    assert "models.py" in refused[0].reason
    with pytest.raises(PruningError, match=r"rows of 'items.weight', but it is also read as a whole"):
        share_rows(program, (RowPlan.from_ids("items.weight", 23, [0, 1]),), {})


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (RowPlan.from_ids("nobody", 40, [0]), "no such table"),
        (RowPlan.from_ids("user.weight", 41, [0]), "in this model it has 40"),
        (RowPlan.from_ids("tags.weight", 17, [1, 2]), "the row of id 0"),
        (RowPlan("user.weight", 40, ((0, 39),)), "between 1 and 39"),
    ],
)
def test_rows_of_another_model_are_refused(part: RowPlan, said: str) -> None:
    with pytest.raises(PruningError, match=said):
        share_rows(fields(), (part,), {})


def test_a_wrong_remap_is_found() -> None:
    program = fields()
    rows, counts = random_rows(program, 1)
    smaller = share_rows(program, rows, counts)
    remap = tensor_at(smaller.module, "remap_item_weight")
    remap[int(rows[1].retained_ids()[-1])] = 0
    with pytest.raises(PruningError, match="differs from the original with these rows overwritten"):
        check_rows(program, smaller, rows)


def test_channels_are_removed_from_what_is_left() -> None:
    program = fields()
    smaller = share_rows(program, *random_rows(program, 2))
    analysis = smaller.analysis
    assert analysis.tables >= {"user.weight", "item.weight", "tags.weight"}
    plan = random_plan(analysis, seed=0)
    pruned = apply_plan(smaller, plan)
    assert check_soundness(smaller, plan, pruned).error < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_same_for_every_id(name: str, tmp_path: Path) -> None:
    program = model(name)
    tables, _ = find_prunable_tables(program)
    counts = {n: np.random.default_rng(0).integers(0, 9, t.rows) for n, t in tables.items()}
    rows = choose_rows(tables.values(), counts, 0.6)
    smaller = share_rows(program, rows, counts)
    file = export_onnx(smaller, tmp_path / "m.onnx")
    assert file.signature.inputs == program.signature.inputs
    session = make_session(file.path, 1)
    for request in make_every_id_requests(program.signature).values():
        for output, value in run(session, request).items():
            np.testing.assert_allclose(value, answers(smaller, request)[output], rtol=1e-5, atol=1e-5)
    kept = {part.table: part.retained_count + 1 for part in rows}
    assert count(file.path).tables.parameters == sum(kept.get(n, t.rows) * t.dim for n, t in tables.items())
    assert remap_bytes(file.path) == 4 * sum(part.rows for part in rows)


def test_a_saved_program_keeps_its_ids(tmp_path: Path) -> None:
    program = fields()
    smaller = share_rows(program, *random_rows(program, 3))
    smaller.save(tmp_path / "m.pt2")
    loaded = Program.load(tmp_path / "m.pt2")
    assert loaded.signature == program.signature
    for request in make_every_id_requests(program.signature).values():
        np.testing.assert_array_equal(answers(loaded, request)["click"], answers(smaller, request)["click"])
