"""`TensorTags`: the tags of one tensor, and the conversions between their two forms.

By axis: for each index of each axis, the set of channels that remove it. By element: a tensor of interned sets with the
tensor's shape, on which any operator that moves data can be run. A tensor whose elements cannot be written by axis is
*ragged*; `elements_to_axes` ties tags until it is not, because a tensor can only shrink along whole axes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recprune_export.channels.dependency_sets import (
    EMPTY,
    DependencySets,
    Reason,
    compact,
    distinct,
    has_tags,
    untagged_like,
)


@dataclass(frozen=True)
class TensorTags:
    """Three descriptions of a tensor of rank r, each of r vectors of interned sets.

    `removed_by[a][i]`: the channels each of which removes index i of axis a.
    `zero_when_masked[a][i]`: those of them whose masking makes every element at index i of axis a exactly zero.
    `constant_when_masked[a][i]`: those whose masking makes these elements the same for every request, such as zero plus a
    bias; by default equal to `zero_when_masked`.
    `constant`: the whole tensor is the same for every request, like a parameter.
    `removed_entirely_by`: the fields each of which removes the whole tensor, and makes all of it zero when masked. A rule
    that does not propagate them freezes them, which is safe.
    """

    removed_by: tuple[Tensor, ...]
    zero_when_masked: tuple[Tensor, ...]
    constant_when_masked: tuple[Tensor, ...] = ()
    constant: bool = False
    removed_entirely_by: int = EMPTY

    def __post_init__(self) -> None:
        if self.constant or not self.constant_when_masked:
            object.__setattr__(
                self, "constant_when_masked", self.removed_by if self.constant else self.zero_when_masked
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(len(axis) for axis in self.removed_by)

    def is_empty(self) -> bool:
        """Return whether no channel removes any index of the tensor."""
        return not any(has_tags(axis) for axis in self.removed_by)

    def without_zero_tags(self) -> "TensorTags":
        """Return the tags after an elementwise operator that does not preserve zeros."""
        return TensorTags(
            self.removed_by,
            tuple(untagged_like(axis) for axis in self.removed_by),
            self.constant_when_masked,
            self.constant,
        )

    def map(self, change: Callable[[tuple[Tensor, ...]], Iterable[Tensor]]) -> "TensorTags":
        """Apply the same change to the axes of all three descriptions; the operator moves or sums data, which keeps zeros."""
        removed_by, zero_when_masked, constant_when_masked = (
            tuple(change(side)) for side in (self.removed_by, self.zero_when_masked, self.constant_when_masked)
        )
        return TensorTags(removed_by, zero_when_masked, constant_when_masked, self.constant, self.removed_entirely_by)

    def take_axes(self, order: Sequence[int | None]) -> "TensorTags":
        """Return the axes in another order; None is a new axis of size 1."""
        one = make_untagged_axis(1)

        return self.map(lambda field: tuple(one if axis is None else field[axis] for axis in order))


def make_empty_tags(shape: Sequence[int], constant: bool = False) -> TensorTags:
    """Return the tags of a tensor of which nothing can be removed."""
    axes = tuple(make_untagged_axis(size) for size in shape)
    return TensorTags(axes, axes, axes, constant)


def make_untagged_axis(size: int) -> Tensor:
    """Return the tags of an axis of which nothing can be removed, in constant memory: it may have one index per item."""
    return torch.full((1,), EMPTY, dtype=torch.int64).expand(size)


def axes_to_elements(sets: DependencySets, axes: Sequence[Tensor]) -> Tensor:
    """Return the element form of one description of `TensorTags`: the union over the axes.

    Axes without tags take no memory: the elements along them are the same.
    """
    shape = [len(axis) for axis in axes]
    elements = torch.full((), EMPTY, dtype=torch.int64).expand(shape)
    for position, axis in enumerate(axes):
        if has_tags(axis):
            elements = sets.union(elements, axis.reshape([-1 if p == position else 1 for p in range(len(shape))]))
    return elements


def elements_to_axes(
    sets: DependencySets,
    removed_by: Tensor,
    zero_when_masked: Tensor,
    constant_when_masked: Tensor,
    varies: Sequence[bool],
    reason: Reason,
    choose_axis: Callable[[Sequence[int]], int],
) -> TensorTags:
    """Return the axis form, tying or freezing tags where the element form is ragged.

    `varies[a]` is true for an axis that cannot shrink (the batch). Where tags have to be tied so that they depend on
    the index of one axis alone, `choose_axis` chooses that axis among those that may shrink, the likeliest first. Zeros that
    differ along an axis are dropped, which is safe: an unknown zero can only freeze more.
    """
    if not has_tags(removed_by):
        return make_empty_tags(removed_by.shape)
    axes = _by_axis(sets, removed_by, varies)
    ragged = sets.difference(removed_by, axes_to_elements(sets, axes))
    fields = sets.field_tags_in(ragged)
    if has_tags(fields):
        sets.freeze(fields, reason)
        axes, ragged = _by_axis(sets, removed_by, varies), sets.canonical(ragged)
    if has_tags(ragged):
        candidates = _likely_axes(sets, ragged, varies)
        if candidates:
            _make_regular(sets, ragged, choose_axis(candidates), reason)
        else:
            sets.freeze(ragged, reason)
        axes = _by_axis(sets, removed_by, varies)
    return TensorTags(axes, _by_axis(sets, zero_when_masked, varies), _by_axis(sets, constant_when_masked, varies))


def _by_axis(sets: DependencySets, elements: Tensor, varies: Sequence[bool]) -> tuple[Tensor, ...]:
    axes = []
    for axis in range(elements.ndim):
        common = elements
        for other in range(elements.ndim):
            if other != axis:
                common = sets.intersection_along(common, other)
        common = common.reshape(-1) if elements.numel() else torch.full((elements.shape[axis],), EMPTY)
        axes.append(untagged_like(common) if varies[axis] else sets.canonical(common))
    return tuple(axes)


def _make_regular(sets: DependencySets, ragged: Tensor, axis: int, reason: Reason) -> None:
    """Tie the remaining tags so that they depend on the index of `axis` alone."""
    for index in range(ragged.shape[axis] if ragged.stride(axis) else 1):
        slice_ids = distinct(ragged.select(axis, index))
        tags = frozenset().union(*(sets.channels_in(i) for i in slice_ids))
        if EMPTY in slice_ids:
            sets.freeze(torch.tensor(slice_ids), reason)
        elif tags:
            sets.tie(tags)


def _likely_axes(sets: DependencySets, ragged: Tensor, varies: Sequence[bool]) -> list[int]:
    """Return the axes that may shrink: first those along which a parameter's axis extends, and of these the last."""
    free = [axis for axis in range(ragged.ndim) if not varies[axis]]
    return sorted(free, key=lambda axis: (_siblings_along(sets, ragged, axis) > 0, axis), reverse=True)


def _siblings_along(sets: DependencySets, elements: Tensor, axis: int) -> int:
    """Count neighbors along `axis` that are different tags of one parameter's axis."""
    if elements.shape[axis] < 2 or not elements.stride(axis):
        return 0
    elements = compact(elements)
    first = elements.narrow(axis, 0, elements.shape[axis] - 1)
    second = elements.narrow(axis, 1, elements.shape[axis] - 1)
    pairs, counts = torch.stack([first.reshape(-1), second.reshape(-1)]).unique(dim=1, return_counts=True)
    total = 0
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        if a != b and _tagged_axes(sets, a) & _tagged_axes(sets, b):
            total += count
    return total


def _tagged_axes(sets: DependencySets, set_id: int) -> set[object]:
    return {sets.key(tag)[:2] for tag in sets.channels_in(set_id)}  # type: ignore[index]
