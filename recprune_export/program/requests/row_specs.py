"""Required form of the rows of a file for the inputs of a program."""

from recprune_export.data.array_spec import ArraySpec
from recprune_export.program.signature import IdRange, Input


def make_array_spec(spec: Input, ids: tuple[IdRange | None, ...]) -> ArraySpec:
    """Return the required form of the rows of an input with the valid `ids`."""
    jagged = spec.jagged
    shape = tuple(size for size in spec.shape[1:] if isinstance(size, int))
    if jagged is None:
        return ArraySpec(spec.name, spec.dtype, shape, ids)
    return ArraySpec(spec.name, spec.dtype, shape, ids, jagged.present, shape[0] if jagged.padded else None)
