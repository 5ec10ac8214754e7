"""What a program takes and gives: names, dtypes, shapes, and the ids that are valid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

BATCH = "batch"

Axis = int | str  # a size, or BATCH; of an output also a term such as "12*batch"
IdRange = tuple[int, int]  # lowest and highest valid id, both inclusive


@dataclass(frozen=True)
class Input:
    """One tensor of a request.

    `ids` is empty for an input that is not used as ids. It holds one range that is valid for every
    element, or one range for each index of the last axis (a matrix whose columns are fields); a column
    that is not used as ids has the range `None`.

    `observed` is the lowest and the highest number, other than ids, that the example request held, where they differ.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    ids: tuple[IdRange | None, ...] = ()
    observed: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ids = [None if pair is None else list(pair) for pair in self.ids]
        observed = None if self.observed is None else list(self.observed)
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "ids": ids, "observed": observed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        ids = tuple(None if pair is None else (int(pair[0]), int(pair[1])) for pair in values["ids"])
        observed = None if values["observed"] is None else (values["observed"][0], values["observed"][1])
        return cls(values["name"], values["dtype"], tuple(values["shape"]), ids, observed)


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
        """Read what `to_dict` wrote."""
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(
            tuple(Input.from_dict(i) for i in values["inputs"]), tuple(Output.from_dict(o) for o in values["outputs"])
        )
