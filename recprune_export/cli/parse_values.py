"""Parse the values of options."""

import json
from pathlib import Path
from typing import Any

import click


def model_source(
    factory: str | None, factory_args: str | None, inputs: Path | None, unsafe_unpickle: bool, key: str | None
) -> dict[str, Any]:
    """Return the keyword arguments of `load_program` for opening a model file."""
    return {
        "factory": factory,
        "factory_args": parse_json_object(factory_args),
        "inputs": inputs,
        "unsafe_unpickle": unsafe_unpickle,
        "key": key,
    }


def parse_json_object(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not valid JSON.", param_hint="--factory-args") from error
    if not isinstance(values, dict):
        raise click.BadParameter("Give a JSON object of keyword arguments.", param_hint="--factory-args")
    return values


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list.

    >>> parse_names("score, probability")
    ('score', 'probability')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_fractions(text: str, option: str, *, allow_none: bool = False, allow_zero: bool = True) -> tuple[float, ...]:
    if allow_none and text.strip() == "none":
        return ()
    try:
        values = tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise click.BadParameter(
            f"'{text}' is not a list of numbers; write for example 0.5,0.7.", param_hint=option
        ) from error
    if not values or not all((value >= 0.0 if allow_zero else value > 0.0) and value < 1.0 for value in values):
        raise click.BadParameter(f"Each value must be in {'[' if allow_zero else '('}0, 1).", param_hint=option)
    return values


def parse_integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise click.BadParameter(
            f"'{text}' is not a list of numbers; write for example 256,128.", param_hint=option
        ) from error
