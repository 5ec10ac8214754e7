from collections.abc import Callable

import numpy as np
import pytest

from recprune_export.validation.parity import check_parity

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
        (last_is(np.nan), "is NaN or infinite where the reference is not"),
        (last_is(np.inf), "is NaN or infinite where the reference is not"),
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
