"""Small things about nodes of a graph."""

from typing import Any

from torch import fx


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return the positional arguments of a node; `fx` types each as a union of twenty classes that the schema narrows."""
    return node.args
