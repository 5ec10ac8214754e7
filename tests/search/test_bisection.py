from hypothesis import given
from hypothesis import strategies as st

from recprune_export.search.bisection import MAX_SPARSITY, STEP, bisect_largest


@given(st.floats(0.0, 0.999), st.floats(0.05, 0.95))
def test_the_last_bracket_holds_the_answer_and_is_narrow(answer: float, first: float) -> None:
    tried: list[float] = []

    def does(sparsity: float) -> bool:
        tried.append(sparsity)
        return sparsity <= answer

    *_, last = bisect_largest(does, first)
    assert last.lower <= answer or last.lower == 0.0
    assert last.lower >= MAX_SPARSITY or last.upper > answer
    assert last.lower >= MAX_SPARSITY or (1 - last.lower) / (1 - last.upper) <= STEP * 1.001
    assert len(tried) == len(set(tried)) <= 12
