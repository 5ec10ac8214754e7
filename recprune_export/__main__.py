"""The entry point: `python -m recprune_export` and the console script."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from recprune_export.installation import describe_missing_module, find_conflict, is_whole

INTERRUPTED = 130  # the exit code of a shell for a program that Ctrl-C ended
UNUSABLE = 2  # the exit code of `UsageError`


def run() -> None:
    """Run the command line; Ctrl-C during the import of modules has the same effect as during the job."""
    try:
        if (conflict := find_conflict()) is not None:
            _exit(f"Error: {conflict}", UNUSABLE)
        from recprune_export.cli import main

        try:
            if is_whole():
                from recprune_export.distributed.command import run_command

                run_command(main, main.commands)
            else:
                main()
        except SystemExit as end:
            _end_process(end.code if isinstance(end.code, int) else int(end.code is not None))
    except ModuleNotFoundError as error:
        if (missing := describe_missing_module(error, "recprune-export")) is None:
            raise
        _exit(f"Error: {missing}", UNUSABLE)
    except KeyboardInterrupt:
        _exit("Interrupted; no incomplete file was left.", INTERRUPTED)


def _end_process(code: int) -> NoReturn:
    """End the process at once, because Python needs two seconds to free the modules of PyTorch; files and threads are closed as usual."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _exit(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


if __name__ == "__main__":
    run()
