import click
import pytest
from click.testing import CliRunner

from recprune_export.cli.shard_type import SHARD
from recprune_export.shard import Shard


@click.command()
@click.option("--shard", type=SHARD, default=None)
def show(shard: Shard | None) -> None:
    click.echo(repr(shard))


@pytest.mark.parametrize(
    ("words", "printed"),
    [([], "None"), (["--shard", "3/8"], "Shard(index=3, count=8)"), (["--shard=1/1"], "1, count=1")],
)
def test_a_shard_or_none(words: list[str], printed: str) -> None:
    done = CliRunner().invoke(show, words)
    assert done.exit_code == 0
    assert printed in done.stdout


@pytest.mark.parametrize("text", ["0/8", "9/8", "a/b", "3"])
def test_another_text_is_a_usage_error_that_names_the_option(text: str) -> None:
    done = CliRunner().invoke(show, ["--shard", text])
    assert done.exit_code == 2
    assert "Invalid value for '--shard'" in done.stderr
    assert text in done.stderr
