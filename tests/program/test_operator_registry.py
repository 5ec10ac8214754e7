"""What is known of each operator is in one table, and what is missing shows there: docs/operators.md.

`python -m tests.program.test_operator_registry` writes the table anew.
"""

import operator
from pathlib import Path

import pytest
import torch
from torch import fx

from recprune_export.channels import rules as channel_rules
from recprune_export.onnx import translations
from recprune_export.program.capture.passes import decompositions
from recprune_export.program.operator_registry import OPERATORS, Facet, Operator, OperatorRegistry, name_operator
from recprune_export.pruning.apply import apply_plan
from recprune_export.pruning.rotation import rotation_rules, rotation_walk

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
REGISTERING = (channel_rules, apply_plan, rotation_rules, decompositions, translations)  # importing these fills it
aten = torch.ops.aten

BEGINNING = """\
# Operators

What is known of each operator, facet by facet; [how to add one](extending/operator-rule.md).
`tests/program/test_operator_registry.py` writes this page (`python -m tests.program.test_operator_registry`) and holds it to the code.

- *channels*: the file of `channels/rules/` that says which channels an index of the result goes with. An operator without
  it freezes what it touches.
- *resize*: "rule" where its arguments name sizes, positions or counts of channels (`pruning/apply/`); without one it is
  copied as it is.
- *rotation*: "rule" where a rotated axis may go through it, "stops" where it is known that none can, "**missing**" where
  nobody has said: then a table that goes through it is not rotated (`pruning/rotation/rotation_rules.py`).
- *written out as others*: before the analysis (`program/capture/passes/decompositions.py`).
- *ONNX*: "rule" where torch.onnx has no translation of its own (`onnx/translations.py`).
"""


def facet_cells(known: Operator) -> list[str]:
    """Cells of the row of an operator."""
    rules = {facet: OPERATORS.rules(facet).get(known) for facet in Facet}
    channels, rotation = rules[Facet.CHANNELS], rules[Facet.ROTATION]
    missing = "**missing**" if channels else ""
    return [
        f"`{name_operator(known).removeprefix('aten.')}`",
        channels.__module__.rpartition(".")[2] if channels else "",
        "rule" if rules[Facet.RESIZE] else "",
        missing if rotation is None else "stops" if rotation is rotation_walk.rule_out_all else "rule",
        "yes" if rules[Facet.DECOMPOSITION] else "",
        "rule" if rules[Facet.ONNX] else "",
    ]


def page() -> str:
    """Text of docs/operators.md."""
    assert all(REGISTERING)
    header = ["operator", "channels", "resize", "rotation", "written out as others", "ONNX"]
    rows = [header, ["---"] * len(header), *map(facet_cells, OPERATORS.operators())]
    counts = ", ".join(f"{facet} {len(OPERATORS.rules(facet))}" for facet in Facet)
    lacking = ", ".join(f"`{name_operator(o).removeprefix('aten.')}`" for o in OPERATORS.missing(Facet.ROTATION))
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return f"{BEGINNING}\nRules: {counts}. Without a rotation rule: {lacking}.\n\n{table}"


def test_the_page_shows_the_facets_of_every_operator() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "run `python -m tests.program.test_operator_registry`"


def test_what_is_missing_of_an_operator_that_has_channels_stands_in_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(OPERATORS.missing(Facet.CHANNELS)) == 0
    for known in OPERATORS.missing(Facet.ROTATION):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {facet_cells(known)[0]} |")]
        assert "**missing**" in row
    assert text.count("**missing** |") == len(OPERATORS.missing(Facet.ROTATION))


def test_a_second_rule_is_refused_with_the_place_of_the_first_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"aten\.relu\.default has a channels rule already") as error:
        OPERATORS.register(Facet.CHANNELS, aten.relu.default)(lambda walk, node: None)
    assert "elementwise.py:" in str(error.value)
    assert "`unary`" in str(error.value)
    assert "Change that rule" in str(error.value)


def test_an_operator_is_registered_by_its_overload() -> None:
    with pytest.raises(TypeError, match=r"aten\.relu\.default"):
        OperatorRegistry().register(Facet.CHANNELS, aten.relu)(lambda walk, node: None)


def test_rules_of_a_facet_are_those_of_the_registry() -> None:
    registry = OperatorRegistry()
    rules = registry.rules(Facet.RESIZE)
    assert not rules
    assert rules.get(aten.view.default) is None

    @registry.register(Facet.RESIZE, aten.view.default, operator.getitem)
    def resize(resizing: object, node: fx.Node) -> fx.Node:
        return node

    assert dict(rules) == {aten.view.default: resize, operator.getitem: resize}
    assert registry.facets(aten.view.default) == {Facet.RESIZE}
    assert not registry.facets(aten.relu.default)
    registry.register(Facet.CHANNELS, aten.relu.default)(lambda walk, node: None)
    assert registry.missing(Facet.RESIZE) == (aten.relu.default,)
    assert registry.operators() == (aten.relu.default, aten.view.default, operator.getitem)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
