"""Parts of a message on an error of a library or of the user's code: its first line, and its place."""


def first_line(error: BaseException) -> str:
    """Return the first line of the text of an error, the name of its class where it has none.

    >>> first_line(ValueError("\\n  no weights here\\nat all")), first_line(KeyError())
    ('no weights here', 'KeyError')
    """
    return _read_first_line(error) or type(error).__name__


def summarize_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its text.

    >>> summarize_error(ValueError("no weights here\\nat all")), summarize_error(KeyError())
    ('ValueError: no weights here', 'KeyError')
    """
    first = _read_first_line(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _read_first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def describe_place(line: str) -> str:
    """Return a line of the user's code as the end of a clause; an empty string if it is unknown.

    >>> describe_place("model.py, line 8"), describe_place("")
    (' at model.py, line 8', '')
    """
    return f" at {line}" if line else ""
