import pytest

from recprune_export.byte_limit import parse_byte_limit
from recprune_export.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20MB", 20_000_000),
        ("1.5kB", 1500),
        ("16MiB", 1 << 24),
        ("123456", 123_456),
        ("10%", 100_000),
        ("2.5 %", 25_000),
    ],
)
def test_sizes_and_percentages_of_a_dense_file_of_a_megabyte(text: str, expected: int) -> None:
    assert parse_byte_limit(text).resolve(1_000_000) == expected


@pytest.mark.parametrize("text", ["", "0", "-5kB", "100%", "ten", "5 apples", "5 i", "1e3", "9" * 400])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="10% of the dense file"):
        parse_byte_limit(text)
