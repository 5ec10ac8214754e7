"""The command line: thin, over functions that Python can call as well. Nothing heavy is imported before it is needed.

One file for each command; to add one, write its file and name it here.
"""

from recprune_export.cli import (
    check,
    compress,
    generate,
    inspect,
    pack,
    predict,
    profile,
    refresh,
    report,
    sign,
    sweep,
    train,
    verify,
)
from recprune_export.cli.group import main

__all__ = [
    "check",
    "compress",
    "generate",
    "inspect",
    "main",
    "pack",
    "predict",
    "profile",
    "refresh",
    "report",
    "sign",
    "sweep",
    "train",
    "verify",
]
