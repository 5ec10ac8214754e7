import re

from recprune_export import errors
from recprune_export.errors import RecpruneError


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    others = "ValidationFailed|SlowerThanPyTorch|Undecided|TooFewBytes|TooLittleTime"
    told = re.findall(rf"([A-Z]\w+Error|{others})\b(?: +(\d))?", errors.__doc__.split("The number")[0])
    classes = {c.__name__: c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RecpruneError)}
    assert {name for name, _ in told} == set(classes)
    assert all(classes[name].exit_code == int(code) for name, code in told if code)
