"""One line on an error of a library or of the user's code, for a message."""


def summarize_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its text.

    >>> summarize_error(ValueError("no weights here\\nat all"))
    'ValueError: no weights here'
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
