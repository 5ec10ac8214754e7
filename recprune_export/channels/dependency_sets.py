"""Tags, and sets of tags: the bookkeeping below the channel analysis.

A *tag* stands for one index of one axis of one parameter. Two tags that can only go together are *tied*; the
classes of tied tags are the channels. What an index of an axis depends on is a *set* of tags: the index goes as
soon as one of them goes (after flattening an outer product, index (i, j) goes with i and with j). Sets are interned,
so that a tensor of integers can hold one set for each element and be moved by the operators of the graph itself.

A *sovereign* tag stands for a whole field. An index may go with it, but it is never tied to one of several tags:
where that would be asked of it, it stays. A *slack* tag stands for an index that may be left out for the asking: where two
sets have to become one, the slack of either takes up what the other has more.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recprune_export.codec import json_name

EMPTY = 0  # the interned empty set: nothing removes this element


@dataclass(frozen=True)
class Reason:
    """Why something cannot be removed: a sentence, and the line of the user's source where it was decided."""

    text: str = field(metadata=json_name("reason"))
    source: str = ""


class DependencySets:
    """Union-find over tags, and interned sets of them.

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
        self._frozen: dict[int, Reason] = {}  # roots of classes that stay for ever
        self._tentatively_frozen: dict[int, Reason] = {}  # tags that stay unless a later pass clears them
        self._field_tags: set[int] = set()  # roots of classes with a sovereign tag
        self._optional_tags: set[int] = set()  # slack tags that are alone in their class
        self.changes = 0

    def singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """Return for each key the interned set of its one tag; the same key gives the same tag again."""
        return torch.tensor(
            [self._intern(frozenset((self._get_or_create_tag(key),))) for key in keys], dtype=torch.int64
        )

    def field_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """The same for sovereign tags."""
        keys = list(keys)
        self._field_tags |= {self._find(self._get_or_create_tag(key)) for key in keys}
        return self.singletons(keys)

    def tag(self, key: Hashable) -> int:
        """Return the tag of a key."""
        return self._get_or_create_tag(key)

    def optional_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """The same for slack tags."""
        keys = list(keys)
        self._optional_tags |= {self._get_or_create_tag(key) for key in keys if key not in self._tag_by_key}
        return self.singletons(keys)

    def is_unused_optional(self, tag: int) -> bool:
        """Tell whether nothing has taken up a slack tag."""
        return tag in self._optional_tags

    def key(self, tag: int) -> Hashable:
        """Return the key under which a tag was made."""
        return self._keys[tag]

    def channels_in(self, set_id: int) -> frozenset[int]:
        """Return the channels of a set, each named by the representative of its class."""
        return self._sets[self._canonical_id(set_id)]

    def tags_in(self, set_id: int) -> frozenset[int]:
        """Return the tags that were put into a set, before any tie."""
        return self._sets[set_id]

    def all_tags(self) -> range:
        """Return every tag that was made."""
        return range(len(self._keys))

    def find_channels(self, tag: int) -> frozenset[int]:
        """Return the channels with which a tag goes."""
        return self.channels_in(self._intern(frozenset((tag,))))

    def canonical(self, ids: Tensor) -> Tensor:
        """Replace each set by the set of its channels, so that equal sets have equal ids."""
        return _map_unique(self._canonical_id, ids) if bool(ids.any()) else ids

    def unite_sets(self, set_ids: Iterable[int]) -> int:
        """Return the union of single sets."""
        return self._intern(frozenset().union(*(self.channels_in(i) for i in set_ids)))

    def intersect_sets(self, set_ids: Iterable[int]) -> int:
        """Return the intersection of single sets, of which there is at least one."""
        return self._intern(frozenset.intersection(*(self.channels_in(i) for i in set_ids)))

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise unions, broadcast."""
        return self._pairwise(left, right, frozenset.__or__, keep_left_if_right_empty=True)

    def intersection(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise intersections, broadcast."""
        return self._pairwise(left, right, frozenset.__and__)

    def difference(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise differences, broadcast."""
        return self._pairwise(left, right, frozenset.__sub__, keep_left_if_right_empty=True)

    @property
    def has_field_tags(self) -> bool:
        """Whether there is any sovereign tag."""
        return bool(self._field_tags)

    def field_tags_in(self, ids: Tensor) -> Tensor:
        """Return of each set what is sovereign."""
        if not self._field_tags:
            return torch.zeros_like(ids)
        return _map_unique(lambda set_id: self._intern(self.channels_in(set_id) & self._field_tags), ids)

    def intersection_along(self, ids: Tensor, axis: int) -> Tensor:
        """Return the intersection over `axis`, which stays with size 1."""
        result = self.canonical(ids.narrow(axis, 0, 1))
        if bool((ids == ids.narrow(axis, 0, 1)).all()):
            return result
        for position in range(1, ids.shape[axis]):
            if not bool(result.any()):
                break
            result = self.intersection(result, ids.narrow(axis, position, 1))
        return result

    def equate(self, left: Tensor, right: Tensor, reason: Reason) -> None:
        """State that, index by index, both sides are removed together. Shapes are equal.

        Where one side cannot be removed at all, the other is frozen for `reason`.
        """
        for a, b in zip(self.canonical(left).tolist(), self.canonical(right).tolist(), strict=True):
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
            ours, theirs = one & self._field_tags, other & self._field_tags
            if len(ours) == len(theirs) == 1:
                self.tie(ours | theirs)
            else:
                self._freeze_roots(ours | theirs, reason)
            self._equate(one - ours, other - theirs, reason)

    def tie(self, tags: Iterable[int]) -> None:
        """Make one channel of all `tags`."""
        first, *rest = sorted(tags)
        for tag in rest:
            self._merge(first, tag)

    def freeze(self, ids: Tensor, reason: Reason) -> None:
        """Keep for ever whatever the sets hold: from now on it is in no set, since it removes nothing."""
        for set_id in distinct(ids):
            self._freeze_roots(self.channels_in(set_id), reason)

    def freeze_channel(self, channel: int, reason: Reason) -> None:
        """The same for one channel."""
        self._freeze_roots((channel,), reason)

    def freeze_tentatively(self, ids: Tensor, reason: Reason) -> None:
        """Keep whatever the sets hold, unless the next pass does not say so again."""
        for set_id in ids.unique().tolist():
            for tag in self.channels_in(set_id):
                self._tentatively_frozen.setdefault(tag, reason)

    def clear_tentative_freezes(self) -> None:
        """Start a new pass: what is tied or kept for ever stays so, doubts are raised again."""
        self._tentatively_frozen.clear()

    def tentatively_frozen_channels(self) -> dict[int, Reason]:
        """Return the channels that cannot go because of what was found in this pass, each with the first reason."""
        found: dict[int, Reason] = {}
        for tag, reason in self._tentatively_frozen.items():
            for channel in self.find_channels(tag):
                found.setdefault(channel, reason)
        return found

    def find_freeze_reason(self, tag: int) -> Reason | None:
        """Return why a tag stays for ever; None where it does not."""
        root = self._find(tag)
        if root in self._frozen:
            return self._frozen[root]
        stands_for = self._bound.get(root, frozenset())
        reasons = [self.find_freeze_reason(other) for other in sorted(stands_for)]
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
        """Let a tag that nothing else has claimed stand for several channels."""
        if len(one) != 1 or len(several) < 2 or one & several or one & self._field_tags:
            return False
        (tag,) = one
        self._bound[tag] = several
        self._changed()
        return True

    def _absorb_into_optional(self, mine: frozenset[int], theirs: frozenset[int]) -> frozenset[int]:
        """Let the newest slack in `mine`, which fewest values have, stand for what `theirs` has more."""
        own, wanted = mine - self._optional_tags, theirs - mine - self._optional_tags
        spare = (mine - theirs) & self._optional_tags
        if not wanted or not spare:
            return own
        self._bound[max(spare)] = wanted
        self._changed()
        return own | wanted

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

    def _pairwise(self, left: Tensor, right: Tensor, combine, keep_left_if_right_empty: bool = False) -> Tensor:  # type: ignore[no-untyped-def]
        left, right = torch.broadcast_tensors(self.canonical(left), self.canonical(right))
        if keep_left_if_right_empty and not bool(right.any()):
            return left
        radix = len(self._sets)
        return _map_unique(
            lambda pair: self._intern(combine(self._sets[pair // radix], self._sets[pair % radix])),
            left * radix + right,
        )


def distinct(ids: Tensor) -> list[int]:
    """Return the different sets, sorted; at once for an axis of rows that has none."""
    return ids.unique().tolist() if bool(ids.any()) else [EMPTY]


def _map_unique(function, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Apply a function of integers to each element, calling it once for each distinct value."""
    distinct, position = values.unique(return_inverse=True)
    return torch.tensor([function(value) for value in distinct.tolist()], dtype=torch.int64)[position].reshape(
        values.shape
    )
