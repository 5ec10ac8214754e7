"""The two sides of inner products, as a union-find structure that stores for each pair whether both are on the same side."""

from collections.abc import Hashable


class SignedUnionFind:
    """A union-find structure of values on the same side or on opposite sides, which detects contradictions.

    >>> sides = SignedUnionFind()
    >>> sides.opposite("table", "layer"); sides.same("table", "bias table")
    >>> sides.between("layer", "bias table"), sides.contradicts("layer")
    (-1, False)
    >>> sides.opposite("table", "bias table")
    >>> sides.contradicts("layer")
    True
    """

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}
        self._sign: dict[Hashable, int] = {}  # relative to the parent
        self._contradicted: set[Hashable] = set()  # roots

    def same(self, one: Hashable, other: Hashable) -> None:
        """State that both are on the same side."""
        self._relate(one, other, 1)

    def opposite(self, one: Hashable, other: Hashable) -> None:
        """State that both are on opposite sides; for equal values this is a contradiction."""
        self._relate(one, other, -1)

    def between(self, one: Hashable, other: Hashable) -> int | None:
        """Return +1 for the same side, -1 for opposite sides, None for unrelated values."""
        (a, sign_a), (b, sign_b) = self._find(one), self._find(other)
        return sign_a * sign_b if a == b else None

    def contradicts(self, one: Hashable) -> bool:
        """Return whether the statements about this value and those related to it contradict each other."""
        return self._find(one)[0] in self._contradicted

    def _find(self, key: Hashable) -> tuple[Hashable, int]:
        self._parent.setdefault(key, key)
        self._sign.setdefault(key, 1)
        path, sign = [], 1
        while self._parent[key] != key:
            path.append(key)
            key = self._parent[key]
        for child in reversed(path):  # nearest the root first
            sign *= self._sign[child]
            self._parent[child], self._sign[child] = key, sign
        return key, sign

    def _relate(self, one: Hashable, other: Hashable, sign: int) -> None:
        (a, sign_a), (b, sign_b) = self._find(one), self._find(other)
        if a == b:
            if sign_a * sign_b != sign:
                self._contradicted.add(a)
            return
        self._parent[b], self._sign[b] = a, sign_a * sign * sign_b
        if b in self._contradicted:
            self._contradicted.add(a)
