"""The commands, one file each with the command and the functions that print its result."""

from recprune_export.cli.commands import (
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
    split,
    sweep,
    train,
    verify,
)

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
    "refresh",
    "report",
    "sign",
    "split",
    "sweep",
    "train",
    "verify",
]
