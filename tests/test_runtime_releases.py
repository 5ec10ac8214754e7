"""Limits of the runtime are checked before the work, in the user's words."""

import pytest

from recprune_export.errors import UsageError
from recprune_export.runtime_releases import RuntimeTarget
from recprune_export.settings import Settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 17}, "--opset must be between 18 and 26, got 17"),
        ({"opset": 27}, "--opset must be between 18 and 26, got 27"),
        ({"runtime_min": "newest"}, "--runtime-min 'newest' is not a release of ONNX Runtime"),
        ({"runtime_min": "1.9"}, "files are tested with ONNX Runtime 1.17 and later"),
        ({"opset": 23, "runtime_min": "1.22.1"}, "--opset 23 requires ONNX Runtime 1.23, but --runtime-min is 1.22.1"),
        ({"operators": "some"}, "--operators must be one of all, onnx"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Settings().with_options(**options)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (RuntimeTarget(), True),
        (RuntimeTarget(release="1.23.2"), True),
        (RuntimeTarget(release="1.22.1"), False),
        (RuntimeTarget(operators="onnx"), False),
    ],
)
def test_releases_and_domains_limit_operators(target: RuntimeTarget, allowed: bool) -> None:
    assert target.allows("GatherBlockQuantized") is allowed
