"""Errors of PyTorch on the user's model, as sentences with the line of the user's code."""

from collections.abc import Iterator
from contextlib import contextmanager

from recprune_export.error_text import describe_place, summarize_error
from recprune_export.errors import RecpruneError
from recprune_export.program.capture.source_lines import find_user_line

# Errors of operators and of code that reads a graph; not those of a full disk, Ctrl-C or a test.
FAILURES = (RuntimeError, LookupError, ValueError, TypeError, AssertionError, AttributeError, ArithmeticError)
REPORT = "this is a bug in recprune-export: please report the model; until it is fixed, avoid this operator"
# In errors on which the command line has advice.
_RESOURCES = ("alloc", "memory", "PytorchStreamWriter", "unexpected pos", "No space left")


@contextmanager
def explain_failures(doing: str, error_class: type[RecpruneError], advice: str) -> Iterator[None]:
    """Turn an error of PyTorch inside the block into one sentence: the failed step, the line, the reason, and `advice`.

    >>> from recprune_export.errors import ModelError
    >>> with explain_failures("The analysis", ModelError, "leave the layer out"):
    ...     [][1]
    Traceback (most recent call last):
    recprune_export.errors.ModelError: The analysis fails (IndexError: list index out of range): leave the layer out.
    """
    try:
        yield
    except RecpruneError:
        raise
    except FAILURES as error:
        text = f"{type(error).__name__}: {error}"
        if any(word in text for word in _RESOURCES):
            raise
        raise error_class(f"{doing} fails{summarize_failure(error)}: {advice}.") from error


def summarize_failure(error: BaseException) -> str:
    """Return the line of the user's code, and the first line of an error, as the end of a clause."""
    return f"{describe_place(find_user_line(error))} ({summarize_error(error)})"
