"""`python -m recprune_export`: the same command line as the console script."""

from recprune_export.cli import main

main()
