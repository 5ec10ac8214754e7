"""The smallest change of a metric that a number of rows can detect, estimated before the job."""

from math import ceil

from recprune_export.evidence import Estimate

STANDARD_ERRORS = 1.96  # of a 95 % interval
# Half width of the paired interval between a model and its pruned copy, as a fraction of that of the metric itself: the
# smallest of eight bundles was 0.027, the largest 0.38 (docs/decisions/one-rule-of-evidence.md).
PAIRED_FRACTION = 0.03


def estimate_with_error(estimate: float, error: float) -> Estimate:
    """Return the 95 % interval of a mean of many rows with the standard error `error`.

    >>> estimate_with_error(0.5, 0.01)
    Estimate(estimate=0.5, low=0.4804, high=0.5196)
    """
    half = STANDARD_ERRORS * error
    return Estimate(estimate, estimate - half, estimate + half)


def expected_resolution(error: float, fraction: float = PAIRED_FRACTION) -> float:
    """Return the least half width that the interval of a change can be expected to have, in the unit of the metric.

    `error` is the standard error of the metric of the dense model on the rows that will judge. The change is measured on
    the same rows before and after, where most of that error cancels: at least the fraction `fraction` remains, and more if the models
    differ more.

    >>> round(expected_resolution(0.01), 6)
    0.000588
    """
    return STANDARD_ERRORS * error * fraction


def format_resolution(rows: int, resolution: float, kind: str = "rows") -> str:
    """Describe the resolution of rows of a kind, half the width of the 95 % interval.

    >>> format_resolution(1200, 0.0312), format_resolution(1200, 0.0312, "test rows")
    ('these 1,200 rows give an interval of +-0.031', 'these 1,200 test rows give an interval of +-0.031')
    """
    return f"these {rows:,} {kind} give an interval of +-{resolution:.2g}"


def warn_of_few_rows(metric: str, rows: int, resolution: float, allowed: float) -> str | None:
    """Return a warning if `rows` rows cannot show that `metric` loses at most `allowed`, even if nothing is lost; else None.

    `resolution` is the smallest possible one, from `expected_resolution`.

    >>> warn_of_few_rows("auc", 400, 0.02, 0.01)
    'These 400 rows give an interval of +-0.02 of auc at best, more than the allowed 0.01: give at least 1,600 rows, or allow more.'
    >>> warn_of_few_rows("auc", 400, 0.02, 0.05)
    """
    if not resolution > allowed:  # NaN: nothing is known
        return None
    advice = f"give at least {_round_up(rows * (resolution / allowed) ** 2):,} rows, or allow more" if allowed else (
        "no number of rows can show a loss of exactly 0, so allow some loss"
    )  # fmt: skip
    return (
        f"These {rows:,} rows give an interval of +-{resolution:.2g} of {metric} at best, more than the allowed {allowed:g}: "
        f"{advice}."
    )


def _round_up(rows: float) -> int:
    """Round up to two digits.

    >>> _round_up(1999.0), _round_up(14400.0)
    (2000, 15000)
    """
    step = 10 ** max(0, len(str(int(rows))) - 2)
    return ceil(rows / step) * step
