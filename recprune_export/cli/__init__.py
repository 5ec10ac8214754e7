"""The command line: thin, over functions that Python can call as well. Nothing heavy is imported before it is needed.

One file for each command; to add one, write its file and name it here.
"""

from recprune_export.cli import (
    check,
    completion,
    compress,
    doctor,
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
from recprune_export.cli.main_group import main

__all__ = [
    "check",
    "completion",
    "compress",
    "doctor",
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
