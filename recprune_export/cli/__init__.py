"""The command line: options in, tables or JSON out, on top of functions of the Python API.

Heavy modules are imported only when they are needed. To add a command, write its file in `commands/` and list it there.
"""

from recprune_export.cli import commands
from recprune_export.cli.main_group import main

__all__ = ["commands", "main"]
