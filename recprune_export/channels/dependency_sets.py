"""Labels, and sets of labels: the bookkeeping below the channel analysis.

A *label* stands for one index of one axis of one parameter. Two labels that can only go together are *tied*; the
classes of tied labels are the channels. What an index of an axis depends on is a *set* of labels: the index goes as
soon as one of them goes (after flattening an outer product, index (i, j) goes with i and with j). Sets are interned,
so that a tensor of integers can hold one set for each element and be moved by the operators of the graph itself.

A *sovereign* label stands for a whole field. An index may go with it, but it is never tied to one of several labels:
where that would be asked of it, it stays. A *slack* label stands for an index that may be left out for the asking: where two
sets have to become one, the slack of either takes up what the other has more.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = 0  # the interned empty set: nothing removes this element


@dataclass(frozen=True)
class Reason:
    """Why something cannot be removed: a sentence, and the line of the user's source where it was decided."""

    text: str
    source: str = ""


class LabelSets:
    """Union-find over labels, and interned sets of them.

    >>> sets = LabelSets()
    >>> a, b = sets.singletons([("w", 0, 0), ("w", 0, 1)])
    >>> sets.equate(a.reshape(1), b.reshape(1), Reason("added"))
    >>> sets.members(int(a)) == sets.members(int(b))
    True
    """

    def __init__(self) -> None:
        self._keys: list[Hashable] = []
        self._label_of: dict[Hashable, int] = {}
        self._parent: list[int] = []
        self._bound: dict[int, frozenset[int]] = {}
        self._sets: list[frozenset[int]] = [frozenset()]
        self._id_of: dict[frozenset[int], int] = {frozenset(): EMPTY}
        self._canonical: dict[int, int] = {}
        self._kept: dict[int, Reason] = {}  # roots of classes that stay for ever
        self._doubted: dict[int, Reason] = {}  # labels that stay unless a later pass clears them
        self._sovereign: set[int] = set()  # roots of classes with a sovereign label
        self._slack: set[int] = set()  # slack labels that are alone in their class
        self.changes = 0

    def singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """Return for each key the interned set of its one label; the same key gives the same label again."""
        return torch.tensor([self._intern(frozenset((self._label(key),))) for key in keys], dtype=torch.int64)

    def sovereign_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """The same for sovereign labels."""
        keys = list(keys)
        self._sovereign |= {self._find(self._label(key)) for key in keys}
        return self.singletons(keys)

    def label(self, key: Hashable) -> int:
        """Return the label of a key."""
        return self._label(key)

    def slack_singletons(self, keys: Iterable[Hashable]) -> Tensor:
        """The same for slack labels."""
        keys = list(keys)
        self._slack |= {self._label(key) for key in keys if key not in self._label_of}
        return self.singletons(keys)

    def is_slack(self, label: int) -> bool:
        """Tell whether nothing has taken up a slack label."""
        return label in self._slack

    def key(self, label: int) -> Hashable:
        """Return the key under which a label was made."""
        return self._keys[label]

    def members(self, set_id: int) -> frozenset[int]:
        """Return the channels of a set, each named by the representative of its class."""
        return self._sets[self._canonical_id(set_id)]

    def labels_in(self, set_id: int) -> frozenset[int]:
        """Return the labels that were put into a set, before any tie."""
        return self._sets[set_id]

    def labels(self) -> range:
        """Return every label that was made."""
        return range(len(self._keys))

    def channels_of(self, label: int) -> frozenset[int]:
        """Return the channels with which a label goes."""
        return self.members(self._intern(frozenset((label,))))

    def canonical(self, ids: Tensor) -> Tensor:
        """Replace each set by the set of its channels, so that equal sets have equal ids."""
        return _map_unique(self._canonical_id, ids) if bool(ids.any()) else ids

    def any_of(self, set_ids: Iterable[int]) -> int:
        """Return the union of single sets."""
        return self._intern(frozenset().union(*(self.members(i) for i in set_ids)))

    def all_of(self, set_ids: Iterable[int]) -> int:
        """Return the intersection of single sets, of which there is at least one."""
        return self._intern(frozenset.intersection(*(self.members(i) for i in set_ids)))

    def union(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise unions, broadcast."""
        return self._pairwise(left, right, frozenset.__or__, keep_left_if_right_empty=True)

    def common(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise intersections, broadcast."""
        return self._pairwise(left, right, frozenset.__and__)

    def without(self, left: Tensor, right: Tensor) -> Tensor:
        """Return elementwise differences, broadcast."""
        return self._pairwise(left, right, frozenset.__sub__, keep_left_if_right_empty=True)

    @property
    def has_sovereign(self) -> bool:
        """Whether there is any sovereign label."""
        return bool(self._sovereign)

    def sovereign_in(self, ids: Tensor) -> Tensor:
        """Return of each set what is sovereign."""
        if not self._sovereign:
            return torch.zeros_like(ids)
        return _map_unique(lambda set_id: self._intern(self.members(set_id) & self._sovereign), ids)

    def common_along(self, ids: Tensor, axis: int) -> Tensor:
        """Return the intersection over `axis`, which stays with size 1."""
        result = self.canonical(ids.narrow(axis, 0, 1))
        if bool((ids == ids.narrow(axis, 0, 1)).all()):
            return result
        for position in range(1, ids.shape[axis]):
            if not bool(result.any()):
                break
            result = self.common(result, ids.narrow(axis, position, 1))
        return result

    def equate(self, left: Tensor, right: Tensor, reason: Reason) -> None:
        """State that, index by index, both sides are removed together. Shapes are equal.

        Where one side cannot be removed at all, the other is frozen for `reason`.
        """
        for a, b in zip(self.canonical(left).tolist(), self.canonical(right).tolist(), strict=True):
            self._equate(self.members(a), self.members(b), reason)

    def _equate(self, one: frozenset[int], other: frozenset[int], reason: Reason) -> None:
        shared = one & other & self._sovereign
        one, other = one - shared, other - shared
        if one - self._slack == other - self._slack:
            return
        if not one or not other:
            self._keep(one | other, reason)
        elif self._bind(one, other) or self._bind(other, one):
            pass
        elif (one | other) & self._slack:
            self._equate(self._take_up(one, other), self._take_up(other, one), reason)
        elif len(one) == len(other) == 1 or not (one | other) & self._sovereign:
            self.tie(one | other)
        else:
            ours, theirs = one & self._sovereign, other & self._sovereign
            if len(ours) == len(theirs) == 1:
                self.tie(ours | theirs)
            else:
                self._keep(ours | theirs, reason)
            self._equate(one - ours, other - theirs, reason)

    def tie(self, labels: Iterable[int]) -> None:
        """Make one channel of all `labels`."""
        first, *rest = sorted(labels)
        for label in rest:
            self._merge(first, label)

    def freeze(self, ids: Tensor, reason: Reason) -> None:
        """Keep for ever whatever the sets hold: from now on it is in no set, since it removes nothing."""
        for set_id in distinct(ids):
            self._keep(self.members(set_id), reason)

    def freeze_channel(self, channel: int, reason: Reason) -> None:
        """The same for one channel."""
        self._keep((channel,), reason)

    def doubt(self, ids: Tensor, reason: Reason) -> None:
        """Keep whatever the sets hold, unless the next pass does not say so again."""
        for set_id in ids.unique().tolist():
            for label in self.members(set_id):
                self._doubted.setdefault(label, reason)

    def forget_doubts(self) -> None:
        """Start a new pass: what is tied or kept for ever stays so, doubts are raised again."""
        self._doubted.clear()

    def doubted_channels(self) -> dict[int, Reason]:
        """Return the channels that cannot go because of what was found in this pass, each with the first reason."""
        found: dict[int, Reason] = {}
        for label, reason in self._doubted.items():
            for channel in self.channels_of(label):
                found.setdefault(channel, reason)
        return found

    def why_kept(self, label: int) -> Reason | None:
        """Return why a label stays for ever; None where it does not."""
        root = self._find(label)
        if root in self._kept:
            return self._kept[root]
        stands_for = self._bound.get(root, frozenset())
        reasons = [self.why_kept(other) for other in sorted(stands_for)]
        return reasons[0] if reasons and all(reasons) else None

    def _label(self, key: Hashable) -> int:
        if key not in self._label_of:
            self._label_of[key] = len(self._keys)
            self._parent.append(len(self._keys))
            self._keys.append(key)
        return self._label_of[key]

    def _intern(self, labels: frozenset[int]) -> int:
        if labels not in self._id_of:
            self._id_of[labels] = len(self._sets)
            self._sets.append(labels)
        return self._id_of[labels]

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def _canonical_id(self, set_id: int) -> int:
        if set_id not in self._canonical:
            channels: set[int] = set()
            for label in self._sets[set_id]:
                root = self._find(label)
                channels |= self._resolve(root)
            self._canonical[set_id] = self._intern(frozenset(channels))
        return self._canonical[set_id]

    def _resolve(self, root: int) -> frozenset[int]:
        if root in self._kept:
            return frozenset()
        bound = self._bound.get(root)
        if bound is None:
            return frozenset((root,))
        return frozenset().union(*(self._resolve(self._find(label)) for label in bound))

    def _bind(self, one: frozenset[int], several: frozenset[int]) -> bool:
        """Let a label that nothing else has claimed stand for several channels."""
        if len(one) != 1 or len(several) < 2 or one & several or one & self._sovereign:
            return False
        (label,) = one
        self._bound[label] = several
        self._changed()
        return True

    def _take_up(self, mine: frozenset[int], theirs: frozenset[int]) -> frozenset[int]:
        """Let the newest slack in `mine`, which fewest values have, stand for what `theirs` has more."""
        own, wanted = mine - self._slack, theirs - mine - self._slack
        spare = (mine - theirs) & self._slack
        if not wanted or not spare:
            return own
        self._bound[max(spare)] = wanted
        self._changed()
        return own | wanted

    def _merge(self, left: int, right: int) -> None:
        a, b = sorted((self._find(left), self._find(right)))
        if a != b:
            self._parent[b] = a
            if b in self._kept:
                self._kept.setdefault(a, self._kept.pop(b))
            if b in self._sovereign:
                self._sovereign.add(a)
            self._slack -= {a, b}
            self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._canonical.clear()

    def _keep(self, roots: Iterable[int], reason: Reason) -> None:
        for root in roots:
            self._kept[root] = reason
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
