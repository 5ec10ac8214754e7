from hypothesis import given
from hypothesis import strategies as st

from recprune_export.search.bisection import MOST, STEP, largest


@given(st.floats(0.0, 0.999), st.floats(0.05, 0.95))
def test_the_last_bracket_holds_the_answer_and_is_narrow(answer: float, first: float) -> None:
    tried: list[float] = []

    def does(sparsity: float) -> bool:
        tried.append(sparsity)
        return sparsity <= answer

    *_, last = largest(does, first)
    assert last.fine <= answer or last.fine == 0.0
    assert last.fine >= MOST or last.too_much > answer
    assert last.fine >= MOST or (1 - last.fine) / (1 - last.too_much) <= STEP * 1.001
    assert len(tried) == len(set(tried)) <= 12
