"""An option has one spelling, one type and one meaning in all commands."""

from collections.abc import Iterator

import click
import pytest

from recprune_export.cli import main

SHORT = {"-q": "--quiet", "-v": "--verbose", "-o": "--output", "-h": "--help"}


def list_options() -> Iterator[tuple[str, click.Option]]:
    for name, command in main.commands.items():
        yield from ((name, option) for option in command.params if isinstance(option, click.Option))


def spell(option: click.Option) -> str:
    return next(word for word in option.opts if word.startswith("--"))


def describe(option: click.Option) -> tuple[object, ...]:
    """What has to be equal: limits, defaults and the end of the help may differ."""
    kind = option.type.name.removesuffix(" range")
    choices = tuple(option.type.choices) if isinstance(option.type, click.Choice) else ()
    return option.name, tuple(sorted(option.opts)), kind, choices, option.is_flag, option.multiple, option.metavar


def test_one_spelling_has_one_type() -> None:
    kinds: dict[str, dict[tuple[object, ...], list[str]]] = {}
    for command, option in list_options():
        kinds.setdefault(spell(option), {}).setdefault(describe(option), []).append(command)
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_one_meaning_has_one_spelling() -> None:
    spellings: dict[str, set[str]] = {}
    for _, option in list_options():
        spellings.setdefault(option.help or "", set()).add(spell(option))
    assert {text: found for text, found in spellings.items() if len(found) > 1} == {}


def test_every_option_says_what_it_is() -> None:
    silent = [(n, spell(o)) for n, o in list_options() if not (o.help or "").partition("[default")[0].strip()]
    assert silent == []


def test_short_forms_are_those_of_one_option() -> None:
    found = {word: spell(o) for _, o in list_options() for word in o.opts if not word.startswith("--")}
    assert found.items() <= SHORT.items()


@pytest.mark.parametrize("name", ["--quiet", "--verbose", "--output"])
def test_common_options_have_their_short_form_everywhere(name: str) -> None:
    short = {long: word for word, long in SHORT.items()}[name]
    options = [option for _, option in list_options() if spell(option) == name]
    assert options
    assert all(short in option.opts for option in options)
