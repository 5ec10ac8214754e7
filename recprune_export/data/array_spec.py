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
