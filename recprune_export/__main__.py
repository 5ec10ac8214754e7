"""The entry point: `python -m recprune_export` and the console script."""

import sys

from recprune_export.installation import describe_missing_module, find_conflict, is_whole

INTERRUPTED = 130  # as a shell has it for a program that ended by Ctrl-C
UNUSABLE = 2  # as `UsageError`


def run() -> None:
    """Run the command line; Ctrl-C while its modules are imported ends it like one during the work."""
    try:
        if (conflict := find_conflict()) is not None:
            _exit(f"Error: {conflict}", UNUSABLE)
        from recprune_export.cli import main

        if is_whole():
            from recprune_export.distributed.command import run_command

            run_command(main, main.commands)
        else:
            main()
    except ModuleNotFoundError as error:
        if (missing := describe_missing_module(error, "recprune-export")) is None:
            raise
        _exit(f"Error: {missing}", UNUSABLE)
    except KeyboardInterrupt:
        _exit("Interrupted; nothing was left half-written.", INTERRUPTED)


def _exit(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


if __name__ == "__main__":
    run()
