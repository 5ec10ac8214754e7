import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.column_names import check_columns_exist, list_names, suggest_name
from recprune_export.errors import DataError

NAMES = st.lists(st.text("abcdefgh_", min_size=3, max_size=12), min_size=1, max_size=8, unique=True)


@given(NAMES, st.data())
def test_a_name_in_another_case_is_suggested(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert suggest_name(name.upper(), names) == name


def test_the_message_lists_the_columns_and_suggests_the_nearest() -> None:
    with pytest.raises(
        DataError,
        match=r"a\.csv has no column 'clikked', which --label names; its columns are user, Clicked; .*'Clicked'",
    ):
        check_columns_exist("a.csv", ["user", "clikked"], ["user", "Clicked"], "which --label names")
    with pytest.raises(DataError, match=r"its columns are user, Clicked\.$"):
        check_columns_exist("a.csv", ["zzz"], ["user", "Clicked"])
    check_columns_exist("a.csv", ["user"], ["user", "Clicked"])


def test_a_wide_file_does_not_fill_the_screen() -> None:
    assert len(list_names(f"column{n}" for n in range(10_000))) < 600
