"""The options of commands with many of them are listed in groups."""

import click
import pytest
from click.testing import CliRunner

from recprune_export.cli import main
from recprune_export.cli.option_groups import OPTION_GROUPS, GroupedCommand

GROUPED = sorted(name for name, command in main.commands.items() if isinstance(command, GroupedCommand))


def test_the_commands_of_a_job_are_grouped() -> None:
    assert {"compress", "sweep", "train", "refresh", "reapply"} <= set(GROUPED)


@pytest.mark.parametrize("name", GROUPED)
def test_each_option_is_in_one_group(name: str) -> None:
    grouped = [option for names in OPTION_GROUPS.values() for option in names]
    options = [option.name for option in main.commands[name].params if isinstance(option, click.Option)]
    assert len(grouped) == len(set(grouped))
    assert set(options) <= set(grouped)


@pytest.mark.parametrize("name", GROUPED)
def test_help_shows_every_option_under_its_group(name: str) -> None:
    lines = CliRunner().invoke(main, [name, "--help"]).output.splitlines()
    titles = [line.removesuffix(" options:") for line in lines if line.endswith(" options:")]
    known = [{"Fine-tuning": "Training"}.get(title, title) if name == "train" else title for title in OPTION_GROUPS]
    assert titles == [title for title in known if title in titles]
    shown = [line.split()[0].rstrip(",") for line in lines if line.startswith("  -")]
    options = [option for option in main.commands[name].params if isinstance(option, click.Option)]
    for option in options:
        assert len({*option.opts, *option.secondary_opts} & set(shown)) == 1, option.name


@pytest.mark.parametrize("name", ["train", "compress", "sweep", "refresh", "reapply"])
def test_commands_that_read_rows_for_training_can_keep_them_in_files(name: str) -> None:
    options = {option.name: option for option in main.commands[name].params}
    stream, readers = options["stream"], options["readers"]
    assert stream.opts == ["--stream"]
    assert stream.secondary_opts == ["--no-stream"]
    assert (stream.default, readers.default) == (None, 0)
