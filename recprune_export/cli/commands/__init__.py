"""The commands, one file each with the command and the functions that print its result.

Those of `WHOLE_TOOL_COMMANDS` need the parts that recprune-export-runtime lacks, and are not imported there.
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
