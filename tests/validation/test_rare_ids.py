import numpy as np
import pytest

from recprune_export.data import ArrayData, Rows
from recprune_export.finetuning import CLICK_DEFAULTS, LabeledRows, make_objective, run_program
from recprune_export.pruning import RowPlan
from recprune_export.validation.rare_ids import RareIdSelector
from tests.pruning.rare_ids.models import ITEMS, LENGTH, TAGS, USERS, fields

PARTS = (
    RowPlan.from_ids("user.weight", USERS, range(30)),
    RowPlan.from_ids("item.weight", ITEMS, range(20)),
    RowPlan.from_ids("tags.weight", TAGS, range(15)),
)


def request(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    several = {"tags": rng.integers(0, TAGS, (rows, LENGTH))}
    return {**{n: rng.integers(0, m, rows) for n, m in (("user", USERS), ("item", ITEMS), ("last", ITEMS))}, **several}


def test_a_row_is_rare_where_any_of_its_ids_shares_a_row() -> None:
    asked = request(200)
    expected = (asked["user"] >= 30) | (asked["item"] >= 20) | (asked["last"] >= 20) | (asked["tags"] >= 15).any(1)
    assert 0 < expected.sum() < 200
    np.testing.assert_array_equal(RareIdSelector(fields(), PARTS)(asked), expected)


def test_tables_that_lose_nothing_make_no_row_rare() -> None:
    asked = request(200)
    np.testing.assert_array_equal(RareIdSelector(fields(), PARTS[:1])(asked), asked["user"] >= 30)


def test_metrics_are_those_of_the_chosen_rows() -> None:
    program, asked = fields(), request(200)
    labels = {"click": (np.random.default_rng(1).random(200) < 0.5).astype(np.float32)}
    rows, rare = Rows(asked, labels), RareIdSelector(program, PARTS)
    chosen = rows.take(np.flatnonzero(rare(asked)))
    objective = make_objective(program, ("click",))
    whole, part = (LabeledRows(ArrayData(r, r, r), objective, CLICK_DEFAULTS) for r in (rows, chosen))

    def predict(asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_program(program, asked)

    assert whole.test(predict, rare) == part.test(predict) != whole.test(predict)
    assert whole.test(predict, lambda r: np.zeros(len(r["user"]), dtype=bool)) == {}


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_auc_of_a_label_that_never_changes_is_left_out(label: float) -> None:
    program, asked = fields(), request(20)
    rows = Rows(asked, {"click": np.full(20, label, dtype=np.float32)})
    task = LabeledRows(ArrayData(rows, rows, rows), make_objective(program, ("click",)), CLICK_DEFAULTS)
    assert set(task.test(lambda r: run_program(program, r))) == {"logloss"}
