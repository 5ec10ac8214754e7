"""The comparison at equal bytes: its metrics equal plain references, its bounds cover, and it chooses the file that it should."""

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from recprune_export.api import load_model, make_task
from recprune_export.data import SchemaOverrides
from recprune_export.onnx import export_onnx
from recprune_export.pipeline import make_predictor
from recprune_export.settings import Settings
from recprune_export.training import train

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        names = ("bytes_scores", "bytes_verdicts", "bytes_files", "bytes_cells", "bytes_table")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def scores(modules: SimpleNamespace) -> ModuleType:
    return modules.bytes_scores


@pytest.fixture
def verdicts(modules: SimpleNamespace) -> ModuleType:
    return modules.bytes_verdicts


def make_rows(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with a few ties, and labels, [count] each."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    return np.round(positive + rng.normal(0.0, noise, count), 1), positive


def test_auc_counts_pairs_in_order(scores: ModuleType) -> None:
    values, positive = make_rows(60, 1.0, 0)
    pairs = [np.sign(a - b) for a, b in itertools.product(values[positive], values[~positive])]
    area, influence = scores.compute_auc(values, positive)
    assert area == pytest.approx(np.mean([(1 + sign) / 2 for sign in pairs]))
    assert influence.sum() == pytest.approx(0.0, abs=1e-12)


def test_influence_is_the_derivative_by_copies_of_a_row(scores: ModuleType) -> None:
    values, positive = make_rows(500, 1.0, 1)
    area, influence = scores.compute_auc(values, positive)
    for row in (0, 17, int(np.flatnonzero(positive)[0])):
        doubled, _ = scores.compute_auc(np.append(values, values[row]), np.append(positive, positive[row]))
        assert doubled - area == pytest.approx(influence[row], rel=0.05, abs=1e-6)


def test_logloss_and_ece_equal_plain_formulas(scores: ModuleType) -> None:
    logits, positive = make_rows(300, 2.0, 2)
    probability = 1.0 / (1.0 + np.exp(-logits))
    plain = -np.mean(np.log(np.where(positive, probability, 1.0 - probability)))
    assert scores.compute_logloss(logits, positive) == pytest.approx(plain)
    gaps = [
        abs((probability[inside] - positive[inside]).sum())
        for low in np.arange(15)
        if (inside := (probability * 15 >= low) & (probability * 15 < low + 1)).any()
    ]
    assert scores.compute_ece(probability, positive) == pytest.approx(sum(gaps) / 300)


def test_ranks_leave_out_excluded_items_and_count_ties_as_before(scores: ModuleType) -> None:
    from recprune_export.data import Ragged, Rows

    excluded = Ragged(np.array([1]), np.array([0, 1, 1, 1]))
    rows = Rows({"history": np.zeros((3, 2))}, {"next_item": np.array([3, 3, 0])}, excluded)
    table = np.array([[9.0, 5.0, 1.0, 2.0], [9.0, 5.0, 2.0, 2.0], [9.0, 5.0, 2.0, 2.0]], dtype=np.float32)
    answer = scores.rank_next_items(table, rows)
    assert answer["rank"].tolist() == [0, 2, scores.NO_RANK]
    first = np.exp(2.0) / np.exp([5.0, 1.0, 2.0]).sum()
    assert answer["log_probability"][0] == pytest.approx(np.log(first))
    assert scores.compute_gains(answer["rank"])[2] == 0.0


def make_quality(scores: ModuleType, values: np.ndarray, positive: np.ndarray) -> object:
    area, influence = scores.compute_auc(values, positive)
    return scores.Quality(area, 0.0, 0.0, 0.0, influence)


def test_a_bound_of_rows_equals_a_bootstrap_that_draws_them(modules: SimpleNamespace) -> None:
    scores, verdicts = modules.bytes_scores, modules.bytes_verdicts
    before, positive = make_rows(2000, 0.8, 3)
    after = before + np.random.default_rng(4).normal(0.0, 0.3, len(before))
    change = verdicts.paired_change(
        [make_quality(scores, before, positive)], [make_quality(scores, after, positive)], relative=False
    )
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 2000, 2000) for _ in range(300)]
    changes = [
        scores.compute_auc(after[r], positive[r])[0] - scores.compute_auc(before[r], positive[r])[0] for r in drawn
    ]
    spread = np.std(changes)
    assert change.low == pytest.approx(np.quantile(changes, 0.05), abs=0.3 * spread)
    assert change.high == pytest.approx(np.quantile(changes, 0.95), abs=0.3 * spread)


@pytest.mark.parametrize("relative", [False, True])
def test_the_same_answers_have_no_change(modules: SimpleNamespace, relative: bool) -> None:
    scores, verdicts = modules.bytes_scores, modules.bytes_verdicts
    qualities = [make_quality(scores, *make_rows(200, 1.0, seed)) for seed in range(3)]
    change = verdicts.paired_change(qualities, qualities, relative=relative)
    assert (change.value, change.low, change.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    assert verdicts.judge_loss(change, 1e-6) == verdicts.NO_LOSS


def test_seeds_that_differ_widen_the_bounds(modules: SimpleNamespace) -> None:
    scores, verdicts = modules.bytes_scores, modules.bytes_verdicts
    flat = np.zeros(100)
    before = [scores.Quality(0.9, 0.0, 0.0, 0.0, flat)] * 3
    after = [scores.Quality(0.9 + step, 0.0, 0.0, 0.0, flat) for step in (-0.01, 0.0, 0.01)]
    change = verdicts.paired_change(before, after, relative=False)
    assert change.value == pytest.approx(0.0)
    # The standard error of a mean of three values is .01 / sqrt(3).
    assert change.high == pytest.approx(1.645 * 0.01 / np.sqrt(3), rel=0.25)
    assert verdicts.judge_loss(change, 0.0005) == verdicts.UNDECIDED


def test_a_relative_change_is_that_of_the_ratio(modules: SimpleNamespace) -> None:
    scores, verdicts = modules.bytes_scores, modules.bytes_verdicts
    rng = np.random.default_rng(6)
    gains = rng.random(400)

    def quality(values: np.ndarray) -> object:
        return scores.Quality(values.mean(), 0.0, None, 0.0, (values - values.mean()) / len(values))

    # All gains fall by a tenth: the ratio does not depend on the rows.
    change = verdicts.paired_change([quality(gains)], [quality(0.9 * gains)], relative=True)
    assert (change.value, change.low, change.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_a_contestant_that_is_better_on_all_rows_is_named(modules: SimpleNamespace) -> None:
    scores, verdicts = modules.bytes_scores, modules.bytes_verdicts
    values, positive = make_rows(2000, 1.0, 7)
    ours = [make_quality(scores, values, positive)] * 2
    better = [make_quality(scores, values + positive, positive)] * 2
    contest = verdicts.compare_contestants(ours, {"better": better, "same": ours}, relative=False)
    assert contest.worse_than == ("better",)
    assert not contest.is_best
    assert verdicts.compare_contestants(better, {"ours": ours}, relative=False).is_best


@pytest.mark.parametrize("limit", [10, 55, 120, 200, 1000])
def test_bisection_chooses_what_a_look_at_every_file_would(modules: SimpleNamespace, limit: int) -> None:
    verdicts, files = modules.bytes_verdicts, modules.bytes_files
    sizes = {s: int(400 * (1.0 - s)) for s in files.SPARSITIES}
    known: dict[float, int] = {}
    while (sparsity := files.find_next_sparsity(known, [limit])) is not None:
        assert sparsity not in known
        known[sparsity] = sizes[sparsity]
    assert verdicts.choose_largest_fitting(known, limit) == verdicts.choose_largest_fitting(sizes, limit)
    assert len(known) <= 4


@pytest.mark.parametrize(
    ("data", "recommender", "labels", "names"),
    [("clicks_file", "dlrm", ("clicked",), ("auc", "logloss", "ece")), ("sequences_file", "sasrec", (), ("ndcg@10",))],
)
def test_metrics_of_a_file_are_those_of_the_package(
    scores: ModuleType, tmp_path: Path, request: pytest.FixtureRequest, data: str, recommender: str,
    labels: tuple[str, ...], names: tuple[str, ...],
) -> None:  # fmt: skip
    rows = request.getfixturevalue(data)
    config = {"dim": 8} if recommender == "sasrec" else {"dim": 8, "hidden": (16,)}
    train(rows, recommender, tmp_path / "model.pt", SchemaOverrides(labels=labels), config, epochs=1)
    loaded = load_model(tmp_path / "model.pt", None, {})
    task = make_task(loaded, rows, (), Settings(metrics=names))
    file = export_onnx(loaded.program, tmp_path / "model.onnx")
    truth = scores.find_truth(task)
    quality = scores.measure_quality(scores.answer_test_rows(file.path, task), truth)
    expected = task.test(make_predictor(file))
    for name, value in zip(names, (quality.metric, quality.logloss, quality.ece), strict=False):
        assert value == pytest.approx(expected[name], abs=1e-5)
    assert 0 < truth.is_rare.sum() < len(truth.is_rare)


def test_an_interrupted_run_leaves_whole_cells_only(modules: SimpleNamespace, tmp_path: Path) -> None:
    cells, scores = modules.bytes_cells, modules.bytes_scores
    folder = cells.CellFolder(tmp_path)
    key = cells.Key("frappe/dlrm", 1, "ours", 10.0)
    values, positive = make_rows(100, 1.0, 8)
    truth = scores.Truth({"label": positive.astype(np.float32)}, np.arange(100) < 30)
    quality = scores.measure_quality({"label": values}, truth)
    cell = cells.Cell(
        key.case, key.seed, key.contestant, key.point, 10, 100, 1.0,
        {"1": {"file": 1.0, "dense": 2.0, "log_ratios": [0.7]}}, quality.metric, 0.1, 0.1, 0.9, "", "abc", 1.0, 1.0,
    )  # fmt: skip
    assert not folder.has(key)
    folder.add(cell, {"label": values}, truth)
    assert folder.has(key)
    assert folder.cells == [cell]
    assert folder.read_quality(key).metric == quality.metric
    assert cell.percent == 10.0


def test_targets_are_those_of_the_case(modules: SimpleNamespace) -> None:
    find = modules.bytes_table.find_target
    assert find("anime/dcn_v2", 3.0) == 0.001
    assert find("frappe/deepfm", 5.0) == 0.003
    assert find("frappe/deepfm", 10.0) == 0.0005
    assert find("frappe/deepfm", 3.0) is None
