"""Results of the channel analysis in the form that later stages use."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Literal

import torch
from torch import Tensor

from recprune_export.channels.dependency_sets import Reason
from recprune_export.channels.fields import Field
from recprune_export.codec import FLATTENED, JsonForm, ToDictMixin

GroupKind = Literal["embedding", "hidden", "field"]
FIELD_GROUP = "fields"  # the name of the group of kind "field", of which there is at most one


@dataclass(frozen=True)
class Slice:
    """Index `index` of axis `axis` of parameter or buffer `tensor`."""

    tensor: str
    axis: int
    index: int


@dataclass(frozen=True)
class Channel:
    """The smallest removable unit: removing it removes all of `slices`, and all lookups of `fields`."""

    identity: int
    slices: tuple[Slice, ...]
    fields: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        """The names of the fields; empty for other channels."""
        return " + ".join(field.name for field in self.fields)


@dataclass(frozen=True)
class Group:
    """Channels on the same axes of the same tensors.

    `name` is the first axis of the group, for example `tables.user.weight:1`, by which plans refer to it. `label` names the
    user's fields and layers, for example `user` (`group_labels.py`).
    """

    name: str
    kind: GroupKind
    channels: tuple[Channel, ...]
    label: str = ""

    @property
    def width(self) -> int:
        """The number of channels."""
        return len(self.channels)

    def axes(self) -> tuple[tuple[str, int], ...]:
        """Return each (tensor, axis) of the group, in the order of the graph."""
        return self._axes

    @cached_property
    def _axes(self) -> tuple[tuple[str, int], ...]:
        return tuple(dict.fromkeys((s.tensor, s.axis) for channel in self.channels for s in channel.slices))


@dataclass(frozen=True)
class FrozenAxis(ToDictMixin):
    """An axis of a parameter of which `count` indices cannot be removed, for one reason."""

    tensor: str
    axis: int
    count: int
    reason: Reason = dataclasses.field(metadata=FLATTENED)


def slice_positions(group: Group, tensor: str, axis: int) -> Tensor:
    """Return the indices of each channel on the axis of a parameter, [occurrences, D]."""
    positions: list[list[int]] = [
        sorted(s.index for s in channel.slices if (s.tensor, s.axis) == (tensor, axis)) for channel in group.channels
    ]
    return torch.tensor(positions, dtype=torch.int64).T.contiguous()


@dataclass(frozen=True)
class FrozenField(ToDictMixin):
    """A field that cannot be removed."""

    field: Annotated[Field, JsonForm(attrgetter("name"))]
    reason: Reason = dataclasses.field(metadata=FLATTENED)
