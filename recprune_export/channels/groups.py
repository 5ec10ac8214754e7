"""What the analysis found, in the form that the later stages use."""

import dataclasses
from dataclasses import dataclass
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
    """The smallest thing that can be removed: all of `slices` go when it goes, and all lookups of `fields`."""

    identity: int
    slices: tuple[Slice, ...]
    fields: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        """The fields that go together; empty for other channels."""
        return " + ".join(field.name for field in self.fields)


@dataclass(frozen=True)
class Group:
    """Channels that lie side by side on the same axes of the same tensors.

    `name` is the axis on which the group begins, for example `tables.user.weight:1`.
    """

    name: str
    kind: GroupKind
    channels: tuple[Channel, ...]

    @property
    def width(self) -> int:
        """How many channels there are."""
        return len(self.channels)

    def axes(self) -> tuple[tuple[str, int], ...]:
        """Return each (tensor, axis) on which the group lies, in the order of the graph."""
        return tuple(dict.fromkeys((s.tensor, s.axis) for channel in self.channels for s in channel.slices))


@dataclass(frozen=True)
class FrozenAxis(ToDictMixin):
    """An axis of a parameter of which `count` indices cannot be removed, for one reason."""

    tensor: str
    axis: int
    count: int
    reason: Reason = dataclasses.field(metadata=FLATTENED)


def slice_positions(group: Group, tensor: str, axis: int) -> Tensor:
    """Return the indices on the axis of a parameter at which each channel lies, [occurrences, D]."""
    places: list[list[int]] = [
        sorted(s.index for s in channel.slices if (s.tensor, s.axis) == (tensor, axis)) for channel in group.channels
    ]
    return torch.tensor(places, dtype=torch.int64).T.contiguous()


@dataclass(frozen=True)
class FrozenField(ToDictMixin):
    """A field that cannot be removed."""

    field: Annotated[Field, JsonForm(attrgetter("name"))]
    reason: Reason = dataclasses.field(metadata=FLATTENED)
