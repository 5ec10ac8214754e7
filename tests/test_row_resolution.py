"""What rows can show, before the work."""

from hypothesis import assume, given
from hypothesis import strategies as st

from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.row_resolution import estimate_with_error, warn_of_few_rows

sizes = st.floats(1e-6, 1.0)


@given(sizes, sizes)
def test_a_warning_is_given_where_no_loss_at_all_could_not_be_shown(resolution: float, allowed: float) -> None:
    assume(abs(resolution / allowed - 1.0) > 1e-6)  # equal but for rounding
    warning = warn_of_few_rows("auc", 400, resolution, allowed)
    no_loss = judge_at_most(estimate_with_error(0.0, resolution / 1.96), allowed)
    assert (warning is not None) is (no_loss is Verdict.UNDECIDED)


@given(sizes, st.integers(10, 10**6))
def test_as_many_rows_as_are_asked_for_suffice(resolution: float, rows: int) -> None:
    warning = warn_of_few_rows("auc", rows, resolution, resolution / 3)
    assert warning is not None
    more = int(warning.partition("at least ")[2].partition(" rows")[0].replace(",", ""))
    assert more >= 9 * rows * 0.999
    assert warn_of_few_rows("auc", more, resolution * (rows / more) ** 0.5, resolution / 3 * (1 + 1e-9)) is None


def test_nothing_is_promised_where_nothing_may_be_lost() -> None:
    warning = warn_of_few_rows("ndcg@10", 400, 0.01, 0.0)
    assert warning is not None
    assert "allow some loss" in warning
    assert warn_of_few_rows("auc", 0, float("nan"), 0.001) is None
