"""The type of the option `--shard i/n`."""

from typing import Any

import click

from recprune_export.errors import UsageError
from recprune_export.shard import Shard


class ShardType(click.ParamType):
    """A shard, written as `3/8`: the third of eight."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Return the shard. Fails with one sentence for invalid text."""
        if isinstance(value, Shard):
            return value
        try:
            return Shard.parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SHARD = ShardType()
