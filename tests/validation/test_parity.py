from collections.abc import Callable

import numpy as np
import pytest

from recprune_export.validation.parity import Tolerances, check_parity

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
        (last_is(np.nan), "is not finite"),
        (last_is(np.inf), "is not finite"),
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


def test_a_reference_that_is_not_finite_fails_as_well() -> None:
    broken = changed(last_is(np.nan))
    assert "in the reference" in check_parity(broken, broken, REQUESTS).failures[0]


def test_missing_outputs_and_errors_are_failures() -> None:
    def fails(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("no kernel")

    assert "no kernel" in check_parity(reference, fails, REQUESTS).failures[0]
    less = check_parity(reference, lambda request: {"click": request["x"] * 2}, REQUESTS)
    assert "instead of ['buy', 'click']" in less.failures[0]


@pytest.mark.parametrize(("excess", "passes"), [(0.999, True), (1.001, False)])
def test_the_tolerance_is_what_it_says(excess: float, passes: bool) -> None:
    tolerances = Tolerances(absolute=0.25, relative=0.5)
    ones = {"y": {"x": np.ones(3)}}
    off = excess * (0.25 + 0.5 * 1.0)
    report = check_parity(lambda r: {"y": r["x"]}, lambda r: {"y": r["x"] + off}, ones, tolerances)
    assert report.passed == passes
