"""The number of rows from which on rows are streamed from files."""

STREAM_BYTES = 1 << 29  # docs/decisions/rows-in-files.md
_BYTES_A_VALUE = 22  # bytes per value at the peak of loading into memory
_BYTES_AN_EVENT = 230  # the same per row of a log


def is_large(rows: int, columns: int) -> bool:
    """Return whether rows would take more than `STREAM_BYTES` of memory while they are loaded.

    >>> is_large(1_000_000, 11), is_large(10_000_000, 11)
    (False, True)
    """
    return rows * columns * _BYTES_A_VALUE > STREAM_BYTES


def is_large_log(events: int) -> bool:
    """Return whether the rows of a log would take more than `STREAM_BYTES` of memory while they become histories."""
    return events * _BYTES_AN_EVENT > STREAM_BYTES
