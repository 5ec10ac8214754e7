"""`Shard`: one of several equal parts of a list of work, for machines that share a folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from recprune_export.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """The part `index`, counted from 1, of `count` parts.

    Raises `UsageError` if there is no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"Shard {self}: the number of shards must be 1 or more.")
        if not 1 <= self.index <= self.count:
            raise UsageError(f"Shard {self}: shards are numbered from 1 to {self.count}.")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `i/n`, such as 3/8. Raises `UsageError` for other strings.

        >>> Shard.parse("3/8")
        Shard(index=3, count=8)
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise UsageError(
                f"'{text}' is not a shard: write the number of the shard and the number of shards, for example 3/8."
            )
        return cls(int(match[1]), int(match[2]))

    def select(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return the items of this shard, in their order: every `count`-th from the `index`-th on.

        Each item is in exactly one shard, and the sizes of the shards differ by at most one. Neighboring items are in different shards,
        so that work is balanced if costs increase along the list.

        >>> [Shard(index, 2).select("abcde") for index in (1, 2)]
        [('a', 'c', 'e'), ('b', 'd')]
        """
        return tuple(items[self.index - 1 :: self.count])
