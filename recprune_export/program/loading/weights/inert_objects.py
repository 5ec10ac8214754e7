"""Placeholders for the classes, functions and objects of a pickle that is read without being executed."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GlobalName:
    """The name of a class or function; nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class InertObject:
    """An object that the pickle would make by calling `constructor` with `arguments`: its attributes and items by name.

    `state` is the argument that the pickle passes to `__setstate__`.
    """

    constructor: GlobalName
    arguments: tuple[Any, ...] = ()
    entries: dict[str, Any] = field(default_factory=dict, repr=False)
    state: Any = field(default=None, repr=False)

    def set_state(self, state: Any) -> None:
        """Set the attributes of a pickled object: a dict, a pair of dict and slots, or another value."""
        self.state = state
        states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for attributes in states:
            if isinstance(attributes, dict):
                self.entries.update((k, v) for k, v in attributes.items() if isinstance(k, str))

    def set_item(self, key: Any, value: Any) -> None:
        """Add an item of a pickled mapping; keys that are not strings are left out."""
        if isinstance(key, str):
            self.entries[key] = value

    def add_item(self, value: Any) -> None:
        """Add an item of a pickled sequence, under its index."""
        self.entries[str(len(self.entries))] = value
