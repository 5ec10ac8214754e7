"""Tags, and sets of tags: the data structures of the channel analysis.

A *tag* represents one index of one axis of one parameter. Two tags that can only be removed together are *tied*; the classes of tied tags
are the channels. Each index of an axis depends on a *set* of tags: removing any of them removes the index (after flattening an outer
product, index (i, j) is removed with i and with j). Sets are interned, so that a tensor of integers can hold one set for each element,
and the operators of the graph can move it.

A *field tag* represents a whole field. An index may be removed with it, but it is never tied to one of several tags: where that would be
necessary, it is frozen. An *optional tag* represents an index that may be left out: where two sets must be equal, the optional tag of one
set represents the tags that only the other set contains.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recprune_export.codec import json_name

EMPTY = 0  # the interned empty set: no tag removes this element


@dataclass(frozen=True)
class Reason:
    """The reason for which a tag is frozen: a sentence, and the line of the user's source that requires it."""

    text: str = field(metadata=json_name("reason"))
    source: str = ""


class DependencySets:
    """A union-find structure over tags, and interned sets of tags.

    >>> sets = DependencySets()
    >>> a, b = sets.singletons([("w", 0, 0), ("w", 0, 1)])
    >>> sets.equate(a.reshape(1), b.reshape(1), Reason("added"))
    >>> sets.channels_in(int(a)) == sets.channels_in(int(b))
    True
    """

    def __init__(self) -> None:
        self._keys: list[Hashable] = []
        self._tag_by_key: dict[Hashable, int] = {}
        self._parent: list[int] = []
        self._bound: dict[int, frozenset[int]] = {}
        self._sets: list[frozenset[int]] = [frozenset()]
        self._id_of: dict[frozenset[int], int] = {frozenset(): EMPTY}
        self._canonical: dict[int, int] = {}
        self._frozen: dict[int, Reason] = {}  # roots of classes that are frozen permanently
        self._tentatively_frozen: dict[int, Reason] = {}  # tags that are frozen unless a later pass clears them
        self._field_tags: set[int] = set()  # roots of classes with a field tag
        self._optional_tags: set[int] = set()  # optional tags that are alone in their class
        self.changes = 0

    def singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """Return the interned set of the one tag of each key; equal keys have the same tag."""
        return torch.tensor(
            [self._intern(frozenset((self._get_or_create_tag(key),))) for key in keys], dtype=torch.int64
        )

    def field_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """Return the interned set of the one field tag of each key."""
        keys = list(keys)
        self._field_tags |= {self._find(self._get_or_create_tag(key)) for key in keys}
        return self.singletons(keys)

    def tag(self, key: Hashable) -> int:
        """Return the tag of a key."""
        return self._get_or_create_tag(key)

    def optional_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """Return the interned set of the one optional tag of each key."""
        keys = list(keys)
        self._optional_tags |= {self._get_or_create_tag(key) for key in keys if key not in self._tag_by_key}
        return self.singletons(keys)

    def is_unused_optional(self, tag: int) -> bool:
        """Return whether an optional tag stands for no other tags."""
        return tag in self._optional_tags

    def key(self, tag: int) -> Hashable:
        """Return the key of a tag."""
        return self._keys[tag]

    def channels_in(self, set_id: int) -> frozenset[int]:
        """Return the channels of a set, each as the representative of its class."""
        return self._sets[self._canonical_id(set_id)]

    def tags_in(self, set_id: int) -> frozenset[int]:
        """Return the tags of a set, regardless of ties."""
        return self._sets[set_id]

    def all_tags(self) -> range:
        """Return every tag."""
        return range(len(self._keys))

    def find_channels(self, tag: int) -> frozenset[int]:
        """Return the channels that remove a tag."""
        return self._resolve(self._find(tag))

    def canonical(self, ids: Tensor) -> Tensor:
        """Replace each set by the set of its channels, so that equal sets have equal ids."""
        return _map_unique(self._canonical_id, ids) if has_tags(ids) else ids

    def unite_sets(self, set_ids: Iterable[int]) -> int:
        """Return the union of sets."""
        return self._intern(frozenset().union(*(self.channels_in(i) for i in set_ids)))

    def intersect_sets(self, set_ids: Iterable[int]) -> int:
        """Return the intersection of one set or more."""
        return self._intern(frozenset.intersection(*(self.channels_in(i) for i in set_ids)))

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise unions, broadcast."""
        return self._pairwise(left, right, frozenset.__or__, skip_empty_right=True)

    def intersection(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise intersections, broadcast."""
        return self._pairwise(left, right, frozenset.__and__)

    def difference(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise differences, broadcast."""
        return self._pairwise(left, right, frozenset.__sub__, skip_empty_right=True)

    @property
    def has_field_tags(self) -> bool:
        """Whether there is any field tag."""
        return bool(self._field_tags)

    def field_tags_in(self, ids: Tensor) -> Tensor:
        """Return the field tags of each set."""
        if not self._field_tags:
            return untagged_like(ids)
        return _map_unique(lambda set_id: self._intern(self.channels_in(set_id) & self._field_tags), ids)

    def intersection_along(self, ids: Tensor, axis: int) -> Tensor:
        """Return the intersection over `axis`, which is kept with size 1.

        An axis without tags of its own takes constant time; otherwise the time is linear in the elements that are read until
        every intersection is empty.
        """
        if ids.ndim == 1 and len(ids):
            return torch.tensor([self._intersect_all(compact(ids).tolist())])
        result = self.canonical(ids.narrow(axis, 0, 1))
        different = compact(ids)
        if bool((different == different.narrow(axis, 0, 1)).all()):
            return result
        for position in range(1, different.shape[axis]):
            if not has_tags(result):
                break
            result = self.intersection(result, ids.narrow(axis, position, 1))
        return result

    def _intersect_all(self, set_ids: Sequence[int]) -> int:
        common = self.channels_in(set_ids[0])
        for set_id in set_ids:
            if not common:
                return EMPTY
            common &= self.channels_in(set_id)
        return self._intern(common)

    def equate(self, left: Tensor, right: Tensor, reason: Reason) -> None:
        """Require that, index by index, both sides are removed together. Both have the same shape.

        Where one side cannot be removed, the other is frozen for `reason`.
        """
        if not has_tags(left) and not has_tags(right):
            return
        for a, b in zip(self.canonical(left).tolist(), self.canonical(right).tolist(), strict=True):
            if a != b:
                self._equate(self.channels_in(a), self.channels_in(b), reason)

    def _equate(self, one: frozenset[int], other: frozenset[int], reason: Reason) -> None:
        shared = one & other & self._field_tags
        one, other = one - shared, other - shared
        if one - self._optional_tags == other - self._optional_tags:
            return
        if not one or not other:
            self._freeze_roots(one | other, reason)
        elif self._bind(one, other) or self._bind(other, one):
            pass
        elif (one | other) & self._optional_tags:
            self._equate(self._absorb_into_optional(one, other), self._absorb_into_optional(other, one), reason)
        elif len(one) == len(other) == 1 or not (one | other) & self._field_tags:
            self.tie(one | other)
        else:
            fields, other_fields = one & self._field_tags, other & self._field_tags
            if len(fields) == len(other_fields) == 1:
                self.tie(fields | other_fields)
            else:
                self._freeze_roots(fields | other_fields, reason)
            self._equate(one - fields, other - other_fields, reason)

    def tie(self, tags: Iterable[int]) -> None:
        """Merge all `tags` into one channel."""
        first, *rest = sorted(tags)
        for tag in rest:
            self._merge(first, tag)

    def freeze(self, ids: Tensor, reason: Reason) -> None:
        """Freeze all channels of the sets permanently; frozen channels are in no set, since they remove nothing."""
        for set_id in distinct(ids):
            self._freeze_roots(self.channels_in(set_id), reason)

    def freeze_channel(self, channel: int, reason: Reason) -> None:
        """Freeze one channel permanently."""
        self._freeze_roots((channel,), reason)

    def freeze_tentatively(self, ids: Tensor, reason: Reason) -> None:
        """Freeze all channels of the sets for the current pass."""
        for set_id in distinct(ids):
            for tag in self.channels_in(set_id):
                self._tentatively_frozen.setdefault(tag, reason)

    def clear_tentative_freezes(self) -> None:
        """Start a new pass: drop the tentative freezes; ties and permanent freezes remain."""
        self._tentatively_frozen.clear()

    def tentatively_frozen_channels(self) -> dict[int, Reason]:
        """Return the channels that were frozen in this pass, each with the first reason."""
        channels: dict[int, Reason] = {}
        for tag, reason in self._tentatively_frozen.items():
            for channel in self.find_channels(tag):
                channels.setdefault(channel, reason)
        return channels

    def find_freeze_reason(self, tag: int) -> Reason | None:
        """Return the reason for which a tag is permanently frozen, or None if it is not."""
        root = self._find(tag)
        if root in self._frozen:
            return self._frozen[root]
        bound = self._bound.get(root, frozenset())
        reasons = [self.find_freeze_reason(other) for other in sorted(bound)]
        return reasons[0] if reasons and all(reasons) else None

    def _get_or_create_tag(self, key: Hashable) -> int:
        if key not in self._tag_by_key:
            self._tag_by_key[key] = len(self._keys)
            self._parent.append(len(self._keys))
            self._keys.append(key)
        return self._tag_by_key[key]

    def _intern(self, tags: frozenset[int]) -> int:
        if tags not in self._id_of:
            self._id_of[tags] = len(self._sets)
            self._sets.append(tags)
        return self._id_of[tags]

    def _find(self, tag: int) -> int:
        while self._parent[tag] != tag:
            self._parent[tag] = self._parent[self._parent[tag]]
            tag = self._parent[tag]
        return tag

    def _canonical_id(self, set_id: int) -> int:
        if set_id not in self._canonical:
            channels: set[int] = set()
            for tag in self._sets[set_id]:
                root = self._find(tag)
                channels |= self._resolve(root)
            self._canonical[set_id] = self._intern(frozenset(channels))
        return self._canonical[set_id]

    def _resolve(self, root: int) -> frozenset[int]:
        if root in self._frozen:
            return frozenset()
        bound = self._bound.get(root)
        if bound is None:
            return frozenset((root,))
        return frozenset().union(*(self._resolve(self._find(tag)) for tag in bound))

    def _bind(self, one: frozenset[int], several: frozenset[int]) -> bool:
        """Make an unbound tag stand for several channels; return whether that is possible."""
        if len(one) != 1 or len(several) < 2 or one & several or one & self._field_tags:
            return False
        (tag,) = one
        self._bound[tag] = several
        self._changed()
        return True

    def _absorb_into_optional(self, one: frozenset[int], other: frozenset[int]) -> frozenset[int]:
        """Make the newest optional tag in `one`, which the fewest values contain, represent the tags that only `other` has."""
        required, missing = one - self._optional_tags, other - one - self._optional_tags
        spare = (one - other) & self._optional_tags
        if not missing or not spare:
            return required
        self._bound[max(spare)] = missing
        self._changed()
        return required | missing

    def _merge(self, left: int, right: int) -> None:
        a, b = sorted((self._find(left), self._find(right)))
        if a != b:
            self._parent[b] = a
            if b in self._frozen:
                self._frozen.setdefault(a, self._frozen.pop(b))
            if b in self._field_tags:
                self._field_tags.add(a)
            self._optional_tags -= {a, b}
            self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._canonical.clear()

    def _freeze_roots(self, roots: Iterable[int], reason: Reason) -> None:
        for root in roots:
            self._frozen[root] = reason
            self._changed()

    def _pairwise(self, left: Tensor, right: Tensor, combine, skip_empty_right: bool = False) -> Tensor:  # type: ignore[no-untyped-def]
        if left.shape != right.shape:
            left, right = torch.broadcast_tensors(left, right)
        left = self.canonical(left)
        if skip_empty_right and not has_tags(right):
            return left
        right = self.canonical(right)
        radix = len(self._sets)
        pairs = compact(left) * radix + compact(right)
        return _map_unique(
            lambda pair: self._intern(combine(self._sets[pair // radix], self._sets[pair % radix])), pairs
        ).expand(left.shape)


def distinct(ids: Tensor) -> list[int]:
    """Return the distinct sets, sorted; in constant time for an axis of rows that has no tags."""
    ids = compact(ids)
    return sorted(set(ids.tolist())) if ids.ndim == 1 else ids.unique().tolist()


def has_tags(ids: Tensor) -> bool:
    """Return whether any set is not empty; in constant time for an axis of rows that has no tags."""
    return bool(compact(ids).any())


def untagged_like(ids: Tensor) -> Tensor:
    """Return empty sets in the shape of `ids`, in constant memory."""
    return torch.zeros((), dtype=torch.int64).expand(ids.shape)


def compact(ids: Tensor) -> Tensor:
    """Return one element of each axis whose elements are the same memory, such as that of the rows of a table."""
    for axis, stride in enumerate(ids.stride()):
        if stride == 0 and ids.shape[axis] > 1:
            ids = ids.narrow(axis, 0, 1)
    return ids


def _map_unique(function, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Apply a function of integers to each element, calling it once for each distinct value.

    Time and memory are linear in the elements that differ in memory, not in those of axes that repeat one.
    """
    few = 256  # elements up to which a dictionary is faster than sorting
    different = compact(values)
    if different.numel() <= few:
        flat = different.reshape(-1).tolist()
        results = {value: function(value) for value in set(flat)}
        mapped = torch.tensor([results[value] for value in flat], dtype=torch.int64)
    else:
        distinct, position = different.unique(return_inverse=True)
        mapped = torch.tensor([function(value) for value in distinct.tolist()], dtype=torch.int64)[position]
    return mapped.reshape(different.shape).expand(values.shape)
