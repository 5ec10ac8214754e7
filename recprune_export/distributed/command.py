"""`run_command`: the command line in each process of torchrun."""

import os
import sys
from collections.abc import Callable, Collection

from recprune_export.distributed.ranks import started_by_torchrun

MAIN_JOB = "compress"
DIVIDED = frozenset({MAIN_JOB, "refresh", "sweep", "train"})


def run_command(main: Callable[[], None], commands: Collection[str]) -> None:
    """Call `main`: in all processes together for commands that divide rows, otherwise only in the first one."""
    if not started_by_torchrun():
        main()
    elif is_divided_command(sys.argv[1:], commands):
        from recprune_export.distributed.process_group import distributed_run

        with distributed_run():
            main()
    elif os.environ["RANK"] == "0":
        main()


def is_divided_command(arguments: list[str], commands: Collection[str]) -> bool:
    """Return whether the processes of torchrun share the work of a command; a word that is not a command starts the main job.

    >>> is_divided_command(["model.pt"], ["train"]), is_divided_command(["train", "--help"], ["train"])
    (True, False)
    """
    if not arguments or {"-h", "--help", "--version"} & set(arguments):
        return False
    name = arguments[0] if arguments[0] in commands else MAIN_JOB
    return name in DIVIDED
