"""The commands; each file contains one command and the functions that print its result.

The commands in `WHOLE_TOOL_COMMANDS` need parts that recprune-export-runtime lacks, and are not imported there.
"""

from recprune_export.cli.commands import (
    check,
    completion,
    doctor,
    inspect,
    pack,
    predict,
    profile,
    report,
    sign,
    verify,
)
from recprune_export.installation import is_whole

if is_whole():
    from recprune_export.cli.commands import compress, generate, reapply, refresh, split, sweep, train

__all__ = [
    "check",
    "completion",
    "compress",
    "doctor",
    "generate",
    "inspect",
    "pack",
    "predict",
    "profile",
    "reapply",
    "refresh",
    "report",
    "sign",
    "split",
    "sweep",
    "train",
    "verify",
]
