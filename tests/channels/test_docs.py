"""The page about the channel analysis lists the operators that have rules, all of them and no others."""

from pathlib import Path

from recprune_export.channels import rules  # noqa: F401
from recprune_export.channels.walk import RULES

PAGE = Path(__file__).parents[2] / "docs" / "channel-analysis.md"


def operators() -> dict[str, list[str]]:
    """Names of the operators by the file that has their rule."""
    families: dict[str, set[str]] = {}
    for operator, function in RULES.items():
        name = operator._schema.name.removeprefix("aten::") if hasattr(operator, "_schema") else operator.__name__
        families.setdefault(function.__module__.rpartition(".")[2], set()).add(name)
    return {family: sorted(names) for family, names in sorted(families.items())}


def table() -> str:
    return "".join(f"| {family} | {', '.join(f'`{n}`' for n in names)} |\n" for family, names in operators().items())


def test_the_table_of_operators_is_complete() -> None:
    assert table() in PAGE.read_text()
