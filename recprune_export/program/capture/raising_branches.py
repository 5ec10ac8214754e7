"""Branches of a model by the values of a request, of which one side raises an exception: assertions about requests.

A graph has no branches on values. A branch that only refuses requests does not change outputs, so the other side is captured, and a
note says that the file accepts requests that the model refuses. A branch with two continuing sides remains an error.
"""

import dis
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from recprune_export.error_text import summarize_error

_MOST_BRANCHES = 20
_Place = tuple[CodeType, int, int]  # a function, an instruction of it, and its line


@dataclass(frozen=True)
class RaisingBranch:
    """A condition on the values of a request: `value` is the value with which the model continues; otherwise it raises `refusal`."""

    place: _Place
    value: bool
    refusal: str

    def describe(self) -> str:
        """Return the note on a check that is not in the captured graph."""
        code, _, line = self.place
        return (
            f'The model refuses some requests at "{code.co_filename}", line {line} ({self.refusal}). A graph cannot contain this '
            "check, and the file accepts such requests: check them before."
        )


def find_raising_branches(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[RaisingBranch]:
    """Return the branches of a model by the values of this request of which the other side raises an exception."""
    with torch.no_grad(), _Decisions() as taken:
        module(*args, **kwargs)
    branches: list[RaisingBranch] = []
    for place, values in list(taken.values.items())[:_MOST_BRANCHES]:
        for value in values if len(values) == 1 else ():
            refusal = _find_refusal(module, args, kwargs, place, not value)
            if refusal is not None:
                branches.append(RaisingBranch(place, value, refusal))
    return branches


def _find_refusal(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: _Place, value: bool
) -> str | None:
    """Return the exception that a model raises immediately if the condition at `place` has another value; None if it continues."""
    decisions = _Decisions({place: value})
    try:
        with torch.no_grad(), decisions:
            module(*args, **kwargs)
    except Exception as error:  # any class that the user's code raises
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised = trace is not None and _is_raise(trace.tb_frame.f_code, trace.tb_lasti)
        at_once = trace is not None and trace.tb_frame.f_code is place[0] and decisions.last == place
        return summarize_error(error) if raised and at_once else None
    return None


def _is_raise(code: CodeType, position: int) -> bool:
    """Return whether an instruction is that of `raise` or `assert`, as opposed to an operator that fails."""
    return any(i.offset == position and i.opname == "RAISE_VARARGS" for i in dis.get_instructions(code))


class _Decisions(TorchFunctionMode):
    """Records the values of conditions on tensors by their places; those of `given` have other values."""

    def __init__(self, given: Mapping[_Place, bool] | None = None) -> None:
        super().__init__()
        self.given = given or {}
        self.values: dict[_Place, set[bool]] = {}
        self.last: _Place | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__bool__:
            return func(*args, **(kwargs or {}))
        self.last = _calling_place()
        value = self.given[self.last] if self.last in self.given else func(*args)
        self.values.setdefault(self.last, set()).add(value)
        return value


class PassRaisingBranches(TorchFunctionMode):
    """Inside the block a graph is captured as if no request were refused by `branches`."""

    def __init__(self, branches: Iterable[RaisingBranch]) -> None:
        super().__init__()
        self._values = {branch.place: branch.value for branch in branches}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and isinstance(args[0], FakeTensor) and (place := _calling_place()) in self._values:
            return self._values[place]
        return func(*args, **(kwargs or {}))


def _calling_place() -> _Place:
    """Return the location of the code that reads the value of a tensor: the caller outside the modes of torch.export."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__torch_function__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti, frame.f_lineno
