import os

import pytest

from recprune_export.errors import UsageError, ValidationFailed
from recprune_export.validation import call_fresh


def pid_and(number: int, words: list[str]) -> dict[str, object]:
    print("something else on standard output")  # noqa: T201
    return {"pid": os.getpid(), "number": number + 1, "words": words}


def users_mistake() -> None:
    raise UsageError("There is no such thing: take another.")


def test_it_is_another_process_with_our_arguments() -> None:
    found = call_fresh("tests.validation.latency.test_fresh_process:pid_and", number=1, words=["ä", '"'])
    assert found["pid"] != os.getpid()
    assert (found["number"], found["words"]) == (2, ["ä", '"'])


def test_the_users_errors_come_back_as_they_are() -> None:
    with pytest.raises(UsageError, match=r"^There is no such thing: take another\.$"):
        call_fresh("tests.validation.latency.test_fresh_process:users_mistake")


def test_other_errors_are_said_in_one_line() -> None:
    with pytest.raises(ValidationFailed, match="math:sqrt failed in a separate process: TypeError") as caught:
        call_fresh("math:sqrt", x=-1)
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_is_said() -> None:
    with pytest.raises(ValidationFailed, match="ended with code"):
        call_fresh("os:_exit", status=3)
