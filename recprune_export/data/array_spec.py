"""`ArraySpec`: the required form of the rows of one input."""

from dataclasses import dataclass

IdRange = tuple[int, int]


@dataclass(frozen=True)
class ArraySpec:
    """One input: dtype, shape without the batch, and the range of ids by column of the last axis (as in `signature.Input`).

    Rows of a `jagged` input have different numbers of elements; it names the input that determines this number, this or another one. If
    they are padded, a row has at most `width` elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ids: tuple[IdRange | None, ...] = ()
    jagged: str | None = None
    width: int | None = None


def describe_spread_columns(spec: ArraySpec) -> str:
    """Return the columns that may hold an input of several numbers in place of one column of lists; "" for any other input.

    >>> describe_spread_columns(ArraySpec("x", "float32", (4,))), describe_spread_columns(ArraySpec("user", "int64", ()))
    ('the columns x_0 to x_3', '')
    """
    is_spread = len(spec.shape) == 1 and spec.shape[0] > 1 and spec.jagged is None
    return f"the columns {spec.name}_0 to {spec.name}_{spec.shape[0] - 1}" if is_spread else ""


def describe_list_columns(spec: ArraySpec) -> str:
    """Return in which columns an input of several numbers is stored, in parentheses after a space; "" for any other input."""
    spread = describe_spread_columns(spec)
    return f" (a column of lists, or {spread})" if spread else ""
