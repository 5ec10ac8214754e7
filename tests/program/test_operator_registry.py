"""docs/operators.md lists the rules of every operator, and marks the missing ones.

`python -m tests.program.test_operator_registry` rewrites the page.
"""

import operator as python_operator
from pathlib import Path

import pytest
import torch
from torch import fx

from recprune_export.channels import rules as channel_rules
from recprune_export.onnx import translations
from recprune_export.program import OPERATORS, Facet
from recprune_export.program.capture.passes import decompositions
from recprune_export.program.operator_registry import Operator, OperatorRegistry, name_operator
from recprune_export.pruning.apply import _apply_plan
from recprune_export.pruning.rotation import rotation_rules, rotation_walk

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
REGISTERING = (channel_rules, _apply_plan, rotation_rules, decompositions, translations)  # their import registers rules
aten = torch.ops.aten

BEGINNING = """\
# Operators

The rules of each operator; [how to add one](extending/operator-rule.md).
`python -m tests.program.test_operator_registry` writes this page, and the test in the same file compares it with the code.

- *channels*: the file of `channels/rules/` with the rule of its tags. An operator without one freezes the tags of its
  inputs.
- *resize*: "rule" if its arguments name sizes, positions or counts of channels (`pruning/apply/`). Otherwise its arguments
  are copied.
- *rotation*: "rule" if a group that is rotated may pass it, "ruled out" if none may, "**missing**" if it has no rule: then
  no group that reaches it is rotated (`pruning/rotation/rotation_rules.py`).
- *decomposition*: "yes" if simpler operators replace it before the analysis
  (`program/capture/passes/decompositions.py`).
- *ONNX*: "rule" if torch.onnx has no translation (`onnx/translations.py`).
"""


def facet_cells(operator: Operator) -> list[str]:
    """Cells of the row of an operator."""
    rules = {facet: OPERATORS.rules(facet).get(operator) for facet in Facet}
    channels, rotation = rules[Facet.CHANNELS], rules[Facet.ROTATION]
    missing = "**missing**" if channels else ""
    return [
        f"`{name_operator(operator).removeprefix('aten.')}`",
        channels.__module__.rpartition(".")[2] if channels else "",
        "rule" if rules[Facet.RESIZE] else "",
        missing if rotation is None else "ruled out" if rotation is rotation_walk.rule_out_all else "rule",
        "yes" if rules[Facet.DECOMPOSITION] else "",
        "rule" if rules[Facet.ONNX] else "",
    ]


def page() -> str:
    """Text of docs/operators.md."""
    assert all(REGISTERING)
    header = ["operator", "channels", "resize", "rotation", "decomposition", "ONNX"]
    rows = [header, ["---"] * len(header), *map(facet_cells, OPERATORS.operators())]
    counts = ", ".join(f"{facet} {len(OPERATORS.rules(facet))}" for facet in Facet)
    missing = ", ".join(f"`{name_operator(o).removeprefix('aten.')}`" for o in OPERATORS.missing(Facet.ROTATION))
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return f"{BEGINNING}\nRules: {counts}. Without a rotation rule: {missing}.\n\n{table}"


def test_the_page_shows_the_facets_of_every_operator() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "run `python -m tests.program.test_operator_registry`"


def test_the_page_marks_every_missing_rotation_rule() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(OPERATORS.missing(Facet.CHANNELS)) == 0
    for missing in OPERATORS.missing(Facet.ROTATION):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {facet_cells(missing)[0]} |")]
        assert "**missing**" in row
    assert text.count("**missing** |") == len(OPERATORS.missing(Facet.ROTATION))


def test_the_error_for_a_second_rule_names_the_place_of_the_first_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"aten\.relu\.default already has a channels rule") as error:
        OPERATORS.register(Facet.CHANNELS, aten.relu.default)(lambda walk, node: None)
    assert "elementwise.py:" in str(error.value)
    assert "`unary`" in str(error.value)
    assert "Change this rule" in str(error.value)


def test_an_operator_is_registered_by_its_overload() -> None:
    with pytest.raises(TypeError, match=r"aten\.relu\.default"):
        OperatorRegistry().register(Facet.CHANNELS, aten.relu)(lambda walk, node: None)


def test_the_rules_of_a_facet_include_those_registered_later() -> None:
    registry = OperatorRegistry()
    rules = registry.rules(Facet.RESIZE)
    assert not rules
    assert rules.get(aten.view.default) is None

    @registry.register(Facet.RESIZE, aten.view.default, python_operator.getitem)
    def resize(resizing: object, node: fx.Node) -> fx.Node:
        return node

    assert dict(rules) == {aten.view.default: resize, python_operator.getitem: resize}
    assert registry.facets(aten.view.default) == {Facet.RESIZE}
    assert not registry.facets(aten.relu.default)
    registry.register(Facet.CHANNELS, aten.relu.default)(lambda walk, node: None)
    assert registry.missing(Facet.RESIZE) == (aten.relu.default,)
    assert registry.operators() == (aten.relu.default, aten.view.default, python_operator.getitem)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
