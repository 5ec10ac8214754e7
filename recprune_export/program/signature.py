"""Inputs and outputs of a program: names, dtypes, shapes, and valid ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from recprune_export.codec import OMIT_DEFAULT, DictMixin
from recprune_export.column_names import did_you_mean, list_names
from recprune_export.errors import UsageError

BATCH = "batch"

Axis = int | str  # a size, or BATCH; for an output also a term such as "12*batch"
IdRange = tuple[int, int]  # lowest and highest valid id, both inclusive
BadId = int | str | None  # the replacement of an id out of range: an id, or ERROR; None without ids
ERROR = "error"  # a request with such an id is refused


LENGTHS, OFFSETS, OFFSETS_AND_END = "lengths", "offsets", "offsets and end"


@dataclass(frozen=True)
class Jagged(DictMixin):
    """The form in which a file takes an input whose rows have different numbers of elements, such as the ids of an `EmbeddingBag`.

    `counts` are the smallest and the largest number of elements of a row in sampled requests; a row of traffic may have more. `present`
    names the input that determines the elements of a row: the input itself, or the ids whose weights it contains.

    The file takes the elements of all rows one after another in the tensor `values`, and the ends of the rows in the tensor
    `rows`, of dtype `rows_dtype`. Its `form` is "lengths", the number of elements of each row; "offsets", the position of
    its first one; or "offsets and end", followed by the number of all elements. Inputs with the same `rows` tensor follow one another in
    it, or, if it is `stacked`, are on axis 0 before the batch (on axis 1 after the batch with `keys_last`); inputs with the same `values`
    tensor follow one another. A `padded` input is a matrix in the file too, with -1 (NaN for numbers) where a row has no element.
    """

    counts: tuple[int, int]
    present: str
    values: str
    rows: str
    rows_dtype: str = "int64"
    form: str = LENGTHS
    stacked: bool = field(default=False, metadata=OMIT_DEFAULT)
    padded: bool = field(default=False, metadata=OMIT_DEFAULT)
    keys_last: bool = field(default=False, metadata=OMIT_DEFAULT)


@dataclass(frozen=True)
class Input(DictMixin):
    """One tensor of a request.

    `ids` is empty for an input that is not used as ids. Otherwise it holds one range that is valid for every
    element, or one range for each index of the last axis (a matrix whose columns are fields); a column
    that is not used as ids has the range `None`. A `shared` input has one row, for all candidates of a request.

    `observed` holds the lowest and the highest number, ids excluded, in the example request, if they differ; `observed_columns` those of
    each column of a matrix of integers, if columns differ.

    `bad_ids` states, for each range, what the exported graph does with an id outside it: replace it by this id, or refuse the request.
    Numbers beyond ±`number_limit` are clipped to ±`number_limit`; NaN stays NaN. An input without `bad_ids` and `number_limit` is read
    unchanged.

    A `jagged` input has rows with different numbers of elements (`jagged_inputs.py`): `shape` is that of sampled requests.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    ids: tuple[IdRange | None, ...] = ()
    observed: tuple[float, float] | None = None
    shared: bool = field(default=False, metadata=OMIT_DEFAULT)
    bad_ids: tuple[BadId, ...] = field(default=(), metadata=OMIT_DEFAULT)
    number_limit: float | None = field(default=None, metadata=OMIT_DEFAULT)
    observed_columns: tuple[tuple[float, float], ...] = field(default=(), metadata=OMIT_DEFAULT)
    jagged: Jagged | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True)
class Output(DictMixin):
    """One tensor of a response."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]


@dataclass(frozen=True)
class Signature(DictMixin):
    """The inputs and outputs of a program, in order.

    >>> signature = Signature((Input("user", "int64", (BATCH,), ((0, 9),)),), (Output("click", "float32", (BATCH,)),))
    >>> Signature.from_dict(signature.to_dict()) == signature
    True
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def with_shared(self, names: Sequence[str]) -> Self:
        """Return the signature in which the named inputs have one row, shared by all rows of the other inputs.

        Raises `UsageError` for an unknown input, and if no input would keep a row for each candidate.

        >>> user, item = Input("user", "int64", (BATCH,)), Input("item", "int64", (BATCH,))
        >>> [i.shape for i in Signature((user, item), ()).with_shared(["user"]).inputs]
        [(1,), ('batch',)]
        """
        known = [i.name for i in self.inputs if i.shape and i.shape[0] == BATCH]
        jagged = next((i.name for i in self.inputs if i.name in names and i.jagged is not None), None)
        if jagged is not None:
            raise UsageError(
                f"--shared-inputs names '{jagged}', whose rows have different numbers of elements; leave it out."
            )
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise UsageError(
                f"--shared-inputs names '{unknown}', which is not an input with a batch; choose from {list_names(known)}"
                f"{did_you_mean(unknown, known)}"
            )
        if names and set(names) == set(known):
            raise UsageError("--shared-inputs contains every input; leave out those that differ between candidates.")
        inputs = tuple(replace(i, shape=(1, *i.shape[1:]), shared=True) if i.name in names else i for i in self.inputs)
        return replace(self, inputs=inputs)

    def without_shared(self) -> Self:
        """Return the signature in which each input has a row for each row of the request.

        >>> user, item = Input("user", "int64", (BATCH,)), Input("item", "int64", (BATCH,))
        >>> Signature((user, item), ()).with_shared(["user"]).without_shared().inputs == (user, item)
        True
        """
        inputs = (replace(i, shape=(BATCH, *i.shape[1:]), shared=False) for i in self.inputs)
        return replace(self, inputs=tuple(inputs))

    def with_padded(self, width: int) -> Self:
        """Return the signature in which a file takes each jagged input as a matrix of `width` columns.

        Raises `UsageError` if no input is jagged.
        """
        if all(i.jagged is None for i in self.inputs):
            raise UsageError(
                "--padded: every input of the model has the same number of elements in each row; leave it out."
            )
        inputs = []
        for spec in self.inputs:
            if spec.jagged is not None:
                low, high = spec.jagged.counts
                jagged = replace(spec.jagged, counts=(min(low, width), min(high, width)), padded=True)
                spec = replace(spec, shape=(BATCH, width, *spec.shape[2:]), jagged=jagged)
            inputs.append(spec)
        return replace(self, inputs=tuple(inputs))
