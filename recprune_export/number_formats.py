"""Formats of sizes, ratios and speeds: one function for each, so that a figure has the same form everywhere."""

from collections.abc import Mapping

from recprune_export.evidence import Estimate

TIMES = "×"
CHANGE = "+z.4f"  # a change that is rounded to zero is not negative
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def format_bytes(count: float) -> str:
    """Format bytes in a decimal unit: 1 kB is 1,000 bytes.

    >>> format_bytes(191_322), format_bytes(999), format_bytes(2.5e9), format_bytes(999_999)
    ('191 kB', '999 B', '2.50 GB', '1.00 MB')
    """
    for unit, name in _UNITS:
        if count >= unit * 0.9995:
            return f"{format_significant(count / unit)} {name}"
    return f"{count:,.0f} B"


def format_significant(value: float, digits: int = 3) -> str:
    """Format `value` with `digits` significant digits, but all digits before the decimal point.

    >>> format_significant(0.99996), format_significant(99.96), format_significant(0.0), format_significant(-1.234)
    ('1.00', '100', '0', '-1.23')
    """
    if value == 0:
        return "0"
    exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def format_estimate(estimate: Estimate, form: str = CHANGE) -> str:
    """Format a figure with its interval, each in the given format.

    >>> format_estimate(Estimate(-0.0321, -0.06, -0.00001)), format_estimate(Estimate(1.5, 1.25, 1.75), ".2f")
    ('-0.0321 [-0.0600, +0.0000]', '1.50 [1.25, 1.75]')
    """
    return f"{estimate.estimate:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def format_ratio(ratio: Estimate) -> str:
    """Format a ratio with its interval.

    >>> format_ratio(Estimate(2.7844, 2.7573, 2.8110))
    '2.78× [2.76, 2.81]'
    """
    return f"{format_significant(ratio.estimate)}{TIMES} [{format_significant(ratio.low)}, {format_significant(ratio.high)}]"


def format_speed(ratio: Estimate) -> str:
    """Format a speed-up: below 1 it is shown as slower; if the interval includes 1, neither faster nor slower is claimed.

    >>> format_speed(Estimate(2.0, 1.9, 2.1)), format_speed(Estimate(0.5, 0.4, 0.8))
    ('2.00× [1.90, 2.10] faster', '2.00× [1.25, 2.50] slower')
    >>> format_speed(Estimate(1.02, 0.97, 1.07))
    '1.02× [0.970, 1.07] as fast, possibly no difference'
    """
    ratio, word = orient_speed(ratio)
    return f"{format_ratio(ratio)} {word}" + (", possibly no difference" if word == "as fast" else "")


def orient_speed(ratio: Estimate) -> tuple[Estimate, str]:
    """Return a ratio of speeds, inverted if its whole interval is below 1, and the word for it."""
    if ratio.high < 1.0:
        return Estimate(1.0 / ratio.estimate, 1.0 / ratio.high, 1.0 / ratio.low), "slower"
    return ratio, "faster" if ratio.low > 1.0 else "as fast"


def format_share(fraction: float) -> str:
    """Format a fraction of 1.

    >>> format_share(0.69257)
    '69.3%'
    """
    return f"{fraction:.1%}"


def format_turns(turns: Mapping[str, int]) -> str:
    """Format the number of turns of each backend in a measurement of latency; `turns` is by the name of the backend.

    >>> format_turns({"pruned PyTorch": 34, "pruned ONNX": 70}), format_turns({"dense ONNX": 12, "pruned ONNX": 12})
    ('34 to 70 turns of each backend', '12 turns of each backend')
    """
    counts = sorted(set(turns.values()))
    return f"{' to '.join(f'{count:,}' for count in counts[:: max(len(counts) - 1, 1)])} turns of each backend"


def format_operations(operations: int, *, complete: bool) -> str:
    """Format a number of operations, which is a lower bound if it is not `complete`.

    >>> format_operations(13200, complete=True), format_operations(13200, complete=False)
    ('13,200', 'at least 13,200')
    """
    return f"{'' if complete else 'at least '}{operations:,}"
