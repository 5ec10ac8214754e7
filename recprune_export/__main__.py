"""`python -m recprune_export` is the command `recprune-export`."""

from recprune_export.cli import main

main()
