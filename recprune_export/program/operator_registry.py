"""`OPERATORS`: what is known of each operator, its facets side by side.

A rule lives in the package that needs it, and is registered here under its facet and the `OpOverload` that it describes.
So packages lower in the order of imports know nothing of those above, and one place shows what an operator still lacks.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from torch._ops import OpOverload, OpOverloadPacket

Operator = OpOverload | Callable[..., Any]  # a function of Python's where a graph calls one: `operator.getitem`
Rule = TypeVar("Rule", bound=Callable[..., Any])


class Facet(StrEnum):
    """What can be known of an operator, and where its rules are."""

    CHANNELS = "channels"  # which channels an index of the result goes with: channels/rules/
    CONTRACTION = "contraction"  # what it multiplies and sums over: channels/contractions.py
    RESIZE = "resize"  # its arguments when widths change: pruning/apply/resize*.py
    ROTATION = "rotation"  # what it does to a rotated axis: pruning/rotation/rotation_rules.py
    DECOMPOSITION = "decomposition"  # other operators that do the same: program/capture/passes/decompositions.py
    ONNX = "onnx"  # its translation where torch.onnx has none: onnx/translations.py


class OperatorRegistry:
    """Rules by facet and operator.

    >>> import operator
    >>> operators = OperatorRegistry()
    >>> @operators.register(Facet.RESIZE, operator.getitem)
    ... def output(resizing, node): ...
    >>> operators.facets(operator.getitem)
    frozenset({<Facet.RESIZE: 'resize'>})
    """

    def __init__(self) -> None:
        self._rules: dict[Facet, dict[Any, Any]] = {facet: {} for facet in Facet}

    def register(self, facet: Facet, *operators: Operator) -> Callable[[Rule], Rule]:
        """Return a decorator that registers a function as the rule of each of `operators`.

        Raises `ValueError` where an operator has a rule of this facet, and `TypeError` for an operator without an overload.
        """

        def register_rule(rule: Rule) -> Rule:
            for operator in operators:
                self._refuse(facet, operator)
                self._rules[facet][operator] = rule
            return rule

        return register_rule

    def rules(self, facet: Facet) -> "FacetRules":
        """Return the rules of a facet by operator, those that are registered later included."""
        return FacetRules(lambda: self._rules[facet])

    def facets(self, operator: Operator) -> frozenset[Facet]:
        """Return the facets that are known of an operator."""
        return frozenset(facet for facet, rules in self._rules.items() if operator in rules)

    def operators(self) -> tuple[Operator, ...]:
        """Return every operator of which something is known, by name."""
        return tuple(sorted({o for rules in self._rules.values() for o in rules}, key=name_operator))

    def missing(self, facet: Facet) -> tuple[Operator, ...]:
        """Return the operators that have a channel rule and no rule of `facet`, by name."""
        return tuple(sorted(self._rules[Facet.CHANNELS].keys() - self._rules[facet].keys(), key=name_operator))

    def _refuse(self, facet: Facet, operator: Operator) -> None:
        if isinstance(operator, OpOverloadPacket):
            overloads = ", ".join(f"{operator}.{overload}" for overload in operator.overloads())
            raise TypeError(
                f"{operator} is a name of several overloads: register the rule for one or more of {overloads}."
            )
        first = self._rules[facet].get(operator)
        if first is not None:
            code = first.__code__
            raise ValueError(
                f"{name_operator(operator)} has a {facet} rule already: `{first.__name__}`, {code.co_filename}:"
                f"{code.co_firstlineno}. Change that rule, or remove the operator from it before another is registered."
            )


class FacetRules(Mapping[Operator, Any]):
    """The rules of one facet of a registry, as they are at the moment."""

    def __init__(self, look: Callable[[], Mapping[Any, Any]]) -> None:
        self._look = look

    def __getitem__(self, operator: Operator) -> Any:
        return self._look()[operator]

    def __iter__(self) -> Iterator[Operator]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())


OPERATORS = OperatorRegistry()


def name_operator(operator: Operator) -> str:
    """Return an operator's name with its overload.

    >>> import operator
    >>> name_operator(operator.getitem)
    'operator.getitem'
    """
    return (
        str(operator) if isinstance(operator, OpOverload) else f"{operator.__module__.lstrip('_')}.{operator.__name__}"
    )
