from collections.abc import Callable

import numpy as np
import pytest

from recprune_export.validation import check_parity
from recprune_export.validation.parity import Tolerances

Change = Callable[[np.ndarray], np.ndarray]
REQUESTS = {
    "test rows": {"x": np.linspace(-2, 2, 12, dtype=np.float32)},
    "one row": {"x": np.array([3.0], dtype=np.float32)},
}


def reference(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"click": request["x"] * 2, "buy": request["x"] + 1}


def changed(change: Change) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda request: {**reference(request), "buy": change(reference(request)["buy"])}


def last_is(value: float) -> Change:
    def change(values: np.ndarray) -> np.ndarray:
        return np.append(values[:-1], np.float32(value)).astype(np.float32)

    return change


def test_the_same_passes_with_no_error() -> None:
    report = check_parity(reference, reference, REQUESTS)
    assert report.passed
    assert report.rows == 13
    assert [(o.name, o.max_absolute) for o in report.outputs] == [("click", 0.0), ("buy", 0.0)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.astype(np.float64), "is float64 instead of float32"),
        (lambda v: v[:, None], "has shape"),
        (last_is(np.nan), "and the reference are not NaN or infinite"),
        (last_is(np.inf), "and the reference are not NaN or infinite"),
        (lambda v: v + np.float32(1e-3), "differs by up to 1.00e-03"),
    ],
)
def test_each_difference_is_found_and_named(change: Change, said: str) -> None:
    report = check_parity(reference, changed(change), REQUESTS)
    assert not report.passed
    assert all("'buy'" in failure for failure in report.failures)
    assert said in report.failures[0]


def test_the_request_that_is_worst_is_named() -> None:
    wrong_alone = changed(lambda v: v + np.float32(0.5) if len(v) == 1 else v)
    (buy,) = [o for o in check_parity(reference, wrong_alone, REQUESTS).outputs if o.name == "buy"]
    assert (buy.worst, buy.max_absolute) == ("one row", 0.5)


def test_what_the_reference_itself_cannot_answer_has_to_be_the_same() -> None:
    broken = changed(last_is(np.nan))
    report = check_parity(broken, broken, REQUESTS)
    assert report.passed
    (buy,) = [o for o in report.outputs if o.name == "buy"]
    assert (buy.not_finite, buy.max_absolute) == (len(REQUESTS), 0.0)
    assert not check_parity(broken, reference, REQUESTS).passed
    assert not check_parity(changed(last_is(np.inf)), broken, REQUESTS).passed


def ranked(swapped: tuple[int, int] | None, gap: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Five ids of each row with their scores; the second and the third are `gap` apart."""
    scores = np.array([3.0, 2.0, 2.0 - gap, 1.0, 0.5], dtype=np.float32)

    def answer(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(request["x"])
        items = np.tile(np.array([9, 4, 6, 1, 3]), (rows, 1))
        if swapped is not None:
            items[:, swapped] = items[:, swapped[::-1]]
        return {"items": items, "scores": np.tile(scores, (rows, 1))}

    return answer


@pytest.mark.parametrize(
    ("swapped", "gap", "passes"), [((1, 2), 1e-6, True), ((1, 2), 0.1, False), ((0, 1), 1e-6, False)]
)
def test_ids_of_equal_scores_may_change_places(swapped: tuple[int, int], gap: float, passes: bool) -> None:
    assert check_parity(ranked(None, gap), ranked(swapped, gap), REQUESTS).passed is passes


def test_ids_of_scores_that_are_nan_say_nothing() -> None:
    def answer(seed: int) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        def ids(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            shape = (len(request["x"]), 3)
            return {"items": np.random.default_rng(seed).integers(50, size=shape), "scores": np.full(shape, np.nan)}

        return ids

    assert check_parity(answer(0), answer(1), REQUESTS).passed


def test_ids_without_an_order_of_scores_have_to_be_the_same() -> None:
    def answer(first: int) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda request: {
            "best": np.array([first, *[2] * (len(request["x"]) - 1)]),
            "other": np.zeros(len(request["x"]), dtype=np.float32),
        }

    assert not check_parity(answer(0), answer(1), REQUESTS).passed


def test_a_number_near_zero_is_rounded_like_its_neighbours() -> None:
    scores = np.array([20.0, -15.0, 0.001], dtype=np.float32)
    near, far = (lambda request, by=by: {"y": scores + np.float32(by)} for by in (3e-5, 1e-3))
    assert check_parity(lambda request: {"y": scores}, near, REQUESTS).passed
    assert not check_parity(lambda request: {"y": scores}, far, REQUESTS).passed


def test_whole_numbers_are_the_same_however_large() -> None:
    ids = np.array([5_000_000, 7_000_000])
    assert not check_parity(lambda request: {"y": ids}, lambda request: {"y": ids + 1}, REQUESTS).passed


@pytest.mark.parametrize(("found", "passed"), [([7, 2], True), ([2, 7], False), ([7, 4], False)])
def test_an_id_may_stand_for_another_that_has_the_same_score(found: list[int], passed: bool) -> None:
    """The scores of all items are an output as well: 1 and 2 have the same, 7 the best, 4 another."""
    scores = np.array([[0.1, 0.5, 0.5, 0.2, 0.3, 0.1, 0.2, 0.9]], dtype=np.float32)

    def answering(ids: list[int]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda request: {"scores": scores, "items": np.array([ids])}

    request = {"one row": {"x": np.zeros((1, 1), np.float32)}}
    assert check_parity(answering([7, 1]), answering(found), request).passed == passed


@pytest.mark.parametrize("mask", [-1e4, -1e9, float(np.finfo(np.float32).min)])
def test_a_mask_beside_the_scores_lets_no_wrong_score_pass(mask: float) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    wanted = np.where(np.arange(100) % 10 > 0, np.float32(mask), scores)
    wrong = np.where(np.arange(100) % 10 > 0, np.float32(mask), scores[::-1])
    request = {"a request": {"x": scores}}
    assert check_parity(lambda _: {"y": wanted}, lambda _: {"y": wanted * np.float32(1 - 1e-6)}, request).passed
    assert not check_parity(lambda _: {"y": wanted}, lambda _: {"y": wrong}, request).passed


@pytest.mark.parametrize(("found", "passed"), [([4, 2, 3, 1], True), ([4, 3, 2, 1], True), ([4, 9, 8, 1], False)])
def test_ids_of_equal_scores_may_change_places_but_not_become_others(found: list[int], passed: bool) -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1]], dtype=np.float32)

    def answering(ids: list[int]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda request: {"scores": scores, "items": np.array([ids])}

    request = {"one row": {"x": np.zeros((1, 1), np.float32)}}
    assert check_parity(answering([4, 2, 3, 1]), answering(found), request).passed == passed


def test_a_request_has_tolerances_of_its_own() -> None:
    requests = {label: {"x": np.full(3, number)} for label, number in {"usual": 1.0, "far": 1e9}.items()}

    def compare(far: float) -> tuple[str, ...]:
        report = check_parity(
            lambda request: {"y": request["x"]},
            lambda request: {"y": request["x"] + 0.1 * request["x"]},
            requests,
            Tolerances(0.0, 0.01),
            {"far": Tolerances(0.0, far)},
        )
        return report.failures

    assert len(compare(0.01)) == 2
    (usual,) = compare(0.2)
    assert "'usual'" in usual


def of_best(scores: list[float], names: list[str]) -> dict[str, np.ndarray]:
    return {"scores": np.array([scores], dtype=np.float32), "names": np.array([names])}


@pytest.mark.parametrize(
    ("scores", "names", "passes"),
    [
        ([0.9, 0.5, 0.5, 0.1], ["a", "long name", "c", "d"], True),  # a tie of equal scores
        ([0.9, 0.6, 0.5, 0.1], ["a", "long name", "c", "d"], False),
        ([0.9, 0.5, 0.5, 0.1], ["c", "b", "a", "d"], False),
    ],
)
def test_texts_are_equal_but_for_ties_of_their_scores(scores: list[float], names: list[str], passes: bool) -> None:
    known = of_best(scores, ["a", "c", "long name", "d"])
    report = check_parity(lambda _: known, lambda _: of_best(scores, names), {"rows": REQUESTS["one row"]})
    assert report.passed is passes
    if not passes:
        assert "strings that differ" in report.failures[0]


def test_one_best_item_is_compared() -> None:
    known = {"scores": np.array([[1.0], [2.0]], dtype=np.float32), "items": np.array([[3], [4]])}
    other = {**known, "items": np.array([[3], [5]])}
    assert check_parity(lambda _: known, lambda _: known, {"rows": REQUESTS["one row"]}).passed
    assert not check_parity(lambda _: known, lambda _: other, {"rows": REQUESTS["one row"]}).passed
