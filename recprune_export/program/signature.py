"""Inputs and outputs of a program: names, dtypes, shapes, and valid ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from recprune_export.errors import UsageError

BATCH = "batch"

Axis = int | str  # a size, or BATCH; of an output also a term such as "12*batch"
IdRange = tuple[int, int]  # lowest and highest valid id, both inclusive


@dataclass(frozen=True)
class Input:
    """One tensor of a request.

    `ids` is empty for an input that is not used as ids. Otherwise it holds one range that is valid for every
    element, or one range for each index of the last axis (a matrix whose columns are fields); a column
    that is not used as ids has the range `None`. A `shared` input has one row, for all candidates of a request.

    `observed` holds the lowest and the highest number, ids excluded, in the example request, where they differ.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    ids: tuple[IdRange | None, ...] = ()
    observed: tuple[float, float] | None = None
    shared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ids = [None if pair is None else list(pair) for pair in self.ids]
        observed = None if self.observed is None else list(self.observed)
        values = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "ids": ids, "observed": observed}
        return {**values, "shared": True} if self.shared else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        ids = tuple(None if pair is None else (int(pair[0]), int(pair[1])) for pair in values["ids"])
        observed = None if values["observed"] is None else (values["observed"][0], values["observed"][1])
        shared = values.get("shared", False)
        return cls(values["name"], values["dtype"], tuple(values["shape"]), ids, observed, shared)


@dataclass(frozen=True)
class Output:
    """One tensor of a response."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        return cls(values["name"], values["dtype"], tuple(values["shape"]))


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a program, in order.

    >>> signature = Signature((Input("user", "int64", (BATCH,), ((0, 9),)),), (Output("click", "float32", (BATCH,)),))
    >>> Signature.from_dict(signature.to_dict()) == signature
    True
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"inputs": [i.to_dict() for i in self.inputs], "outputs": [o.to_dict() for o in self.outputs]}

    def with_shared(self, names: Sequence[str]) -> Self:
        """Return the signature in which the named inputs have one row, shared by all rows of the other inputs.

        Raises `UsageError` for a name that is no input, and where no input would keep a row for each candidate.

        >>> user, item = Input("user", "int64", (BATCH,)), Input("item", "int64", (BATCH,))
        >>> [i.shape for i in Signature((user, item), ()).with_shared(["user"]).inputs]
        [(1,), ('batch',)]
        """
        known = [i.name for i in self.inputs if i.shape and i.shape[0] == BATCH]
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise UsageError(
                f"--shared-inputs names '{unknown}', which is no input with a batch; choose from {', '.join(known)}."
            )
        if names and set(names) == set(known):
            raise UsageError("--shared-inputs names every input; leave out those that differ between candidates.")
        inputs = tuple(replace(i, shape=(1, *i.shape[1:]), shared=True) if i.name in names else i for i in self.inputs)
        return replace(self, inputs=inputs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        return cls(
            tuple(Input.from_dict(i) for i in values["inputs"]), tuple(Output.from_dict(o) for o in values["outputs"])
        )
