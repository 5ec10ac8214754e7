"""The entry point: `python -m recprune_export` and the console script."""

import sys

INTERRUPTED = 130  # as a shell has it for a program that ended by Ctrl-C


def run() -> None:
    """Run the command line; Ctrl-C while its modules are imported ends it like one during the work."""
    try:
        from recprune_export.cli import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; nothing was left half-written.\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
