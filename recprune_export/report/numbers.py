"""Number formats of the report pages; values are rounded only here."""

from collections.abc import Sequence

from recprune_export.number_formats import format_bytes as format_plain_bytes
from recprune_export.number_formats import format_significant as format_plain_significant

TIMES, MINUS, TO, SPACE = "×", "−", "–", "\u00a0"  # no line break between a number and its unit


def format_bytes(count: float) -> str:
    r"""Format bytes in a decimal unit.

    >>> format_bytes(191_322), format_bytes(999), format_bytes(2.5e9)
    ('191\xa0kB', '999\xa0B', '2.50\xa0GB')
    """
    return format_plain_bytes(count).replace(" ", SPACE)


def format_milliseconds(value: float) -> str:
    """Format a time in ms with three significant digits.

    >>> format_milliseconds(0.054471), format_milliseconds(3.5993195), format_milliseconds(12345.6)
    ('0.0545', '3.60', '12,346')
    """
    return format_significant(value)


def format_significant(value: float, digits: int = 3) -> str:
    """Format `value` with `digits` significant digits, but all digits before the decimal point.

    >>> format_significant(0.99996), format_significant(99.96), format_significant(0.0), format_significant(-1.234)
    ('1.00', '100', '0', '−1.23')
    """
    return format_plain_significant(value, digits).replace("-", MINUS)


def format_ratio(value: float) -> str:
    """Format a ratio of speeds or sizes.

    >>> format_ratio(2.7844), format_ratio(13.5), format_ratio(1.0)
    ('2.78×', '13.5×', '1.00×')
    """
    return f"{format_significant(value)}{TIMES}"


def format_interval(pair: Sequence[float], form: str = "") -> str:
    """Format an interval in the given format, or with three significant digits.

    >>> format_interval((2.7573, 2.8110)), format_interval((-0.0042, 0.0024), "+.4f")
    ('2.76–2.81', '−0.0042 to +0.0024')
    """
    low, high = (format_signed(value, form) if form else format_significant(value) for value in pair)
    return f"{low} to {high}" if form else f"{low}{TO}{high}"


def format_signed(value: float, form: str = "+.4f") -> str:
    """Format a change, with a minus sign as wide as the plus sign.

    >>> format_signed(-0.00087), format_signed(0.00087), format_signed(-0.00001)
    ('−0.0009', '+0.0009', '0.0000')
    """
    text = format(value, form)
    return text.replace("-", MINUS) if any(digit in text for digit in "123456789") else text.lstrip("+-")


def format_percent(fraction: float) -> str:
    r"""Format a fraction of 1 as a percentage.

    >>> format_percent(0.69257)
    '69.3\xa0%'
    """
    return f"{100 * fraction:.1f}{SPACE}%".replace("-", MINUS)


def format_scientific(value: float) -> str:
    """Format an error in scientific notation.

    >>> format_scientific(1.9073e-06), format_scientific(0.0)
    ('1.9e−06', '0')
    """
    return "0" if value == 0 else f"{value:.1e}".replace("-", MINUS)


def format_count(count: float) -> str:
    """Format a count with thousands separators.

    >>> format_count(150593)
    '150,593'
    """
    return f"{count:,.0f}"
