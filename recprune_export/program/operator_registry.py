"""`OPERATORS`, the registry of the rules of operators, by facet.

A rule is defined in the package that applies it, and registered here under its facet and `OpOverload`. So no package has to import a
later one, and one table shows the missing rules of each operator (docs/operators.md).
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from torch._ops import OpOverload, OpOverloadPacket

Operator = OpOverload | Callable[..., Any]  # a Python function if the graph calls one: `operator.getitem`
Rule = TypeVar("Rule", bound=Callable[..., Any])


class Facet(StrEnum):
    """A kind of rule; each comment gives the subject of the rule and the modules that define such rules."""

    CHANNELS = "channels"  # the tags of the result: channels/rules/
    CONTRACTION = "contraction"  # its axes as letters of an einsum: channels/contractions.py
    RESIZE = "resize"  # its arguments after widths change: pruning/apply/resize*.py
    ROTATION = "rotation"  # the form of a group's axis in the result: pruning/rotation/rotation_rules.py
    DECOMPOSITION = "decomposition"  # equivalent simpler operators: program/capture/passes/decompositions.py
    ONNX = "onnx"  # its translation if torch.onnx has none: onnx/translations.py


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

        Raises `ValueError` if an operator already has a rule of this facet, and `TypeError` for an operator without overload.
        """

        def register_rule(rule: Rule) -> Rule:
            for operator in operators:
                self._check_unregistered(facet, operator)
                self._rules[facet][operator] = rule
            return rule

        return register_rule

    def rules(self, facet: Facet) -> "FacetRules":
        """Return a view of the rules of a facet by operator; it includes rules that are registered later."""
        return FacetRules(lambda: self._rules[facet])

    def facets(self, operator: Operator) -> frozenset[Facet]:
        """Return the facets for which an operator has a rule."""
        return frozenset(facet for facet, rules in self._rules.items() if operator in rules)

    def operators(self) -> tuple[Operator, ...]:
        """Return every operator that has a rule, ordered by name."""
        return tuple(sorted({o for rules in self._rules.values() for o in rules}, key=name_operator))

    def missing(self, facet: Facet) -> tuple[Operator, ...]:
        """Return the operators that have a channel rule and no rule of `facet`, ordered by name."""
        return tuple(sorted(self._rules[Facet.CHANNELS].keys() - self._rules[facet].keys(), key=name_operator))

    def _check_unregistered(self, facet: Facet, operator: Operator) -> None:
        if isinstance(operator, OpOverloadPacket):
            overloads = ", ".join(f"{operator}.{overload}" for overload in operator.overloads())
            raise TypeError(f"{operator} has several overloads: register the rule for one or more of {overloads}.")
        first = self._rules[facet].get(operator)
        if first is not None:
            code = inspect.unwrap(first).__code__
            raise ValueError(
                f"{name_operator(operator)} already has a {facet} rule: `{first.__name__}`, {code.co_filename}:"
                f"{code.co_firstlineno}. Change this rule, or remove the operator from it before you register another rule."
            )


class FacetRules(Mapping[Operator, Any]):
    """A view of the rules of one facet of a registry."""

    def __init__(self, get_rules: Callable[[], Mapping[Any, Any]]) -> None:
        self._get_rules = get_rules

    def __getitem__(self, operator: Operator) -> Any:
        return self._get_rules()[operator]

    def __iter__(self) -> Iterator[Operator]:
        return iter(self._get_rules())

    def __len__(self) -> int:
        return len(self._get_rules())


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
