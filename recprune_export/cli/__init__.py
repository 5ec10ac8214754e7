"""The command line: options in, tables or JSON out, over functions that Python can call as well.

Nothing heavy is imported before it is needed. To add a command, write its file in `commands/` and name it there.
"""

from recprune_export.cli import commands
from recprune_export.cli.main_group import main

__all__ = ["commands", "main"]
